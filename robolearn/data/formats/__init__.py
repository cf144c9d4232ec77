"""Everyone's files: one module for each format, `matches(path) -> bool` and `read(path) -> (RobotSpec, Iterator[Episode])`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

from hardware.types import RobotSpec
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode

FORMATS = tuple(sorted(module.name for module in iter_modules(__path__)))


def locate(path: str | Path, format: str | None = None) -> tuple[Path, str]:
    """(the dataset, its format): `path` itself, or the one dataset in the folder `path`, up to two levels down. Told by content.

    UserError: nothing there, not recognised, more than one, unknown `format`.
    """
    path = Path(path)
    if format is not None and format not in FORMATS:
        raise UserError(f"format: {format!r}; valid: {', '.join(FORMATS)}")
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    names = [format] if format else FORMATS
    for depth in ("", "*", "*/*"):
        candidates = sorted(path.glob(depth)) if depth and path.is_dir() else [path]
        found = [(candidate, name) for candidate in candidates for name in names if _module(name).matches(candidate)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(
                f"{path}: holds {len(found)} datasets ({', '.join(str(c.relative_to(path)) for c, _ in found)}); name one of them"
            )
    raise UserError(f"{path}: not in a format that is read here; valid: {', '.join(names)}")


def recognise(path: str | Path) -> str:
    """The format's name."""
    return locate(path)[1]


def read(path: str | Path, format: str | None = None) -> tuple[RobotSpec, Iterator[Episode]]:
    """Open a dataset in any known format. The iterator may know how many episodes are left (operator.length_hint)."""
    where, name = locate(path, format)
    return _module(name).read(where)


def _module(name: str) -> ModuleType:
    return import_module(f"{__name__}.{name}")  # only now: h5py, simulators and codecs are for those who need them
