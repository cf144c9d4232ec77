"""Files that are either whole or absent."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from robolearn.core import disk
from robolearn.core.errors import UserError

MIB = 2**20
HALF = ".*.tmp"  # what `write_atomic` calls a file that is not whole yet


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` so that a reader, a crash or a full disk never meets half a file.

    Raises UserError (no space, no permission); what stood at `path` before is then untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        disk.replace(path, data)
    except OSError as error:
        raise _refusal(path, error, len(data)) from error


def drop_halves(folder: Path) -> None:
    """Remove what `write_atomic` had begun in this folder when its process was killed."""
    for path in folder.glob(HALF):
        if path.is_file():
            path.unlink()


def append_line(path: Path, line: str) -> None:
    """Add one line to a log. Raises UserError; half a line may then stand at the end, which whoever resumes drops."""
    data = (line + "\n").encode()
    try:
        with open(path, "ab") as file:
            file.write(data)
    except OSError as error:
        raise _refusal(path, error, len(data)) from error


def free_mib(path: Path) -> float:
    """Free space [MiB] where `path` lies or would lie."""
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free / MIB


def require_free(path: Path, needed_mib: float) -> None:
    """Refuse to start what cannot end: UserError where less than `needed_mib` MiB is free at `path`."""
    free = free_mib(path)
    if free < needed_mib:
        raise UserError(f"{path}: disk full: {needed_mib:.0f} MiB needed, {free:.0f} MiB free")


def require_outside(out: Path, data: Path) -> None:
    """UserError where the folder `out` would lie inside the dataset `data`, which nothing else may stand in."""
    if data.is_dir() and out.resolve().is_relative_to(data.resolve()):
        raise UserError(f"out: {out}: lies inside the dataset {data}; expected a folder of its own")


def _refusal(path: Path, error: OSError, size: int) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"{path}: disk full: {size / MIB:.1f} MiB needed, {free_mib(path):.1f} MiB free")
    return UserError(f"{path}: cannot write: {error.strerror}")
