"""What every reader of foreign files gives and gets, and the guard that turns any failure of theirs into one line."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from hardware.types import ArraySpec, RobotSpec, Source
from robolearn.core.errors import UserError, one_line
from robolearn.data.episode import Episode

MAX_EPISODE_BYTES = 8 << 30  # decoded; an episode is held in memory while it is imported


@dataclass(frozen=True)
class Options:
    """What the files may leave open."""

    rate_hz: float | None = None  # rows per second; None: what the files say, else the format's documented default, said in `notes`
    cameras: tuple[str, ...] | None = None  # only these, by the files' own names; None: all; (): none, and no image is decoded


@runtime_checkable
class Dataset(Protocol):
    """Episodes of one robot, numbered. An EpisodeStore is one too."""

    @property
    def spec(self) -> RobotSpec: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Episode:
        """Episode `index`; IndexError past the end."""
        ...


@runtime_checkable
class Reader(Dataset, Protocol):
    """A foreign dataset. Opening it reads no image; each episode is read when it is asked for, in any order."""

    notes: Sequence[str]  # one line each for what was assumed, computed or left out; people read them, provenance keeps them

    # Where the files number their episodes otherwise than 0, 1, 2, ...: `numbers: Sequence[int]`, one for each episode.

    def close(self) -> None: ...


# What hostile or broken files make decoders and parsers raise.
_DAMAGE = (OSError, EOFError, LookupError, ValueError, TypeError, ArithmeticError, AttributeError, struct.error, zlib.error,
           RuntimeError, MemoryError, RecursionError)  # fmt: skip


class Guarded:
    """A Reader whose every failure is a UserError that begins with the path and, where it is one episode's, its number."""

    def __init__(self, path: Path, open: Callable[[], Reader]) -> None:
        self.path = path
        self._reader: Reader = self._guard("", open)
        self.spec: RobotSpec = self._reader.spec
        self.notes: Sequence[str] = tuple(map(one_line, self._reader.notes))
        self.numbers: Sequence[int] = getattr(self._reader, "numbers", range(len(self._reader)))
        if not len(self._reader):
            raise UserError(f"{path}: holds no episode")

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: int) -> Episode:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._guard(f"episode {index}: ", lambda: self._reader[index])

    def close(self) -> None:
        self._reader.close()

    def _guard(self, where: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except UserError as error:
            if str(error).startswith(str(self.path)):
                raise
            raise UserError(f"{self.path}: {where}{error}") from error
        except _DAMAGE as error:
            what = " ".join(str(error).split())[:300]
            raise UserError(f"{self.path}: {where}damaged ({type(error).__name__}{': ' if what else ''}{what})") from error


def vector(names: Sequence[str] | int, unit: str | Sequence[str] = "", prefix: str = "") -> ArraySpec:
    """An ArraySpec without limits: names, or `prefix`0, `prefix`1, ... for a bare count. unit "" where nobody says it."""
    listed = tuple(names) if not isinstance(names, int) else tuple(f"{prefix}{i}" for i in range(names))
    units = (unit,) * len(listed) if isinstance(unit, str) else tuple(unit)
    return ArraySpec(listed, units, (-np.inf,) * len(listed), (np.inf,) * len(listed))


def episode(
    spec: RobotSpec,
    *,
    action: np.ndarray,
    state: Mapping[str, np.ndarray],
    images: Mapping[str, np.ndarray],
    time: np.ndarray | None = None,
    reward: np.ndarray | None = None,
    terminal: np.ndarray | bool = False,
    source: Source | np.ndarray = Source.HUMAN,
    meta: Mapping[str, Any],
    **more: Any,
) -> Episode:
    """An Episode from what a file holds, in the store's dtypes. time None: row number / rate. terminal: per row, or of the last row.

    The action stands for the requested one too where the files know only one. UserError: rows that differ in number, or none.
    """
    rows = len(action)
    lengths = {"action": rows, **{f"state.{k}": len(v) for k, v in state.items()}, **{f"images.{k}": len(v) for k, v in images.items()}}
    if len(set(lengths.values())) != 1 or rows == 0:
        raise UserError(f"rows differ or there are none: {', '.join(f'{k} {n}' for k, n in lengths.items())}")
    action = float32("action", action)
    ended = np.zeros(rows, bool) if isinstance(terminal, bool | np.bool_) else np.asarray(terminal).astype(bool).reshape(rows)
    if isinstance(terminal, bool | np.bool_):
        ended[-1] = terminal
    return Episode(
        time=np.arange(rows) / spec.rate_hz if time is None else np.asarray(time, np.float64).reshape(rows),
        images=dict(images),
        state={name: float32(f"state.{name}", value) for name, value in state.items()},
        action=action,
        requested_action=more.pop("requested_action", action),
        reward=np.zeros(rows, np.float32) if reward is None else float32("reward", reward).reshape(rows),
        terminal=ended,
        source=np.full(rows, source, np.uint8) if isinstance(source, Source) else np.asarray(source, np.uint8),
        meta=dict(meta),
        **more,
    )


def float32(field: str, values: Any) -> np.ndarray:
    """Numbers as float32. UserError: not numbers, or too large for it; NaN and inf pass, whoever stores them refuses."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise UserError(f"{field} is {array.dtype}; expected numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        single = array.astype(np.float32)
    if array.dtype.kind == "f" and np.isinf(single).sum() != np.isinf(array).sum():
        raise UserError(f"{field} holds {np.nanmax(np.abs(array)):.3g}; float32 ends at 3.4e38")
    return np.ascontiguousarray(single)


def require_memory(what: str, shape: Sequence[int], itemsize: int = 1) -> None:
    """UserError where decoding this shape would take more than an episode may (a damaged header, or a recording to be split)."""
    size = itemsize
    for n in shape:
        size *= int(n)
    if size > MAX_EPISODE_BYTES or any(n < 0 for n in shape):
        raise UserError(f"{what} has shape {tuple(shape)}, {size / 2**30:.1f} GiB; an episode may have {MAX_EPISODE_BYTES >> 30} GiB")


def chosen_cameras(found: Sequence[str], options: Options) -> list[str]:
    """The cameras to read, in the files' order. UserError lists the valid ones."""
    for name in options.cameras or ():
        if name not in found:
            raise UserError(f"cameras: {name!r} is not in the files; valid: {', '.join(found) or '(none)'}")
    return [name for name in found if options.cameras is None or name in options.cameras]


def inside(root: Path, relative: str | Path) -> Path:
    """A path that a file names, below `root`. UserError: absolute, or it leads out of `root`, links included.

    The cache of the Hugging Face Hub keeps a dataset's files as links to blobs of its own: they are no way out.
    """
    path, root = root / relative, root.absolute()
    allowed = [root, *(p.parent.parent / "blobs" for p in (root, *root.parents) if p.parent.name == "snapshots")]
    try:
        path.resolve()
    except (RuntimeError, OSError) as error:  # Python 3.13 raises the latter
        raise UserError(f"{str(relative)!r} is a link that leads back to itself") from error
    if not any(path.resolve().is_relative_to(place.resolve()) for place in allowed):
        raise UserError(f"{str(relative)!r} leads out of {root}; refused")
    return path


def rate_of(time: np.ndarray) -> float:
    """Rows per second of a recording by its own clock [s]: 1 / the median step, whole where it nearly is. UserError: no step forward."""
    step = float(np.median(np.diff(time))) if len(time) > 1 else 0.0
    if not step > 0 or not np.isfinite(step):
        raise UserError(f"time tells no rate: {len(time)} rows, median step {step:g} s; set rate_hz")
    rate = 1 / step
    return float(round(rate)) if abs(rate - round(rate)) < 0.03 * round(rate) else round(rate, 3)
