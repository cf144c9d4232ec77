"""A file is whole or absent, whatever the disk says."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from robolearn.core.errors import UserError
from robolearn.core.files import append_line, write_atomic


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two" and len(list(path.parent.iterdir())) == 1


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(("code", "expected"), [(errno.ENOSPC, "disk full: 0.0 MiB needed, .* MiB free"), (errno.EIO, "cannot write")])
def test_a_failed_write_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, expected: str
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(UserError, match=expected):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/x: cannot write: Not a directory|file/x: cannot write: File exists"):
        write_atomic(tmp_path / "file" / "x", b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_log_on_a_full_disk_is_named() -> None:
    with pytest.raises(UserError, match=r"/dev/full: disk full: 0\.0 MiB needed, .* MiB free"):
        append_line(Path("/dev/full"), "x")
