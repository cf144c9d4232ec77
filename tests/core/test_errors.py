"""One line and an exit code for what a user can mend; a traceback for what only a programmer can."""

from __future__ import annotations

import errno

import pytest

from hardware.types import HardwareError
from robolearn.core.errors import UserError, explain


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (UserError("a.yaml: seed: 'x'\n is not valid"), "robolearn: error: a.yaml: seed: 'x' is not valid", 2),
        (HardwareError("rate_hz: 0 Hz"), "robolearn: error: rate_hz: 0 Hz", 2),
        (KeyboardInterrupt(), "robolearn: stopped; the same command resumes", 130),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "robolearn: error: /x/y: no space left on device", 2),
        (OSError(errno.EFBIG, "File too large"), "robolearn: error: disk: no space left on device", 2),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "robolearn: error: /x/y: Permission denied", 2),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/x"), "robolearn: error: /x: Is a directory", 2),
        (ImportError("libGL.so.1: cannot open shared object file"), "apt-get install libegl1 libgl1", 2),
        (AttributeError("'NoneType' object has no attribute 'eglQueryString'"), "apt-get install libegl1", 2),
        (ImportError("Cannot initialize a EGL device display."), "apt-get install libegl1", 2),
        (OSError("libglib-2.0.so.0: cannot open shared object file"), "libglib2.0-0", 2),
    ],
)
def test_what_a_user_can_mend(error: BaseException, line: str, code: int) -> None:
    found = explain(error)
    assert found is not None
    assert line in found[0] and found[1] == code and "\n" not in found[0]


@pytest.mark.parametrize(
    "error", [ValueError("x"), AttributeError("'A' has no attribute 'b'"), OSError(errno.EIO, "broken"), ImportError("torch")]
)
def test_defects_keep_their_traceback(error: BaseException) -> None:
    assert explain(error) is None


def test_what_a_file_is_called_cannot_steer_the_terminal():
    said = str(UserError("\x1b[2Jx\ny \udcff: é"))
    assert said == "\\x1b[2Jx y \\udcff: é" and said.isprintable()
