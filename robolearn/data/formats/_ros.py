"""Logs of topics, each on a clock of its own, as episodes: what MCAP files and ROS 2 bags share.

Cameras are the topics that hold colour pictures. Numbers are state, or the action where a word of the topic's name begins with
"command", "cmd", "action", "target", or "leader", "master", whose joints a follower copies. Rows are at the frames of the slowest
camera, or as many a second as asked for. At a row, each camera and each state is the newest one measured by then, never a later one;
the action is the first command from then on until the next row, else the one still in force. What is measured faster than the rows
is kept whole as a stream too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hardware.types import ArraySpec, RobotSpec
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode, Stream
from robolearn.data.formats._reader import Options, chosen_cameras, episode, float32, rate_of, require_memory, vector
from robolearn.data.formats._ros_messages import JOINTS, JSON, TEXT, decode_picture, is_read
from robolearn.data.formats._ros_scan import Log, Scan, scan_log

FASTER = 1.5  # times the rows' rate, from which on a topic is a stream
SILENT = 2.5  # periods without a frame or a joint state, after which it has ended, and the rows with it
_ACTION = re.compile(r"(^|[/_])(command|cmd|action|target|leader|master)", re.IGNORECASE)
_SAID = re.compile(r"(^|[/_])(instruction|language|prompt|task)", re.IGNORECASE)
_CAMERA_WORDS = ("compressed", "image_raw", "image", "image_color", "image_rect", "image_rect_color")
_MODES = {"JointState": "joint_pos", "Pose": "ee_pose", "PoseStamped": "ee_pose", "Twist": "ee_velocity", "TwistStamped": "ee_velocity"}


@dataclass(frozen=True)
class _Signal:
    """Numbers of the dataset: where they come from, what they are."""

    topic: str
    part: str
    kind: str
    spec: ArraySpec
    rate: float  # per second in the first log; 0: it spoke once

    def table(self, scan: Scan) -> tuple[np.ndarray, np.ndarray]:
        """Times int64 (M,) [ns], increasing, and values float64 (M, D) in one log. UserError: it holds others than the first log."""
        numbers = scan.numbers.get((self.topic, self.part))
        if numbers is None:
            raise UserError(f"{self.topic} {self.part or self.kind}: no message; the first episode has some")
        if len(numbers.groups) > 1 and self.kind not in (JOINTS, JSON):
            raise UserError(f"{self.topic}: its messages hold {' and '.join(str(len(names)) for names in numbers.groups)} numbers")
        if differ := sorted(set(numbers.units) ^ set(self.spec.names)):
            raise UserError(f"{self.topic}: its numbers differ from the first episode's in {_line(', '.join(differ))[:160]}")
        times, values = numbers.table(self.spec.names)
        if not len(times):
            raise UserError(f"{self.topic}: {', '.join(self.spec.names)[:120]} are never all known")
        return times, values


@dataclass(frozen=True)
class _Camera:
    topic: str
    size: tuple[int, int]
    rate: float


class Logs:
    """Logs of one robot as a Reader. The first one's topics are expected of all."""

    def __init__(self, name: str, files: Sequence[Path], open: Callable[[Path], AbstractContextManager[Log]], options: Options) -> None:
        """Reads the first log once, but decodes no picture of it; the others are only known to be there. name: of the dataset."""
        if options.rate_hz is not None and not 0 < options.rate_hz <= 1e5:
            raise UserError(f"rate_hz: {options.rate_hz:g} Hz; expected more than 0 and at most 100000")
        self.name, self.files, self._open, self._asked_hz = name, files, open, options.rate_hz
        with open(files[0]) as log:
            self._types = {topic: kind for topic, kind in log.types.items() if is_read(kind) and (kind != TEXT or _SAID.search(topic))}
            others = [f"{topic} ({kind})" for topic, kind in sorted(log.types.items()) if topic not in self._types]
            first = scan_log(log, self._types, forgiving=True)
        notes = [f"topics of other types are left out: {_listed(others)}"] if others else []
        notes += [f"{topic} is left out: {why}" for topic, why in first.left_out.items()]
        self._cameras = self._find_cameras(first, notes)
        signals = self._find_signals(first, notes)
        self._actions = self._find_actions(signals, notes)
        self._states = {name: s for name, s in signals.items() if name not in self._actions}
        self._clock, rate = self._find_clock(notes)
        self._followed = [] if self._actions else self._find_followed()
        self._needed = {c.topic: self._types[c.topic] for c in (*self._cameras.values(), *signals.values())}
        self._texts = {topic for topic, kind in self._types.items() if kind == TEXT}
        self._chosen = chosen_cameras(list(self._cameras), options)
        self._streams = {name: s for name, s in signals.items() if s.rate > FASTER * rate}
        self.spec = RobotSpec(
            "unknown",
            {name: self._cameras[name].size for name in self._chosen},
            {name: s.spec for name, s in self._states.items()},
            _joined(self._actions or {name: self._states[name] for name in self._followed}),
            self._mode(),
            rate,
            {name: s.spec for name, s in self._streams.items()},
        )
        self.notes: Sequence[str] = [_line(note) for note in [*notes, *self._assumptions(first)]]

    def _find_cameras(self, first: Scan, notes: list[str]) -> dict[str, _Camera]:
        found: dict[str, _Camera] = {}
        for topic in sorted(first.frames):
            name = _name(topic, _CAMERA_WORDS)
            if name in found and found[name].topic == topic.removesuffix("/compressed"):
                notes.append(f"{topic} is left out: {found[name].topic} holds the same, not compressed")
                continue
            name = _free(_name(topic) if name in found else name, found)
            found[name] = _Camera(topic, first.sizes[topic], _rate(np.sort(np.frombuffer(first.frames[topic], np.int64))))
        return found

    def _find_signals(self, first: Scan, notes: list[str]) -> dict[str, _Signal]:
        found: dict[str, _Signal] = {}
        for (topic, part), numbers in sorted(first.numbers.items()):
            spec = vector(list(numbers.units), list(numbers.units.values()))
            signal = _Signal(topic, part, self._types[topic], spec, 0.0)
            try:
                times, values = signal.table(first)
            except UserError as error:
                notes.append(f"left out: {error}")
                continue
            if not np.isfinite(values).all():  # ros2_control fills what a driver does not measure with NaN
                notes.append(f"{topic} {part} is left out: it holds NaN or inf")
                continue
            name = _free(_name(topic) + (f"_{part}" if part else ""), found)
            found[name] = _Signal(topic, part, self._types[topic], spec, _rate(times))
        return found

    def _find_actions(self, signals: dict[str, _Signal], notes: list[str]) -> dict[str, _Signal]:
        """The commands among `signals`. Of commanded joints the positions; what else such a topic holds is dropped from `signals`."""
        found = {name: s for name, s in signals.items() if _ACTION.search(s.topic)}
        positions = {s.topic for s in found.values() if not s.part}
        for name in [name for name, s in found.items() if s.part and s.topic in positions]:
            notes.append(f"{found[name].topic} {found[name].part} is left out: its positions are the action")
            del found[name], signals[name]
        return found

    def _find_clock(self, notes: list[str]) -> tuple[str, float]:
        """The camera or signal that the rows follow, and their rate."""
        candidates: Mapping[str, _Camera | _Signal] = {}
        for candidates in (self._cameras, self._states, self._actions):
            candidates = {name: c for name, c in candidates.items() if c.rate > 0}
            if candidates:
                break
        if not candidates:
            raise UserError(
                f"no topic with pictures or numbers speaks twice; read here: {_listed(sorted(self._types)) or 'none of its topics'}"
            )
        slowest = min(candidates, key=lambda name: candidates[name].rate)
        if self._asked_hz is not None:
            notes.append(f"rows: {self._asked_hz:g} a second, as asked for")
            return slowest, self._asked_hz
        notes.append(f"rows: one for each message of {candidates[slowest].topic}, about {candidates[slowest].rate:g} a second")
        return slowest, candidates[slowest].rate

    def _find_followed(self) -> list[str]:
        """States whose next row stands for the action: joint positions, else poses, else all."""
        joints = [name for name, s in self._states.items() if s.kind == JOINTS and not s.part]
        poses = [name for name, s in self._states.items() if "/Pose" in s.kind]
        if not (found := joints or poses or list(self._states)):
            raise UserError(f"no topic holds numbers for state or action; read here: {_listed(sorted(self._types))}")
        return found

    def _mode(self) -> str:
        acting = self._actions or {name: self._states[name] for name in self._followed}
        modes = {_MODES.get(s.kind.rpartition("/")[2], "unknown") if not s.part else "unknown" for s in acting.values()}
        return modes.pop() if len(modes) == 1 else "unknown"

    def _assumptions(self, first: Scan) -> list[str]:
        topics = sorted({s.topic for s in self._actions.values()})
        notes = [
            f"action: {_listed(topics)}, told by name; the first command from a row on until the next row, else the one in force"
            if topics
            else f"no topic is named as a command: the action is assumed to be the next row's {_listed(self._followed)}"
        ]
        if JOINTS in self._types.values():
            notes.append("joints are taken for revolute [rad, rad/s, N m]: the messages do not tell which are prismatic")
        for topic in sorted(first.unstamped):
            notes.append(f"{topic}: stamped more than 1 s off the recorder's clock; the time of recording is used")
        return [*notes, "success and who acted are not recorded; a human is assumed"]

    def __len__(self) -> int:
        return len(self.files)

    def close(self) -> None:
        """Each log is closed once it is read."""

    def __getitem__(self, index: int) -> Episode:
        with self._open(self.files[index]) as log:
            for topic, kind in self._needed.items():
                if log.types.get(topic) != kind:
                    raise UserError(f"topic {topic} is {log.types.get(topic, 'missing')}; in the first episode {kind}")
            texts = [topic for topic in self._texts if log.types.get(topic) == TEXT]
            scan = scan_log(log, {**self._needed, **dict.fromkeys(texts, TEXT)})
            tables = {name: s.table(scan) for name, s in {**self._states, **self._actions}.items()}
            rows = self._rows(scan, tables)
            images, taken = self._pictures(log, scan, rows)
        state = {name: tables[name][1][_newest(tables[name][0], rows)] for name in self._states}
        if self._actions:
            action = np.concatenate([tables[name][1][self._following(tables[name][0], rows)] for name in self._actions], 1)
        else:
            now = np.concatenate([state[name] for name in self._followed], 1)
            action = np.concatenate([now[1:], now[-1:]])
        return episode(
            self.spec,
            action=action,
            state=state,
            images=images,
            time=_seconds(rows, rows[0]),
            image_time={name: _seconds(times, rows[0]) for name, times in taken.items()},
            streams={name: self._stream(name, tables[name], rows) for name in self._streams},
            meta={
                "task": self.name,
                **({"instruction": scan.said} if scan.said else {}),
                "success": None,
                "operator": "unknown",
                "origin": {"file": self.files[index].name, "episode": index, "start_ns": int(rows[0])},
                "computed": "rows resampled from topics"
                + ("" if self._actions else f"; action: the next row's {', '.join(self._followed)}"),
            },
        )

    def _rows(self, scan: Scan, tables: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """int64 (T,) [ns]: from when all have spoken until the first camera or joint state has ended."""
        frames = {
            name: np.sort(np.frombuffer(scan.frames[c.topic], np.int64)) for name, c in self._cameras.items() if c.topic in scan.frames
        }
        if silent := [c.topic for name, c in self._cameras.items() if name not in frames]:
            raise UserError(f"{silent[0]}: no picture; the first episode has some")
        clock = frames[self._clock] if self._clock in frames else tables[self._clock][0]
        start = max([f[0] for f in frames.values()] + [tables[name][0][0] for name in self._states], default=clock[0])
        lasting = [(frames[name][-1], c.rate) for name, c in self._cameras.items()]
        lasting += [(tables[name][0][-1], s.rate) for name, s in self._states.items() if s.kind == JOINTS]
        end = min([clock[-1], *(last + int(SILENT / rate * 1e9) for last, rate in lasting if rate > 0)])
        if self._asked_hz is None:
            rows = np.unique(clock[(clock >= start) & (clock <= end)])
        else:
            count = max(int((end - start) / 1e9 * self._asked_hz) + 1, 0)
            require_memory("rows", (count, self.spec.state_dim + self.spec.action.dim), 8)
            rows = start + np.rint(np.arange(count) * (1e9 / self._asked_hz)).astype(np.int64)
        for name in self._actions:  # rows before the first command are left out
            rows = rows[self._following(tables[name][0], rows) >= 0]
        if not len(rows):
            raise UserError(f"there is no moment at which all topics have spoken: {_listed(sorted(self._types))}")
        return rows

    def _following(self, times: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Which command each row's action is; -1: none yet."""
        after = np.searchsorted(times, rows)
        until = np.append(rows[1:], rows[-1:] + int(1e9 / self.spec.rate_hz))
        return np.where((after < len(times)) & (times[np.minimum(after, len(times) - 1)] < until), after, after - 1)

    def _pictures(self, log: Log, scan: Scan, rows: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """camera -> uint8 (T, H, W, 3), camera -> when they were taken, int64 (T,) [ns]. Only pictures that a row shows are decoded."""
        images, taken, wanted = {}, {}, {}
        for name in self._chosen:
            camera = self._cameras[name]
            times = np.frombuffer(scan.frames[camera.topic], np.int64)
            order = np.argsort(times, kind="stable")
            shown = order[_newest(times[order], rows)]
            require_memory(camera.topic, (len(rows), *camera.size, 3))
            images[name], taken[name] = np.empty((len(rows), *camera.size, 3), np.uint8), times[shown]
            wanted[camera.topic] = (name, {int(number): np.flatnonzero(shown == number) for number in np.unique(shown)})
        seen = dict.fromkeys(wanted, 0)
        for topic, _, message in log.messages(wanted) if wanted else ():
            name, at = wanted[topic]
            if seen[topic] in at:
                try:
                    images[name][at[seen[topic]]] = decode_picture(message, self._types[topic], self._cameras[name].size)
                except UserError as error:
                    raise UserError(f"{topic} message {seen[topic]}: {error}") from error
            seen[topic] += 1
        return images, taken

    def _stream(self, name: str, table: tuple[np.ndarray, np.ndarray], rows: np.ndarray) -> Stream:
        """The samples from the first row until one row after the last."""
        times, values = table
        during = (times >= rows[0]) & (times < rows[-1] + int(1e9 / self.spec.rate_hz))
        return Stream(_seconds(times[during], rows[0]), float32(f"streams.{name}", values[during]))


def _newest(times: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.searchsorted(times, rows, side="right") - 1


def _seconds(times: np.ndarray, start: np.int64) -> np.ndarray:
    return (times - start) / 1e9


def _rate(times: np.ndarray) -> float:
    return rate_of(_seconds(times, times[0])) if len(times) > 1 and np.median(np.diff(times)) > 0 else 0.0


def _joined(signals: Mapping[str, _Signal]) -> ArraySpec:
    """One vector of all; the elements are called by their topic too where there are several."""
    names = [f"{name}.{n}" if len(signals) > 1 else n for name, s in signals.items() for n in s.spec.names]
    return vector(names, [unit for s in signals.values() for unit in s.spec.units])


def _name(topic: str, without: Sequence[str] = ()) -> str:
    """/left/camera/image_raw -> left_camera: letters, digits, "_", "-", "." only, without these last words."""
    words = topic.strip("/").split("/")
    while len(words) > 1 and words[-1] in without:
        words.pop()
    return re.sub(r"[^A-Za-z0-9_.-]", "_", "_".join(words)).strip(".") or "topic"


def _free(name: str, taken: Mapping[str, object]) -> str:
    while name in taken:
        name += "_"
    return name


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"


def _line(note: str) -> str:
    return " ".join(note.split())  # a topic's name may hold anything
