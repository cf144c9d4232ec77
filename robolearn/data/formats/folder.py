"""Plain folders: a table of numbers for each episode, and its cameras beside it (docs/formats-folder.md).

    cups/                     the dataset; its sub-folders are the episodes, in the order of the numbers in their names
      episode_1/
        steps.csv             or steps.jsonl: the one table of the folder, a row for each step
        front/000000.png      a camera: a folder of numbered JPEG or PNG files, one for each row
        wrist.mp4             a camera: a video, one frame for each row
        meta.json             optional: {"task", "instruction", "success", "operator", "robot", "rate_hz"}, each optional

A folder with a table is a dataset of one episode. Columns, in any order, "name [unit]" each, the unit optional:

    time, timestamp           when the row was observed; time_ms, timestamp_ns ... name their unit, s if they do not
    action, action_x, ...     the action that followed the row; without any, the next row's state is assumed
    reward                    what that action earned
    instruction, task         words; the first row's count for the episode
    arm.j1, arm.j2            anything else is state: what stands before the last dot is its group, "state" where nothing does

In JSON lines a value may be a list of numbers, which counts as columns name.0, name.1, ...
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from hardware.types import ArraySpec, RobotSpec, Source
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode
from robolearn.data.formats._image import decode_images, image_size
from robolearn.data.formats._reader import Options, Reader, chosen_cameras, episode, inside, rate_of, vector
from robolearn.data.formats._table import SUFFIXES, header, read_table
from robolearn.data.formats._video import frames_between, read_frames, size_and_rate

RATE_HZ = 10.0  # where nothing tells
META, MAX_META = "meta.json", 1 << 20  # bytes
_META = ("task", "instruction", "success", "operator", "robot", "rate_hz")
_WORDS = frozenset(("instruction", "task"))
_COUNTERS = ("index", "step", "frame", "frame_index", "row", "episode", "episode_index", "done")
_SCALES = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_TIME = re.compile(r"(?:time|timestamp)(?:_(s|ms|us|ns))?", re.IGNORECASE)
_ACTION = re.compile(r"actions?(?:[._\[/-](.*?)\]?)?", re.IGNORECASE)
_UNIT = re.compile(r"(.*?)\s*\[([^\[\]]*)\]")  # elbow [rad]
_OPERATORS = {"human": Source.HUMAN, "scripted": Source.SCRIPTED, "policy": Source.POLICY}
_PICTURES = (".png", ".jpg", ".jpeg")
_PEEK = 256  # entries of a folder that `matches` looks at
_LATEST_S = 1e11  # a time beyond the year 5000 was not in seconds


def matches(path: Path) -> bool:
    if not path.is_dir():
        return False
    return _table(path) is not None or any(_table(entry) is not None for entry in islice(path.iterdir(), _PEEK) if entry.is_dir())


def read(path: Path, options: Options) -> Reader:
    """UserError: damaged tables, cameras with another number of frames than the table has rows, episodes that differ in columns."""
    return _Folders(path, options)


@dataclass
class _Columns:
    """What the columns of a table are, by their names."""

    time: str | None = None
    unit: str = ""  # of time
    reward: str | None = None
    terminal: str | None = None
    action: list[tuple[str, str, str]] = field(default_factory=list)  # (column, name, unit)
    state: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)  # group -> the same
    left_out: list[str] = field(default_factory=list)

    def __init__(self, columns: Iterable[str]) -> None:
        self.action, self.state, self.left_out = [], {}, []
        for column in columns:
            named = _UNIT.fullmatch(column)
            name, unit = (named[1], named[2]) if named else (column, "")
            if (found := _TIME.fullmatch(name)) and self.time is None:
                self.time, self.unit = column, found[1] or unit
            elif name in ("reward", "terminal"):
                setattr(self, name, column)
            elif name in _COUNTERS:
                self.left_out.append(column)
            elif found := _ACTION.fullmatch(name):
                self.action.append((column, found[1] or "action", unit))
            else:
                group, _, short = name.rpartition(".")
                self.state.setdefault(re.sub(r"[^A-Za-z0-9_.-]", "_", group).strip(".") or "state", []).append((column, short, unit))


class _Folders:
    def __init__(self, path: Path, options: Options) -> None:
        if options.rate_hz is not None and not 0 < options.rate_hz < np.inf:
            raise UserError(f"rate_hz: {options.rate_hz:g} Hz; expected more than 0")
        self.path = path
        folders = [path] if _table(path) else [entry for entry in path.iterdir() if entry.is_dir() and _table(entry)]
        self.folders = sorted(folders, key=lambda folder: _natural(folder.name))
        if not self.folders:
            raise UserError(f"holds no folder with one table ({' or '.join(SUFFIXES)}) whose first line names time or an action")
        notes = [f"left out: {name}: its table's first line names neither time nor an action" for name in _untold(path)]
        numbers, _ = self._read_table(self.folders[0])
        meta = self._meta(self.folders[0])
        self.names = list(numbers)
        self.columns = columns = _Columns(numbers)
        cameras = self._find_cameras(self.folders[0], notes)
        self.cameras = chosen_cameras(list(cameras), options)
        state = {group: _spec(found) for group, found in columns.state.items()}
        if not columns.action and not state:
            raise UserError(f"its columns are {', '.join(numbers)[:120]}; expected action or state among them")
        action = _spec(columns.action or [entry for found in columns.state.values() for entry in found])
        if not columns.action:
            notes.append("no column is called action: it is assumed to be the next row's state, the last row repeats its own")
        if columns.left_out:
            notes.append(f"left out: {', '.join(columns.left_out)}: they count, or do not tell the task's end from a time limit")
        rate = options.rate_hz or self._rate(self._time(numbers), meta, notes)
        sizes = {name: cameras[name] for name in self.cameras}
        self.spec = RobotSpec(str(meta.get("robot", "unknown")), sizes, state, action, "unknown", rate)
        notes.append(
            "limits are not recorded; units only where a column names one" + ("" if "operator" in meta else "; a human is assumed")
        )
        self.notes: Sequence[str] = [" ".join(note.split()) for note in notes]

    def _find_cameras(self, folder: Path, notes: list[str]) -> dict[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        for entry in sorted(folder.iterdir()):
            if entry.suffix.lower() == ".mp4":
                size = size_and_rate(inside(self.path, entry.relative_to(self.path)))[0]
            elif entry.is_dir() and (pictures := self._pictures(entry)):
                size = image_size(pictures[0], entry.name)
                if _bits(pictures[0]) > 8:
                    notes.append(f"{entry.name} is left out: its pictures have more than 8 bits, as depth has")
                    continue
            else:
                continue
            if entry.stem in found:
                raise UserError(f"{entry.stem} is a video and a folder of pictures; name them differently")
            found[entry.stem] = size
        return found

    def _rate(self, time: np.ndarray | None, meta: dict[str, Any], notes: list[str]) -> float:
        if isinstance(said := meta.get("rate_hz"), int | float) and 0 < said < np.inf:
            return float(said)
        if time is not None:
            return rate_of(time)
        for entry in sorted(self.folders[0].glob("*.mp4")):
            rate = size_and_rate(inside(self.path, entry.relative_to(self.path)))[1]
            notes.append(f"no time is recorded: the rows are taken to be at the rate of {entry.name}, {rate:g} Hz")
            return rate
        notes.append(f"no time is recorded: {RATE_HZ:g} Hz is assumed")
        return RATE_HZ

    def __len__(self) -> int:
        return len(self.folders)

    def close(self) -> None:
        """Nothing is held open."""

    def __getitem__(self, index: int) -> Episode:
        folder, columns = self.folders[index], self.columns
        numbers, said = self._read_table(folder)
        if set(numbers) != set(self.names):
            differ = sorted(set(numbers) ^ set(self.names))
            raise UserError(f"{folder.name}: columns differ from the first episode's in {' '.join(', '.join(differ).split())[:160]}")
        meta = self._meta(folder)
        rows = len(next(iter(numbers.values())))
        state = {group: np.stack([numbers[column] for column, _, _ in found], 1) for group, found in columns.state.items()}
        if columns.action:
            action = np.stack([numbers[column] for column, _, _ in columns.action], 1)
        else:
            now = np.concatenate(list(state.values()), 1)
            action = np.concatenate([now[1:], now[-1:]])
        success, operator = meta.get("success"), str(meta.get("operator", "unknown"))
        computed = [] if columns.action else ["action: the next row's state"]
        return episode(
            self.spec,
            action=action,
            state=state,
            images={name: self._frames(folder, name, rows) for name in self.cameras},
            time=self._time(numbers),
            reward=numbers[columns.reward] if columns.reward else None,
            terminal=numbers[columns.terminal] > 0 if columns.terminal else False,
            source=_OPERATORS.get(operator, Source.HUMAN),
            meta={
                "task": str(meta.get("task") or said.get("task") or self.path.name),
                **({"instruction": str(text)} if (text := meta.get("instruction") or said.get("instruction")) else {}),
                "success": success if isinstance(success, bool) else None,
                "operator": operator,
                "origin": {"file": folder.name, "episode": index},
                "computed": "; ".join([*computed, *([] if columns.time else ["time from the rate"])]),
            },
        )

    def _time(self, numbers: dict[str, np.ndarray]) -> np.ndarray | None:
        """Seconds from the first row on."""
        if (column := self.columns.time) is None:
            return None
        unit, time = self.columns.unit, numbers[column]
        if unit not in ("", *_SCALES):
            raise UserError(f"column {column}: unit {unit!r}; valid: {', '.join(_SCALES)}")
        if not unit and np.abs(time).max() > _LATEST_S:
            raise UserError(
                f"column {column} holds {time[0]:g}, too much for seconds; name its unit: {column}_ns, {column}_us or {column}_ms"
            )
        return (time - time[0]) * _SCALES[unit or "s"]

    def _frames(self, folder: Path, camera: str, rows: int) -> np.ndarray:
        """uint8 (rows, H, W, 3)."""
        size, where = self.spec.cameras[camera], f"{folder.name}/{camera}"
        video = inside(self.path, (folder / f"{camera}.mp4").relative_to(self.path))
        if video.is_file():
            count = frames_between(video)
            if count and count != rows:
                raise UserError(f"{where}.mp4 has {count} frames for {rows} rows; expected one for each")
            frames = read_frames(video, rows)
            if frames.shape[1:3] != size:
                raise UserError(f"{where}.mp4 is {frames.shape[1]}x{frames.shape[2]} px; the first episode's is {size[0]}x{size[1]}")
            return frames
        pictures = self._pictures(folder / camera)
        if len(pictures) != rows:
            raise UserError(f"{where} has {len(pictures)} pictures for {rows} rows; expected one for each")
        return decode_images(pictures, size, where)

    def _pictures(self, folder: Path) -> list[Path]:
        """In the order of their numbers. UserError: one without a number, a number twice."""
        if not inside(self.path, folder.relative_to(self.path)).is_dir():
            return []
        found: dict[int, Path] = {}
        for entry in folder.iterdir():
            if entry.suffix.lower() in _PICTURES:
                number = re.findall(r"[0-9]+", entry.stem)
                if not number or int(number[-1]) in found:
                    raise UserError(
                        f"{folder.name}/{entry.name} {'has a number twice' if number else 'has no number'}; expected 000000.png, ..."
                    )
                found[int(number[-1])] = inside(self.path, entry.relative_to(self.path))
        return [found[number] for number in sorted(found)]

    def _read_table(self, folder: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        table = _table(folder)
        if table is None:
            raise UserError(f"{folder.name} has no table any more")
        try:
            return read_table(inside(self.path, table.relative_to(self.path)), _WORDS)
        except UserError as error:
            raise UserError(f"{folder.name}/{error}") from error

    def _meta(self, folder: Path) -> dict[str, Any]:
        path = inside(self.path, (folder / META).relative_to(self.path))
        if not path.is_file():
            return {}
        try:
            meta = json.loads(path.read_bytes()[:MAX_META])
        except (ValueError, RecursionError) as error:
            raise UserError(f"{folder.name}/{META} is damaged: {error}") from error
        unknown = [str(key) for key in meta if key not in _META] if isinstance(meta, dict) else [type(meta).__name__]
        if unknown:
            raise UserError(f"{folder.name}/{META}: {unknown[0]!r}; valid: {', '.join(_META)}")
        return meta


def _untold(path: Path) -> list[str]:
    """Folders whose only table is none of steps: other data, or an episode that is damaged."""
    others = [entry for entry in sorted(path.iterdir()) if entry.is_dir() and _table(entry) is None]
    return [entry.name for entry in others if sum(file.suffix in SUFFIXES for file in entry.iterdir()) == 1]


def _table(folder: Path) -> Path | None:
    """The one table of an episode's folder; None: it is none."""
    tables = [entry for entry in folder.iterdir() if entry.suffix in SUFFIXES and entry.is_file() and not entry.name.startswith(".")]
    if len(tables) != 1:
        return None
    columns = _Columns(header(tables[0]))
    return tables[0] if columns.time or columns.action else None


def _spec(columns: Sequence[tuple[str, str, str]]) -> ArraySpec:
    return vector([name for _, name, _ in columns], [unit for _, _, unit in columns])


def _natural(name: str) -> list[tuple[int, str]]:
    """episode_2 before episode_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def _bits(path: Path) -> int:
    """Of one channel. PNG specification, 11.2.2: the bit depth is the header's ninth byte; JPEG has 8 here."""
    with path.open("rb") as file:
        start = file.read(25)
    return start[24] if start[:4] == b"\x89PNG" and len(start) == 25 else 8
