"""The bytes of a pickle as its operations, every protocol's. Nothing is built here, and no claimed length allocates anything."""

from __future__ import annotations

import codecs
import mmap
import pickletools
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from robolearn.core.errors import UserError

Buffer = bytes | mmap.mmap
MAPPED_ABOVE = 1 << 30  # bytes; TOTO with embeddings has several times that

# How an operation's argument lies in the file, by the names pickletools gives: fixed, a length before it, or a line of text.
_FIXED = {"uint1": "<B", "uint2": "<H", "int4": "<i", "uint4": "<I", "uint8": "<Q", "float8": ">d"}
_OPCODES = {ord(op.code): (op.name, op.arg.name if op.arg else None) for op in pickletools.opcodes}


def file_bytes(path: Path, most: int | None = None) -> Buffer:
    """The file's bytes, or its first `most`. UserError: empty, or no file at all."""
    if not path.is_file():  # a pipe would wait for ever
        raise UserError("no such file")
    with path.open("rb") as file:
        # Mapped only where it must be: a mapped file that another program cuts short ends the interpreter.
        if most is None and path.stat().st_size > MAPPED_ABOVE:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        data = file.read(most)
    if not data:
        raise UserError("is empty")
    return data


def operations(data: Buffer, longest_text: int | None = None) -> Iterator[tuple[str, Any]]:
    """(operation, its argument) up to STOP. Bytes come as memoryviews of `data`; what is longer than `longest_text` as None, not decoded.

    ValueError, LookupError, struct.error: damaged.
    """
    view, at, end = memoryview(data), 0, len(data)
    longest = end if longest_text is None else longest_text
    while True:
        name, kind = _OPCODES[view[at]]
        at += 1
        argument: Any = None
        if kind is None:
            pass
        elif form := _FIXED.get(kind):
            (argument,) = struct.unpack_from(form, data, at)
            at += struct.calcsize(form)
        elif sized := _SIZED.get(kind):
            form, decode = sized
            (length,) = struct.unpack_from(form, data, at)
            at += struct.calcsize(form)
            if not 0 <= length <= end - at:
                raise ValueError(f"{name} at byte {at} claims {length} bytes; {end - at} are left")
            if length <= longest:
                argument = decode(view[at : at + length])
            at += length
        else:
            lines = []
            for _ in range(2 if kind == "stringnl_noescape_pair" else 1):
                stop = data.find(b"\n", at)
                if stop < 0:
                    raise ValueError(f"the line at byte {at} does not end")
                lines.append(data[at:stop] if stop - at <= longest else None)
                at = stop + 1
            argument = None if None in lines else _LINES[kind](*lines)
        yield name, argument
        if name == "STOP":
            return


def _latin1(data: memoryview) -> str:
    return str(data, "latin1")


def _utf8(data: memoryview) -> str:
    return str(data, "utf8", "surrogatepass")


def _signed(data: memoryview) -> int:
    return int.from_bytes(data, "little", signed=True)


def _view(data: memoryview) -> memoryview:
    return data


_SIZED: dict[str, tuple[str, Callable[[memoryview], Any]]] = {
    **{f"bytes{size}": (form, _view) for size, form in ((1, "<B"), (4, "<I"), (8, "<Q"))},
    **{f"unicodestring{size}": (form, _utf8) for size, form in ((1, "<B"), (4, "<I"), (8, "<Q"))},
    **{f"string{size}": (form, _latin1) for size, form in ((1, "<B"), (4, "<i"))},
    **{f"long{size}": (form, _signed) for size, form in ((1, "<B"), (4, "<i"))},
    "bytearray8": ("<Q", _view),
}


def _quoted(line: bytes) -> str:
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
        raise ValueError("a text without quotes")
    text: Any = line[1:-1]
    if b"\\" in text:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that mean nothing
            text = codecs.escape_decode(text)[0]
    return text.decode("latin1")


def _decimal(line: bytes) -> int:
    """Protocol 0 writes False as 00 and True as 01."""
    return line == b"01" if line in (b"00", b"01") else int(line.removesuffix(b"L"))


_LINES: dict[str, Callable[..., Any]] = {
    "stringnl": _quoted,
    "stringnl_noescape": lambda line: line.decode("latin1"),
    "stringnl_noescape_pair": lambda module, name: (module.decode("latin1"), name.decode("latin1")),
    "unicodestringnl": lambda line: line.decode("raw-unicode-escape"),
    "decimalnl_short": _decimal,
    "decimalnl_long": _decimal,
    "floatnl": float,
}
