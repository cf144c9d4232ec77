"""What must survive goes to the disk through these few calls: files whole or absent, and one test can cut each call of a store short."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

Parts = Iterable[bytes | memoryview]


def write(path: Path, parts: Parts) -> None:
    """A whole new file, on the disk when this returns. Its folder is the caller's to sync.

    What the name stood for before is let go, not written into: an unfinished recording may share it (see `link`).
    """
    remove(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        write_all(descriptor, b"".join(parts))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(path: Path, data: bytes) -> None:
    """A whole file in place of another: a reader, a crash or a full disk meets the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary, [data])
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            remove(temporary)
        raise
    sync_path(path.parent)  # the rename itself must survive a power cut


def append(path: Path, at: int, data: bytes) -> None:
    """`data` from byte `at` on, on the disk when this returns; what stood beyond `at` (a torn line) goes. OSError: as it was."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(descriptor, at)
        os.lseek(descriptor, at, os.SEEK_SET)
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, at)
            raise
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """os.write may take less than it was given."""
    rest = memoryview(data)
    while len(rest):
        rest = rest[os.write(descriptor, rest) :]


def link(source: Path, target: Path) -> None:
    """The same content under a second name; by a copy where the file system knows no links."""
    remove(target)
    try:
        os.link(source, target)
    except OSError:
        write(target, [source.read_bytes()])


def open_append(path: Path) -> int:
    """A descriptor whose writes go to the end of the file, made where it is missing."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)


def sync(descriptor: int) -> None:
    os.fsync(descriptor)


def rename(source: Path, target: Path) -> None:
    os.rename(source, target)


def make_folder(path: Path) -> None:
    """FileExistsError where it exists."""
    os.mkdir(path)


def remove_folder(path: Path) -> None:
    os.rmdir(path)


def remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def sync_path(path: Path) -> None:
    """Make a file's content, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Everything below `path`."""
    for folder, _, _ in os.walk(path, topdown=False):
        sync_path(Path(folder))
