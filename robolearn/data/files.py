"""Where the bytes of a store lie: a folder, or an object store behind s3://, gs:// or http(s)://, read by tensorstore's drivers."""

from __future__ import annotations

import errno
import os
import re
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable
from urllib.parse import urlsplit

from robolearn.core.errors import UserError

REMOTE = ("s3", "gs", "http", "https")
ADVISES = hasattr(os, "posix_fadvise")
OPEN_FILES = 512
T = TypeVar("T")


@runtime_checkable
class Files(Protocol):
    """Named byte strings below one place. Safe to use from several threads."""

    url: str

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """Whole files; None where there is none."""
        ...

    def read_ends(self, keys: Sequence[str], size: int) -> list[bytes | None]:
        """The last `size` bytes of each (all of a shorter one); None where there is none."""
        ...

    def read_parts(self, parts: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """(key, offset, length) each; shorter where the file ends before, empty where there is none."""
        ...


def open_files(place: str | Path) -> Files:
    """A folder's path or a URL. UserError: a scheme that is not read here."""
    place, scheme = as_url(place), scheme_of(place)
    if not scheme:
        return LocalFiles(Path(place))
    if scheme not in REMOTE:
        raise UserError(f"{place}: scheme {scheme!r}; valid: a path, {', '.join(f'{s}://' for s in REMOTE)}")
    return RemoteFiles(place.rstrip("/"))


def as_url(place: str | Path) -> str:
    return re.sub(r"^(\w{2,}):/(?=[^/])", r"\1://", str(place))  # pathlib makes one slash of two


def scheme_of(place: str | Path) -> str:
    """ "s3", "http", ...; empty for a path."""
    return urlsplit(place).scheme if "://" in (place := as_url(place)) else ""


class LocalFiles:
    """A folder. Files stay open, the oldest are let go; pread, because a mapped file that is cut short kills us."""

    def __init__(self, path: Path) -> None:
        self.url, self._path = str(path), path.absolute()  # the program may change its folder
        self._open: OrderedDict[str, _Descriptor] = OrderedDict()
        _all.add(self)

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        return [self._whole(key) for key in keys]

    def read_ends(self, keys: Sequence[str], size: int) -> list[bytes | None]:
        found: list[bytes | None] = []
        for key in keys:
            file = self._file(key)
            found.append(None if file is None else os.pread(file.number, size, max(os.fstat(file.number).st_size - size, 0)))
        return found

    def read_parts(self, parts: Sequence[tuple[str, int, int]]) -> list[bytes]:
        files = [self._file(key) for key, _, _ in parts]
        if ADVISES:  # the disk works on all of them while the first is waited for
            for file, (_, at, size) in zip(files, parts, strict=True):
                if file is not None:
                    os.posix_fadvise(file.number, at, size, os.POSIX_FADV_WILLNEED)
        return [b"" if file is None else os.pread(file.number, size, at) for file, (_, at, size) in zip(files, parts, strict=True)]

    def _whole(self, key: str) -> bytes | None:
        return self._there(key, lambda: (self._path / key).read_bytes())

    def _file(self, key: str) -> _Descriptor | None:
        file = self._open.get(key)
        if file is None:
            file = self._there(key, lambda: _Descriptor(self._path / key))
            if file is None:
                return None
            self._open[key] = file
            while len(self._open) > OPEN_FILES:
                with suppress(KeyError):  # another thread was quicker
                    self._open.popitem(last=False)
        return file

    def _there(self, key: str, call: Callable[[], T]) -> T | None:
        """None where there is no such file. UserError: there is one, and it cannot be read."""
        try:
            try:
                return call()
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
                for files in list(_all):  # the process may open no more: every store lets go of what it holds
                    files._open.clear()
                return call()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(f"{self.url}/{key}: cannot be read: {error.strerror}") from error


_all: weakref.WeakSet[LocalFiles] = weakref.WeakSet()


class _Descriptor:
    """An open file that closes when nobody uses it any more: a thread may still read what the others have let go."""

    __slots__ = ("number",)

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if (number := getattr(self, "number", None)) is not None:
            os.close(number)


class RemoteFiles:
    """An object store. S3 takes its keys and region from the usual AWS variables, and another server from AWS_ENDPOINT_URL."""

    def __init__(self, url: str) -> None:
        import tensorstore

        self.url = url
        self._store: Any = self._guard(lambda: tensorstore.KvStore.open(_kvstore(url)).result())

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        return self._fetch([(key, None) for key in keys])

    def read_ends(self, keys: Sequence[str], size: int) -> list[bytes | None]:
        return self._fetch([(key, slice(-size, None)) for key in keys])

    def read_parts(self, parts: Sequence[tuple[str, int, int]]) -> list[bytes]:
        return [data or b"" for data in self._fetch([(key, slice(at, at + size)) for key, at, size in parts])]

    def _fetch(self, asked: Sequence[tuple[str, slice | None]]) -> list[bytes | None]:
        def all_at_once() -> list[Any]:
            futures = [self._store.read(key, byte_range=part) if part else self._store.read(key) for key, part in asked]
            return [future.result() for future in futures]

        return [bytes(found.value) if found.state == "value" else None for found in self._guard(all_at_once)]

    def _guard(self, call: Any) -> Any:
        try:
            return call()
        except (ValueError, OSError) as error:  # tensorstore reports everything as ValueError
            line = re.split(r" \[(?:source locations|tensorstore_spec)", " ".join(str(error).split()))[0]
            raise UserError(f"{self.url}: cannot be read: {line}") from error


def _kvstore(url: str) -> dict[str, Any]:
    """tensorstore's description of a place."""
    parts = urlsplit(url)
    path = parts.path.strip("/") + "/"
    if parts.scheme in ("http", "https"):
        return {"driver": "http", "base_url": f"{parts.scheme}://{parts.netloc}", "path": f"/{path}"}
    if parts.scheme == "gs":
        return {"driver": "gcs", "bucket": parts.netloc, "path": path}
    spec: dict[str, Any] = {"driver": "s3", "bucket": parts.netloc, "path": path}
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        spec["endpoint"] = endpoint
        spec["aws_region"] = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return spec
