"""What the names in a pickle make: a table of our own makers. Nothing that a file names is imported, and numpy's own `__setstate__`,
which trusts what it is given (flags that turn bytes into addresses), is never reached."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from robolearn.core.errors import UserError

WHAT_IS_READ = "only numbers, text, plain containers and numpy arrays are read, and nothing in a pickle is run"


@dataclass(frozen=True, eq=False)
class Name:
    """What stands on the stack for a global: never the thing itself. make None: it is only ever an argument."""

    name: str
    make: Callable[..., Any] | None


@dataclass(eq=False)
class Pending:
    """An array (dtype None) or a dtype between its construction and its BUILD."""

    dtype: str | None = None
    memo_keys: list[int] = field(default_factory=list)

    def build(self, state: tuple[Any, ...]) -> np.ndarray | np.dtype:
        if self.dtype is None:
            shape, dtype, fortran, raw = state[-4:]
            return array(raw, dtype, shape, "F" if fortran else "C")
        order, parts = state[1], state[2:5]
        if order not in ("<", ">", "|", "=") or parts != (None, None, None):
            raise UserError(f"has a structured numpy dtype; {WHAT_IS_READ}")
        return np.dtype(self.dtype).newbyteorder(order)


def named(module: Any, attribute: Any) -> Name:
    """UserError: not in the table."""
    if type(module) is not str or type(attribute) is not str:
        raise ValueError(f"a name made of {described(module)} and {described(attribute)}")
    name = f"{module}.{attribute}"
    if name not in _NAMES:
        raise UserError(f"names {ascii(name)[1:-1][:120]}; {WHAT_IS_READ}")
    return _NAMES[name]


def described(value: Any) -> str:
    """A value's kind in words, for messages. Never the value: a list of lists of lists may be short here and endless in print."""
    if isinstance(value, Name):
        return value.name
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def key(value: Any) -> Any:
    """A dict's key or a set's member. Hashing must neither recurse (nested tuples end the interpreter) nor collide (huge integers)."""
    members = value if isinstance(value, tuple) else (value,)
    for member in members:
        if not (member is None or isinstance(member, str | bytes | int | float | complex | np.generic | memoryview)):
            raise ValueError(f"{described(member)} as a key")
        if isinstance(member, int) and member.bit_length() > 60:
            raise ValueError("an integer above 2^60 as a key")
    return bytes(value) if isinstance(value, memoryview) else value


def dictionary(pairs: Any = ()) -> dict[Any, Any]:
    return {key(name): value for name, value in _items(pairs)}


def array(raw: Any, dtype: Any, shape: Any, order: str = "C") -> np.ndarray:
    """A view of `raw`. ValueError: its bytes are not what dtype and shape need."""
    if not isinstance(dtype, np.dtype) or not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("an array without a dtype or a shape")
    size = math.prod(shape)
    if dtype.kind == "O":
        # Bytes would be taken for addresses, and arrays of objects in one another are freed by recursion.
        if type(raw) is not list or len(raw) != size or any(isinstance(v, np.ndarray) and v.dtype.kind == "O" for v in raw):
            raise UserError(f"has an array of objects {shape[:8]} made of {described(raw)}; {WHAT_IS_READ}")
        flat = np.empty(size, object)
        for index, value in enumerate(raw):
            flat[index] = value
        return flat.reshape(shape, order=order)  # type: ignore[call-overload]
    if not isinstance(raw, str | bytes | memoryview):
        raise ValueError(f"an array made of {described(raw)}")
    data = raw.encode("latin1") if isinstance(raw, str) else raw
    if len(data) != size * dtype.itemsize:
        raise ValueError(f"an array {shape[:8]} of {dtype} has {len(data)} bytes; expected {size * dtype.itemsize}")
    flat = np.frombuffer(data, dtype, size) if data else np.empty(size, dtype)
    return flat.reshape(shape, order=order)  # type: ignore[call-overload]


def _dtype(spec: Any, *_: Any) -> Pending:
    if type(spec) is not str or not re.fullmatch(r"[<>|=]?[biufcSUO]\d{1,6}", spec):
        told = ascii(spec)[:40] if type(spec) is str else f"made of {described(spec)}"
        raise UserError(f"has the numpy dtype {told}; {WHAT_IS_READ}")
    return Pending(spec)


def _reconstruct(kind: Any, *_: Any) -> Pending:
    if kind is not _NAMES["numpy.ndarray"]:
        raise ValueError("an array that is no numpy.ndarray")
    return Pending()


def _scalar(dtype: Any, raw: Any) -> Any:
    if isinstance(dtype, np.dtype) and dtype.kind == "O":
        raise UserError(f"has a numpy scalar of objects; {WHAT_IS_READ}")
    return array(raw, dtype, (1,))[0]


def _bytes(data: Any = b"", encoding: Any = "latin1") -> bytes:
    """Of text in latin1, as protocols 0 to 2 carry bytes. Never of a number: that would be a length."""
    if encoding not in ("latin1", "latin-1") or not isinstance(data, str | bytes | memoryview):
        raise ValueError(f"bytes of {described(data)}, or in another code than latin1")
    return data.encode("latin1") if isinstance(data, str) else bytes(data)


def _items(values: Any) -> Any:
    if not isinstance(values, list | tuple):
        raise ValueError(f"a container made of {described(values)}")
    return values


_CONTAINERS: dict[str, Callable[..., Any]] = {
    "set": lambda values=(): {key(v) for v in _items(values)},
    "frozenset": lambda values=(): frozenset(key(v) for v in _items(values)),
    "list": lambda values=(): list(_items(values)),
    "tuple": lambda values=(): tuple(_items(values)),
    "dict": dictionary,
    "bytes": _bytes,
    "bytearray": _bytes,
    "complex": lambda real=0.0, imaginary=0.0: complex(float(real), float(imaginary)),
}
_MAKERS: dict[str, Callable[..., Any] | None] = {
    "numpy.ndarray": None,
    "numpy.dtype": _dtype,
    **{f"numpy.{core}.multiarray._reconstruct": _reconstruct for core in ("core", "_core")},  # numpy 1, numpy 2
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": array for core in ("core", "_core")},
    **{f"{module}.{name}": make for module in ("builtins", "__builtin__") for name, make in _CONTAINERS.items()},
    "_codecs.encode": _bytes,
    "collections.OrderedDict": dictionary,
    "collections.defaultdict": lambda _=None: {},  # its factory is not kept: a key that is missing is missing
}
_NAMES = {name: Name(name, make) for name, make in _MAKERS.items()}
