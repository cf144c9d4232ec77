"""Everyone's files: one module (or package) for each format; names that begin with "_" are what several of them share.

A format module has

    matches(path) -> bool                        told by content, cheaply; never raises
    read(path, options) -> Reader                everything wrong with the data is a UserError
    write(path, dataset) -> None                 only some: `path` does not exist yet, its parent does
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

from robolearn.core.errors import UserError
from robolearn.data.formats._reader import Dataset, Guarded, Options, Reader

__all__ = ["FORMATS", "Dataset", "Options", "Reader", "locate", "read", "recognise", "writable", "write"]

FORMATS = tuple(sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_")))


def locate(path: str | Path, format: str | None = None) -> tuple[Path, str]:
    """(the dataset, its format): `path` itself, or the one dataset in the folder `path`, up to two levels down. Told by content.

    UserError: nothing there, not recognised, more than one, unknown `format`.
    """
    path = Path(path)
    if format is not None and format not in FORMATS:
        raise UserError(f"format: {format!r}; valid: {', '.join(FORMATS)}")
    try:
        found = path.exists()
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise UserError(f"{path}: {error.strerror}") from error
    if not found:
        raise UserError(f"{path}: no such file or folder")
    names = [format] if format else FORMATS
    if (path / "episodes.jsonl").is_file() and (path / "zarr.json").is_file():
        raise UserError(f"{path}: is a store already; nothing is to be imported")
    found = [(path, name) for name in names if _matches(name, path)]
    if path.is_dir() and not found:
        for depth in ("*", "*/*"):
            fresh = [c for c in sorted(path.glob(depth)) if not any(c.is_relative_to(known) for known, _ in found)]
            found += [(candidate, name) for candidate in fresh for name in names if _matches(name, candidate)]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(f"{c.relative_to(path)} ({name})" for c, name in found[:8])
        raise UserError(f"{path}: holds {len(found)} datasets: {listed}{', ...' if len(found) > 8 else ''}; name one of them")
    if format is not None:  # whoever insists learns what is wrong with it
        return path, format
    empty = path.is_dir() and not any(path.iterdir())
    near = "; of a plain folder give the folder itself" if path.is_file() and path.suffix.lower() in (".csv", ".jsonl", ".mp4") else ""
    raise UserError(f"{path}: {'is empty' if empty else 'not in a format that is read here'}{near}; valid: {', '.join(names)}")


def recognise(path: str | Path) -> str:
    """The format's name."""
    return locate(path)[1]


def read(path: str | Path, format: str | None = None, options: Options | None = None) -> Reader:
    """Open a dataset in any known format. UserError, one line, for whatever is wrong with it, now or while episodes are read."""
    where, name = locate(path, format)
    return Guarded(where, lambda: _module(name).read(where, options or Options()))


def writable() -> list[str]:
    """The formats that `write` knows."""
    return [name for name in FORMATS if hasattr(_module(name), "write")]


def write(path: str | Path, dataset: Dataset, format: str) -> None:
    """Write all episodes of `dataset` in another project's format. UserError: a format without a writer, `path` exists."""
    if format not in (valid := writable()):
        raise UserError(f"format: {format!r} cannot be written; valid: {', '.join(valid)}")
    if Path(path).exists():
        raise UserError(f"{path}: exists already; choose another name")
    _module(format).write(Path(path), dataset)


def _matches(name: str, path: Path) -> bool:
    with suppress(OSError, ValueError):  # no permission, a name with a NUL, not the text it seemed to be
        return _module(name).matches(path)
    return False


def _module(name: str) -> ModuleType:
    return import_module(f"{__name__}.{name}")  # only now: h5py, simulators and codecs are for those who need them
