"""One log of topics, read once without its pictures: all numbers, and when each picture was taken."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from robolearn.core.errors import UserError
from robolearn.data.formats._ros_messages import TEXT, is_picture, parts, picture_size, stamp_ns, text

MAX_MESSAGES = 50_000_000  # of one log
STAMP_NS = 10**9  # a stamp further than this from the recorder's clock is zero, or of a clock that says nothing about other topics


@runtime_checkable
class Log(Protocol):
    """One recording, open."""

    @property
    def types(self) -> Mapping[str, str]:
        """topic -> "sensor_msgs/msg/JointState", ..."""
        ...

    def messages(self, topics: Collection[str]) -> Iterator[tuple[str, int, Any]]:
        """(topic, when it was logged [ns], the message) in the file's order, the same each time."""
        ...


@dataclass
class Numbers:
    """One part of one topic's messages. Several drivers may publish to a topic, each its own joints: a group for each."""

    units: dict[str, str] = field(default_factory=dict)
    groups: dict[tuple[str, ...], tuple[array, array]] = field(default_factory=dict)  # names -> times [ns], numbers end to end

    def add(self, ns: int, names: tuple[str, ...], units: tuple[str, ...], values: Any) -> None:
        if names not in self.groups:
            self.groups[names] = (array("q"), array("d"))
            self.units |= dict(zip(names, units, strict=True))
        times, numbers = self.groups[names]
        times.append(ns)
        numbers.extend(values)

    def table(self, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Times int64 (M,) [ns], increasing, and values (M, len(names)): the newest of each name, from when all are known.

        names: those of `units`, in the order wanted.
        """
        times = np.concatenate([np.frombuffer(group_times, np.int64) for group_times, _ in self.groups.values()])
        values, known = np.zeros((len(times), len(names))), np.zeros((len(times), len(names)), bool)
        row, column = 0, {name: i for i, name in enumerate(names)}
        for group, (group_times, numbers) in self.groups.items():
            rows, columns = slice(row, row + len(group_times)), [column[name] for name in group]
            values[rows, columns] = np.frombuffer(numbers, np.float64).reshape(-1, len(group))
            known[rows, columns] = True
            row = rows.stop
        order = np.argsort(times, kind="stable")
        times, values, known = times[order], values[order], known[order]
        newest = np.maximum.accumulate(np.where(known, np.arange(len(times))[:, None], -1))
        whole = (newest >= 0).all(1) & np.append(np.diff(times) > 0, True)  # of equal times the last
        return times[whole], np.take_along_axis(values, newest.clip(0), 0)[whole]


@dataclass
class Scan:
    """What a log holds, its pictures' contents aside."""

    numbers: dict[tuple[str, str], Numbers] = field(default_factory=dict)  # (topic, part)
    frames: dict[str, array] = field(default_factory=dict)  # topic -> when each picture was taken [ns], in the file's order
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)  # topic -> (height, width) of its first picture
    left_out: dict[str, str] = field(default_factory=dict)  # topic -> why
    unstamped: set[str] = field(default_factory=set)  # topics whose own stamps are of no use
    said: str | None = None  # the instruction


def scan_log(log: Log, types: Mapping[str, str], forgiving: bool = False) -> Scan:
    """types: of the topics to read. forgiving: a topic of the wrong contents is left out; else it is a UserError."""
    scan = Scan()
    for count, (topic, logged, message) in enumerate(log.messages(types)):
        if count > MAX_MESSAGES:
            raise UserError(f"holds more than {MAX_MESSAGES} messages; split it into episodes")
        if topic in scan.left_out:
            continue
        stamped = stamp_ns(message)
        if stamped is not None and abs(stamped - logged) >= STAMP_NS:
            scan.unstamped.add(topic)
            stamped = None
        try:
            _add(scan, topic, types[topic], logged if stamped is None else stamped, message)
        except UserError as error:
            if not forgiving:
                raise UserError(f"{topic} message: {error}") from error
            scan.left_out[topic] = str(error)
    for topic in scan.left_out:
        scan.frames.pop(topic, None)
        scan.numbers = {key: value for key, value in scan.numbers.items() if key[0] != topic}
    return scan


def _add(scan: Scan, topic: str, kind: str, ns: int, message: Any) -> None:
    if kind == TEXT:
        scan.said = text(message) or scan.said
    elif is_picture(kind):
        if topic not in scan.frames:
            scan.sizes[topic] = picture_size(message, kind)
            scan.frames[topic] = array("q")
        scan.frames[topic].append(ns)
    else:
        for part in parts(message, kind):
            scan.numbers.setdefault((topic, part.suffix), Numbers()).add(ns, part.names, part.units, part.values)
