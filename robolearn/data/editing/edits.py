"""What may be done to a recorded episode, one operation each: made for a spec, it has the spec of what it makes.

Cutting and resampling keep three things true: time increases at the rate it had, streams and capture times stay on the
rows' clock, and neither the end of a task nor the moment of its reward gets lost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from hardware.types import ArraySpec, RobotSpec
from robolearn.core.errors import UserError
from robolearn.data.checks.motion import IDLE, state_vector, steps_of, still
from robolearn.data.episode import Episode, Stream
from robolearn.data.formats._reader import require_memory

DRIFT = 10 * IDLE  # of a state's range: what creeps further than this from where it stood is moving, however slowly
FASTEST_HZ = 10_000
ON_TIME = 1e-3  # of a period: a row this little late is at its tick


@runtime_checkable
class Edit(Protocol):
    """An episode of one spec becomes one of `spec`."""

    spec: RobotSpec

    def __call__(self, episode: Episode) -> Episode: ...


class TrimIdle:
    """Cuts standing still: no state moves. The rows next to a movement stay, and so does every row that ends or rewards a task.

    The gap closes: what follows moves up in time, with its capture times and its streams.
    """

    def __init__(self, spec: RobotSpec, scale: np.ndarray, ends_s: float | None, inside_s: float | None) -> None:
        """scale (S,): `statistics.state_scale`. At most `ends_s` [s] stay at either end, `inside_s` [s] of each pause; None: all."""
        for field, value in (("trim_idle", ends_s), ("trim_pauses", inside_s)):
            if value is not None and not 0 <= value < np.inf:
                raise UserError(f"{field}: {value} s; expected 0 or more")
        if not spec.state_dim:
            raise UserError("trim_idle: no state was recorded, so nobody knows when the robot stood still")
        self.spec, self._scale, self._ends, self._inside = spec, scale, ends_s, inside_s

    def __call__(self, episode: Episode) -> Episode:
        kept = np.ones(len(episode), bool)
        for first, last in pauses(state_vector(episode, self.spec), self._scale):
            kept[first : last + 1] = self._keeps(episode.time, first, last)
        started = (episode.reward != 0) & (np.append(0, episode.reward[:-1]) == 0)
        return cut(episode, kept | episode.terminal | started)

    def _keeps(self, time: np.ndarray, first: int, last: int) -> np.ndarray:
        """Which rows of one pause."""
        since, until = time[first : last + 1] - time[first], time[last] - time[first : last + 1]
        at_start, at_end = first == 0, last == len(time) - 1
        most = self._ends if at_start or at_end else self._inside
        if most is None:
            return np.ones(len(since), bool)
        if at_start:
            return until <= most
        return since <= most if at_end else np.minimum(since, until) <= most / 2


def pauses(state: np.ndarray, scale: np.ndarray) -> list[tuple[int, int]]:
    """(first, last) row of each stretch of at least two rows in which no state stirs. state (T, S), scale (S,) as for `motion.still`."""
    resting = np.append(still(steps_of(state, scale)), False)
    found, row = list[tuple[int, int]](), 0
    while row < len(resting):
        if not resting[row]:
            row += 1
            continue
        last = row + int(np.argmin(resting[row:]))
        gone = (np.abs(state[row : last + 1].astype(np.float64) - state[row]) / scale).max(axis=1) > DRIFT
        last = row + int(np.argmax(gone)) - 1 if gone.any() else last
        if last > row:
            found.append((row, last))
        row = max(last, row + 1)
    return found


def cut(episode: Episode, kept: np.ndarray) -> Episode:
    """Only the rows `kept` (T,), with the gaps in time closed."""
    if kept.all():
        return episode
    time, rows = episode.time, np.flatnonzero(kept)
    steps = np.append(np.diff(time), 0.0)[rows]  # each kept row lasts as long as it did
    moved = time[rows[0]] + np.append(0.0, np.cumsum(steps)[:-1]) - time[rows]  # (K,) [s], never above 0

    def on_rows(stream: Stream) -> Stream:
        row = np.searchsorted(time, stream.time, side="right") - 1  # the row whose turn it was; -1: before the first
        row = np.where(row < 0, 0, row)
        stays = kept[row]
        place = np.searchsorted(rows, row[stays])
        return Stream(stream.time[stays] + moved[place], stream.values[stays])

    taken = {name: np.maximum.accumulate(at[rows] + moved) for name, at in episode.image_time.items()}
    streams = {name: on_rows(stream) for name, stream in episode.streams.items()}
    return replace(_rows(episode, rows), time=time[rows] + moved, image_time=taken, streams=streams)


class Resample:
    """Another rate. Images, commands and who acted: the newest at or before each tick; states: linear between rows.

    A tick's reward is the sum over the rows it stands for. Angles that wrap and quaternions are interpolated like any other number.
    """

    def __init__(self, spec: RobotSpec, rate_hz: float) -> None:
        if not 0 < rate_hz <= FASTEST_HZ:
            raise UserError(f"rate_hz: {rate_hz} Hz; expected above 0 and at most {FASTEST_HZ}")
        if "delta" in spec.action_mode:
            raise UserError(f"rate_hz: actions of mode {spec.action_mode} are steps of one row; make them absolute first (ingest --map)")
        self.spec = replace(spec, rate_hz=float(rate_hz))

    def __call__(self, episode: Episode) -> Episode:
        time, period = episode.time, 1 / self.spec.rate_hz
        count = int((time[-1] - time[0]) / period + ON_TIME) + 1
        require_memory("the resampled episode", (count, sum(h * w * 3 for h, w in self.spec.cameras.values()) + 64))
        ticks = time[0] + np.arange(count) * period
        rows = np.searchsorted(time, ticks + ON_TIME * period, side="right") - 1
        tick = np.searchsorted(ticks, time + ON_TIME * period, side="right") - 1  # of each old row
        reward, terminal = np.zeros(count), np.zeros(count, bool)
        np.add.at(reward, tick, episode.reward)
        np.logical_or.at(terminal, tick, episode.terminal)
        state = {name: _interpolated(ticks, time, values) for name, values in episode.state.items()}
        return replace(_rows(episode, rows), time=ticks, state=state, reward=reward.astype(np.float32), terminal=terminal)


class SparseReward:
    """What the rewards say is what the episode's success says: 1 in its last row, which is terminal then, and 0 in every other. A failure
    is a truncation: where every step costs something, its end must be no way out."""

    def __init__(self, spec: RobotSpec) -> None:
        self.spec = spec

    def __call__(self, episode: Episode) -> Episode:
        won = bool(episode.meta["success"])
        ends = (np.arange(len(episode)) == len(episode) - 1) & won
        told = {"return": float(won), "max_reward": float(won), "success_step": len(episode) - 1 if won else None, "truncated": not won}
        meta = {**episode.meta, **{name: value for name, value in told.items() if name in episode.meta}}
        return replace(episode, reward=ends.astype(np.float32), terminal=ends, meta=meta)


class Redact:
    """Hides what a camera saw: drops it ("wrist"), or blackens a rectangle ("front:top,left,bottom,right" in px)."""

    def __init__(self, spec: RobotSpec, what: Sequence[str]) -> None:
        self._black: list[tuple[str, slice, slice]] = []
        dropped = set[str]()
        for text in what:
            name, colon, corners = text.rpartition(":") if text not in spec.cameras else (text, "", "")
            if name not in spec.cameras:
                raise UserError(f"redact: {name or text!r} is not a camera; valid: {', '.join(spec.cameras) or '(none)'}")
            if not colon:
                dropped.add(name)
                continue
            numbers, (height, width) = [int(n) for n in corners.split(",") if re.fullmatch("[0-9]{1,6}", n)], spec.cameras[name]
            if len(numbers) != 4 or not (numbers[0] < numbers[2] <= height and numbers[1] < numbers[3] <= width):
                raise UserError(f"redact: {text!r}: expected {name}:top,left,bottom,right within {height}x{width} px")
            top, left, bottom, right = numbers
            self._black.append((name, slice(top, bottom), slice(left, right)))
        self.spec = replace(spec, cameras={name: size for name, size in spec.cameras.items() if name not in dropped})

    def __call__(self, episode: Episode) -> Episode:
        images = {name: episode.images[name] for name in self.spec.cameras}
        for name, rows, columns in self._black:
            if name in images:
                images[name] = images[name].copy()
                images[name][:, rows, columns] = 0
        return replace(episode, images=images, image_time={k: v for k, v in episode.image_time.items() if k in images})


class Rename:
    """Calls cameras, states, streams and their elements something else: "front=top", "state.q=joints", "action.x=dx"."""

    def __init__(self, spec: RobotSpec, what: Sequence[str]) -> None:
        keys = [("images", name) for name in spec.cameras] + [("action", name) for name in spec.action.names]
        for kind, parts in (("state", spec.state), ("streams", spec.streams)):
            keys += [(kind, name) for name in parts] + [
                (f"{kind}.{name}", element) for name, part in parts.items() for element in part.names
            ]
        short = [name for kind, name in keys if kind in ("images", "state", "streams")]
        known = {f"{kind}.{name}": (kind, name) for kind, name in keys}
        known |= {name: (kind, name) for kind, name in keys if kind in ("images", "state", "streams") and short.count(name) == 1}
        self._new: dict[tuple[str, str], str] = {}
        for text in what:
            old, _, new = text.rpartition("=")
            if old not in known:
                raise UserError(f"rename: {old or text!r} is not known; expected OLD=NEW with OLD one of: {', '.join(known)}")
            self._new[known[old]] = new
        self.spec = replace(
            spec,
            cameras=self._called("images", spec.cameras),
            state=self._parts("state", spec.state),
            action=self._elements("action", spec.action),
            streams=self._parts("streams", spec.streams),
        )

    def __call__(self, episode: Episode) -> Episode:
        return replace(
            episode,
            images=self._called("images", episode.images),
            image_time=self._called("images", episode.image_time),
            state=self._called("state", episode.state),
            streams=self._called("streams", episode.streams),
        )

    def _called(self, kind: str, named: Mapping[str, Any]) -> dict[str, Any]:
        renamed = {self._new.get((kind, name), name): value for name, value in named.items()}
        if len(renamed) != len(named):
            raise UserError(f"rename: two of {kind} would have the same name: {', '.join(self._new.get((kind, n), n) for n in named)}")
        return renamed

    def _elements(self, kind: str, part: ArraySpec) -> ArraySpec:
        return replace(part, names=tuple(self._called(kind, dict.fromkeys(part.names)))) if len(set(part.names)) == part.dim else part

    def _parts(self, kind: str, parts: Mapping[str, ArraySpec]) -> dict[str, ArraySpec]:
        return self._called(kind, {name: self._elements(f"{kind}.{name}", part) for name, part in parts.items()})


def chain(spec: RobotSpec, *made: Callable[[RobotSpec], Edit]) -> tuple[RobotSpec, list[Edit]]:
    """Several operations, each made for the spec that the one before it leaves."""
    edits = list[Edit]()
    for make in made:
        edits.append(make(spec))
        spec = edits[-1].spec
    return spec, edits


def _rows(episode: Episode, rows: np.ndarray) -> Episode:
    """These rows of everything that has rows."""
    vectors = {name: getattr(episode, name)[rows] for name in ("time", "action", "requested_action", "reward", "terminal", "source")}
    maps = {name: {k: v[rows] for k, v in getattr(episode, name).items()} for name in ("images", "state", "notes", "image_time")}
    return replace(episode, **vectors, **maps)


def _interpolated(ticks: np.ndarray, time: np.ndarray, values: np.ndarray) -> np.ndarray:
    columns = [np.interp(ticks, time, column) for column in values.T.astype(np.float64)]
    return np.stack(columns, axis=1).astype(np.float32) if columns else np.zeros((len(ticks), 0), np.float32)
