"""One episode: everything that was seen, asked for, done and earned, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hardware.types import RobotSpec


@dataclass(frozen=True)
class Stream:
    """M samples of something measured at a rate of its own: 500 Hz joint states, forces. On the clock of Episode.time."""

    time: np.ndarray  # float64 (M,) seconds, strictly increasing
    values: np.ndarray  # float32 (M, D)


@dataclass(frozen=True)
class Episode:
    """T rows. Row t holds observation t, the action that followed it, and what that action earned.

    terminal is true only where the task itself ended (success, breakage); a time limit is a truncation, never terminal.
    """

    time: np.ndarray  # float64 (T,) seconds, strictly increasing
    images: Mapping[str, np.ndarray]  # camera -> uint8 (T, H, W, 3) RGB
    state: Mapping[str, np.ndarray]  # name -> float32 (T, D)
    action: np.ndarray  # float32 (T, A) as executed, physical units
    requested_action: np.ndarray  # float32 (T, A) as asked for
    reward: np.ndarray  # float32 (T,)
    terminal: np.ndarray  # bool (T,)
    source: np.ndarray  # uint8 (T,), hardware.types.Source
    meta: Mapping[str, Any] = field(default_factory=dict)  # JSON data: task, success, seed, operator, provenance
    notes: Mapping[str, np.ndarray] = field(default_factory=dict)  # float32 (T,) each; what pilots noted, not stored
    image_time: Mapping[str, np.ndarray] = field(default_factory=dict)  # camera -> float64 (T,) [s], when each frame was taken, where known
    streams: Mapping[str, Stream] = field(default_factory=dict)  # name -> samples between the rows; all of RobotSpec.streams

    def __len__(self) -> int:
        return len(self.time)

    @property
    def success(self) -> bool | None:
        """None: not known."""
        return self.meta.get("success")


def check_episode(episode: Episode, spec: RobotSpec) -> None:
    """Raise ValueError, one line naming field, value and valid choices, unless every array fits `spec` and is finite."""
    length = len(episode)
    if length == 0:
        raise ValueError("episode: time has 0 rows; an episode has at least 1")
    same_keys("episode: images", episode.images, spec.cameras)
    same_keys("episode: state", episode.state, spec.state)
    expected: dict[str, tuple[np.ndarray, tuple[int, ...], str]] = {
        "time": (episode.time, (length,), "float64"),
        "action": (episode.action, (length, spec.action.dim), "float32"),
        "requested_action": (episode.requested_action, (length, spec.action.dim), "float32"),
        "reward": (episode.reward, (length,), "float32"),
        "terminal": (episode.terminal, (length,), "bool"),
        "source": (episode.source, (length,), "uint8"),
    }
    for name, size in spec.cameras.items():
        expected[f"images.{name}"] = (episode.images[name], (length, *size, 3), "uint8")
    for name, array_spec in spec.state.items():
        expected[f"state.{name}"] = (episode.state[name], (length, array_spec.dim), "float32")
    for name, (array, shape, dtype) in expected.items():
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(f"episode: {name} is {array.dtype} {array.shape}; expected {dtype} {shape}")
        # A request may be anything, NaN included: that is what the governor is for. What was executed may not.
        if dtype.startswith("float") and name != "requested_action" and not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            raise ValueError(f"episode: {name} is not finite at row {row}; NaN and inf are refused")
    _increases("time", episode.time)
    _check_extras(episode, spec)


def _check_extras(episode: Episode, spec: RobotSpec) -> None:
    """What only some episodes have: capture times (they may repeat where a camera is slow), streams."""
    for name, taken in episode.image_time.items():
        if name not in spec.cameras:
            raise ValueError(f"episode: image_time has {name!r}; the spec's cameras are {sorted(spec.cameras)}")
        if taken.shape != (len(episode),) or taken.dtype != np.float64 or not np.isfinite(taken).all():
            raise ValueError(f"episode: image_time.{name} is {taken.dtype} {taken.shape}; expected finite float64 ({len(episode)},) [s]")
        if np.any(np.diff(taken) < 0):
            raise ValueError(f"episode: image_time.{name} goes back at row {int(np.argmax(np.diff(taken) < 0)) + 1} [s]")
    same_keys("episode: streams", episode.streams, spec.streams)
    for name, part in spec.streams.items():
        time, values = episode.streams[name].time, episode.streams[name].values
        if values.dtype != np.float32 or time.dtype != np.float64 or values.shape != (len(time), part.dim):
            raise ValueError(
                f"episode: streams.{name} is {values.dtype} {values.shape} at {time.dtype} {time.shape}; "
                f"expected float32 (M, {part.dim}) at float64 (M,)"
            )
        if not (np.isfinite(values).all() and np.isfinite(time).all()):
            raise ValueError(f"episode: streams.{name} is not finite; NaN and inf are refused")
        _increases(f"streams.{name}.time", time)


def _increases(field_name: str, time: np.ndarray) -> None:
    if np.any(np.diff(time) <= 0):
        row = int(np.argmax(np.diff(time) <= 0)) + 1
        raise ValueError(f"episode: {field_name} does not increase at row {row} [s]")


def same_keys(field_name: str, got: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """ValueError unless `got` has just the names that the spec expects."""
    if set(got) != set(expected):
        raise ValueError(f"{field_name} has {sorted(got)}; the spec has {sorted(expected)}")


def not_failed(meta: Mapping[str, Any]) -> bool:
    """Whether an episode of this meta may be an example: it succeeded, or nobody said that it did not."""
    return meta.get("success") is not False
