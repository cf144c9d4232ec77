"""HDF5 from strangers: nothing outside the file is followed, and nothing is read before its size is known.

libhdf5 opens whatever a file names. Links, external storage and virtual datasets may point to any path, soft links may run in
circles, and a header may claim terabytes: all of that is refused here, in one line that names the object.
"""

from __future__ import annotations

import io
import math
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from robolearn.core.errors import UserError
from robolearn.data.formats._image import decode_images, image_size
from robolearn.data.formats._reader import require_memory

MAX_LINKS = 16  # soft links in a row; libhdf5's own limit
MAX_RATIO = 2000  # bytes read for one stored; deflate ends at 1032
SMALL = 1 << 26  # bytes; below it the ratio is no matter
MAX_PIECES = 10_000  # chunks; below it their number is no matter
MAX_ATTRIBUTE = 1 << 24  # bytes
_PLAIN_TYPES = (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING, h5py.h5t.ENUM)


class Group:
    """A group of an untrusted file. Paths are relative, as "obs/agentview_image"; links lead nowhere but inside the file."""

    def __init__(self, node: h5py.Group) -> None:
        self._node = node
        self.name = str(node.name)

    def __contains__(self, path: str) -> bool:
        return self._find(path) is not None

    def names(self) -> list[str]:
        """What it holds, demo_2 before demo_10. UserError: a name that no file or line of text could bear."""
        found = sorted(map(str, self._node), key=lambda name: (len(name), name))
        for name in found:
            if not name.isprintable() or set(name) <= {"."}:
                raise UserError(f"{self._at('')}: holds an object named {name!r}; refused")
        return found

    def is_group(self, path: str) -> bool:
        return isinstance(self._find(path), h5py.Group)

    def group(self, path: str) -> Group:
        """UserError: missing, or no group."""
        node = self._find(path)
        if not isinstance(node, h5py.Group):
            raise self._missing(path, node, "a group")
        return Group(node)

    def dataset(self, path: str) -> h5py.Dataset:
        """For its shape and dtype, and for reading rows of it. UserError: missing, its values lie elsewhere, or it claims too much."""
        node = self._find(path)
        if not isinstance(node, h5py.Dataset):
            raise self._missing(path, node, "a dataset")
        if node.is_virtual or node.external:
            raise UserError(f"{self._at(path)}: its values lie in other files; refused")
        plan = node.id.get_create_plist()
        for code, _, _, text in (plan.get_filter(i) for i in range(plan.get_nfilters())):
            if not h5py.h5z.filter_avail(code):
                raise UserError(f"{self._at(path)}: compressed with filter {code} {text!r}, unknown here; rewrite it: h5repack -f GZIP=4")
        kind = node.id.get_type()
        # 0: a sequence. libhdf5 2.0 crashes on what varies in length and is neither that nor text.
        if kind.get_class() == h5py.h5t.VLEN and kind.encode()[3] & 15:
            raise UserError(f"{self._at(path)}: its type is damaged")
        if node.shape is None:
            raise UserError(f"{self._at(path)}: is empty")
        require_memory(f"a chunk of {self._at(path)}", node.chunks or (), node.dtype.itemsize)
        claimed, stored = math.prod(node.shape) * node.dtype.itemsize, node.id.get_storage_size()
        if claimed > max(SMALL, MAX_RATIO * stored):
            raise UserError(f"{self._at(path)}: shape {node.shape} claims {claimed} bytes, {stored} are stored; refused")
        pieces = math.prod(-(-n // c) for n, c in zip(node.shape, node.chunks or node.shape, strict=True) if c)
        if pieces > MAX_PIECES and pieces > 2 * node.id.get_num_chunks():  # libhdf5 visits each, stored or not
            raise UserError(f"{self._at(path)}: shape {node.shape} claims {pieces} chunks, {node.id.get_num_chunks()} are stored; refused")
        return node

    def array(self, path: str, rows: slice = slice(None), ndim: int | None = None) -> np.ndarray:
        """Numbers. UserError: text, references or records instead, or not `ndim` dimensions."""
        found = self.dataset(path)
        if found.dtype.kind not in "fiub":
            raise UserError(f"{self._at(path)}: is {found.dtype}; expected numbers")
        if ndim is not None and found.ndim != ndim:
            raise UserError(f"{self._at(path)}: has shape {found.shape}; expected {ndim} dimensions")
        if not found.ndim:
            return found[()]
        require_memory(self._at(path), (len(range(*rows.indices(len(found)))), *found.shape[1:]), found.dtype.itemsize)
        return found[rows]

    def scalar(self, path: str) -> Any:
        """A single number or text, as JSON data; None: something else."""
        found = self.dataset(path)
        with suppress(TypeError):
            return _plain(found[()]) if found.shape == () else None

    def text(self, path: str) -> list[str]:
        """A one-dimensional dataset of strings."""
        found = self.dataset(path)
        if found.dtype.kind not in "SO" or found.ndim != 1 or (found.dtype.kind == "O" and h5py.check_string_dtype(found.dtype) is None):
            raise UserError(f"{self._at(path)}: is {found.dtype} {found.shape}; expected a list of strings")
        return [_plain(value) for value in found[:]]

    def attributes(self) -> dict[str, Any]:
        """JSON data: bytes as text. Object references, records, damaged ones and what is too large are left out."""
        found: dict[str, Any] = {}
        for name in self._node.attrs:
            with suppress(OSError, KeyError, TypeError, ValueError, RuntimeError):
                attribute = self._node.attrs.get_id(name)
                # libhdf5 2.0 crashes on damaged types of variable length, and no tool writes more than these as attributes.
                if attribute.get_type().get_class() in _PLAIN_TYPES and attribute.get_storage_size() <= MAX_ATTRIBUTE:
                    found[name] = _plain(self._node.attrs[name])
        return found

    def _find(self, path: str) -> Any:
        """The object, by links inside this file alone; None: nothing there."""
        node: Any = self._node
        parts, hops = path.split("/"), 0
        while parts:
            name = parts.pop(0)
            if name in ("", "."):
                continue
            link = node.get(name, getlink=True) if isinstance(node, h5py.Group) and name != ".." else None
            if link is None:
                return None
            if isinstance(link, h5py.SoftLink):
                hops += 1
                if hops > MAX_LINKS:
                    raise UserError(f"{self._at(path)}: a link that leads back to itself")
                node = node.file["/"] if link.path.startswith("/") else node
                parts = link.path.split("/") + parts
            elif isinstance(link, h5py.HardLink):
                node = node[name]
            else:
                raise UserError(f"{self._at(path)}: a link to another file; refused")
        return node

    def _missing(self, path: str, node: Any, expected: str) -> UserError:
        if node is not None:
            return UserError(f"{self._at(path)}: is no{expected[1:]}")
        above, _, last = path.rstrip("/").rpartition("/")
        if above and last and self.is_group(above):
            return self.group(above)._missing(last, None, expected)
        held = self.names()
        return UserError(f"{self._at(path)}: missing; {self.name} holds {', '.join(held[:12]) or 'nothing'}{', ...' if held[12:] else ''}")

    def _at(self, path: str) -> str:
        return f"{self.name.rstrip('/')}/{path}".rstrip("/") or "/"


@contextmanager
def open_hdf5(path: Path) -> Iterator[Group]:
    """The root of a file. UserError: not HDF5, or not all of it."""
    if not path.is_file():
        raise UserError(f"{path.name}: no such file")
    with _Watched(path) as raw:
        try:
            file = h5py.File(raw, "r")
        except OSError as error:
            raise UserError(f"{path.name}: not a whole HDF5 file ({' '.join(str(error).split())})") from error
        with file:
            if file.id.get_create_plist().get_sizes() != (8, 8):
                raise UserError(f"{path.name}: its addresses are not 8 bytes long; rewrite it: h5repack")
            yield Group(file)


class _Watched(io.FileIO):
    """What libhdf5 reads through. It walks a global heap, where text and whatever else varies in length lies, without an end where a
    piece claims to be 0 bytes long (HDF5 2.0's H5HG__cache_heap_deserialize): so such pieces are looked for first.
    """

    def readinto(self, buffer: Any, /) -> int:
        view, at = memoryview(buffer).cast("B"), self.tell()
        done = 0
        while done < len(view) and (count := super().readinto(view[done:])):
            done += count
        view[done:] = bytes(len(view) - done)  # as libhdf5 itself does beyond the end
        seen = bytes(view[: 1 << 20])  # beyond that, it is no metadata
        heap = seen.find(b"GCOL\x01")
        while heap >= 0:
            self._walk(at + heap)
            heap = seen.find(b"GCOL\x01", heap + 1)
        return len(view)

    def _walk(self, at: int) -> None:
        """The pieces of the heap at byte `at`, by the format's specification (section III.E). OSError: they do not add up."""
        (size,) = struct.unpack("<Q", os.pread(self.fileno(), 8, at + 8).ljust(8, b"\0"))
        heap = os.pread(self.fileno(), min(size, 1 << 31), at)
        piece = 16
        while piece + 16 <= len(heap):
            index, length = struct.unpack_from("<H6xQ", heap, piece)
            step = 16 + (length + 7) // 8 * 8 if index else length
            if not step or step > len(heap) - piece:
                raise OSError(f"global heap at byte {at} is damaged")
            piece += step


def root_has(path: Path, test: Callable[[Group], bool]) -> bool:
    """Whether `path` is an HDF5 file whose root passes `test`. Never raises: made for `matches`."""
    with suppress(Exception):
        if path.is_file() and h5py.is_hdf5(path):
            with open_hdf5(path) as root:
                return test(root)
    return False


def rgb_size(dataset: h5py.Dataset) -> tuple[int, int] | None:
    """(height, width) [px] of colour frames, raw (T, H, W, 3) or encoded one by one; None: no such thing. Decodes no frame."""
    if dataset.ndim == 4:
        return dataset.shape[1:3] if dataset.dtype == np.uint8 and dataset.shape[3] == 3 else None
    if is_encoded(dataset) and len(dataset):
        with suppress(UserError):
            return image_size(_bytes(dataset[0]), str(dataset.name))
    return None


def is_encoded(dataset: h5py.Dataset) -> bool:
    """Whether each row could be one JPEG or PNG: its bytes, padded (T, L) or of any length (T,)."""
    if dataset.ndim == 2:
        return dataset.dtype == np.uint8
    return dataset.ndim == 1 and (dataset.dtype.kind == "S" or h5py.check_vlen_dtype(dataset.dtype) == np.uint8)


def read_rgb(dataset: h5py.Dataset, size: tuple[int, int], rows: slice = slice(None)) -> np.ndarray:
    """uint8 (T, H, W, 3): these rows' frames. UserError: another size or type, or a frame that cannot be decoded."""
    name, numbers = str(dataset.name), range(*rows.indices(len(dataset)))
    require_memory(name, (len(numbers), *size, 3))
    if is_encoded(dataset):
        found, total = [], 0
        for row in numbers:  # one by one: many rows may name the same bytes
            found.append(_bytes(dataset[row]))
            require_memory(f"the bytes of {name}", (total := total + len(found[-1]),))
        return decode_images(found, size, name)
    if dataset.dtype != np.uint8 or dataset.shape[1:] != (*size, 3):
        raise UserError(f"{name}: is {dataset.dtype} {dataset.shape}; expected uint8 (T, {size[0]}, {size[1]}, 3)")
    return dataset[rows]


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else value.tobytes()


def _plain(value: Any) -> Any:
    """A value of HDF5 as JSON data. TypeError: an object reference or a record."""
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value.tolist()]
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(type(value).__name__)
