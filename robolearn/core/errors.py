"""Errors a user can mend, and the one place that turns an exception into one line."""

from __future__ import annotations

import errno
import re

from hardware.types import HardwareError

NO_GL = re.compile(r"lib(EGL|GLX?|OpenGL|OSMesa|glib|gthread)[-.\w]*\.so|\begl(QueryString|GetDisplay|Initialize)|EGL device|OSMesa")
_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)  # the wrong path, not a defect
GL_PACKAGES = "libegl1 libgl1 libglx-mesa0 libgl1-mesa-dri libglib2.0-0"


def one_line(text: str) -> str:
    """Text from anywhere as a terminal may see it: breaks become spaces, what cannot be printed its escape (a file may hold any name)."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split()))


class UserError(Exception):
    """Wrong input: one line that names the file, the field, the unit and the valid choices. The CLI exits with 2."""

    def __str__(self) -> str:
        return one_line(super().__str__())


def require_at_least(name: str, value: float, least: float, unit: str) -> None:
    """UserError unless `value` of the field `name` is `least` [unit] or more."""
    if not value >= least:
        raise UserError(f"{name}: {value} {unit}; expected at least {least}")


def require_positive(name: str, value: float, unit: str) -> None:
    """UserError unless `value` of the field `name` is above 0 [unit]."""
    if not value > 0:
        raise UserError(f"{name}: {value} {unit}; expected more than 0")


def require_share(name: str, value: float) -> None:
    """UserError unless `value` of the field `name` lies between 0 and 1."""
    if not 0 <= value <= 1:
        raise UserError(f"{name}: {value}; expected 0 to 1")


def explain(error: BaseException) -> tuple[str, int] | None:
    """(one line, exit code) for everything that is not a defect of this program; None where a traceback is due."""
    if isinstance(error, UserError | HardwareError):
        return f"robolearn: error: {' '.join(str(error).split())}", 2
    if isinstance(error, KeyboardInterrupt):
        return "robolearn: stopped; the same command resumes", 130
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"robolearn: error: {error.filename or 'disk'}: no space left on device; free some and run the same command again", 2
    if isinstance(error, OSError) and error.filename and error.errno in _PLACE:
        return f"robolearn: error: {error.filename}: {error.strerror}", 2
    # Loaders of GL report a missing library as almost any exception, so the message decides.
    if isinstance(error, ImportError | OSError | AttributeError | RuntimeError) and NO_GL.search(str(error)):
        return f"robolearn: error: no headless OpenGL library ({' '.join(str(error).split())}); Debian: apt-get install {GL_PACKAGES}", 2
    return None
