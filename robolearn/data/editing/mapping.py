"""The map of an import: a dataset's cameras, state and action as one wants them, from what its files hold (docs/ingest-map.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from hardware.types import ArraySpec
from robolearn.core.config import load_config
from robolearn.core.errors import UserError
from robolearn.data.editing.conversions import Conversion, Part
from robolearn.data.episode import Episode
from robolearn.data.formats import Options, Reader, read
from robolearn.data.formats._reader import Guarded, float32

MAX_SIDE = 16384  # [px] of a camera; no robot's has more
ASPECT = 0.01  # relative change of width to height that is worth a note


@dataclass(frozen=True)
class Camera:
    """What becomes of one camera."""

    name: str | None = None
    """null: as it was."""
    size: tuple[int, int] | None = None
    """[height, width] in px, by an antialiased bilinear resize. null: as it was."""
    drop: bool = False
    """Leave it out; its images are not decoded."""

    def __post_init__(self) -> None:
        if self.size is not None and not 1 <= min(self.size) <= max(self.size) <= MAX_SIDE:
            raise ValueError(f"size: {list(self.size)} px; expected at least 1 each and at most {MAX_SIDE}")


@dataclass(frozen=True)
class SuccessRule:
    """An episode succeeded where this of its rewards is above that."""

    reward: Literal["last", "max", "sum"]
    above: float

    def __call__(self, reward: np.ndarray) -> bool:
        value = {"last": lambda: reward[-1], "max": reward.max, "sum": reward.sum}[self.reward]()
        return bool(value > self.above)


@dataclass(frozen=True)
class Map:
    """Everything the files leave open or say otherwise. What is not named stays as it is."""

    robot: str | None = None
    """RobotSpec.name."""
    rate_hz: float | None = None
    """Rows per second, as --rate-hz; that one wins."""
    action_mode: str | None = None
    """RobotSpec.action_mode, e.g. joint_pos, ee_pose, ee_delta."""
    instruction: str | None = None
    """meta.instruction of every episode."""
    success: bool | SuccessRule | None = None
    """meta.success of every episode."""
    cameras: Mapping[str, Camera] = field(default_factory=dict)
    """By the names that an import without a map gives them."""
    state: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    """The new state: each entry's parts end to end, in this order, and nothing else. Empty: as it was."""
    action: tuple[Part, ...] = ()
    """The new action: its parts end to end, and nothing else. Empty: as it was."""

    def __post_init__(self) -> None:
        if self.rate_hz is not None and not 0 < self.rate_hz < math.inf:
            raise ValueError(f"rate_hz: {self.rate_hz} Hz; expected above 0")
        for number, part in enumerate(self.action):
            if part.source is not None:
                raise ValueError(f"action.{number}.source: {part.source!r}; an action's parts come from the action")
        for name, parts in self.state.items():
            if not parts:
                raise ValueError(f"state.{name}: no parts; leave the entry out, or say {{}} for all of {name}")
            for number, part in enumerate(parts):
                if any(step.delta or step.absolute for step in part.steps):
                    raise ValueError(f"state.{name}.{number}.steps: delta and absolute are for actions")


def load_map(path: Path) -> Map:
    """A YAML file. UserError: one line with file, field, value and the valid choices."""
    return load_config(path, Map)


def read_mapped(path: Path, format: str | None, options: Options, map: Map) -> Reader:
    """The dataset at `path` as `map` wants it. Cameras that it drops are not decoded. UserError: it does not fit the dataset."""
    reader, map = read(path, format, options), replace(map, rate_hz=None)
    if options.cameras is not None:  # what is said of those that were not chosen is no mistake
        map = replace(map, cameras={name: camera for name, camera in map.cameras.items() if name in reader.spec.cameras})
    if map == Map():
        return reader
    _require_known("cameras", map.cameras, tuple(reader.spec.cameras))
    kept = tuple(name for name in reader.spec.cameras if not map.cameras.get(name, Camera()).drop)
    if kept != tuple(reader.spec.cameras):
        with suppress(UserError):  # a format that calls cameras otherwise than its files: then they are decoded in vain
            narrowed = read(path, format, replace(options, cameras=kept))
            if tuple(narrowed.spec.cameras) == kept:
                reader.close()
                reader, map = narrowed, replace(map, cameras={name: camera for name, camera in map.cameras.items() if name in kept})
    return Guarded(path, lambda: Mapped(reader, map))


class Mapped:
    """A Reader of a Reader's episodes. Time, reward, terminal and whoever acted stay as they are."""

    def __init__(self, reader: Reader, map: Map) -> None:
        self._reader, self._map = reader, map
        self.numbers: Sequence[int] = getattr(reader, "numbers", range(len(reader)))
        spec = reader.spec
        _require_known("cameras", map.cameras, tuple(spec.cameras))
        self._cameras = {name: map.cameras.get(name, Camera()) for name in spec.cameras}
        self._cameras = {name: replace(camera, name=camera.name or name) for name, camera in self._cameras.items() if not camera.drop}
        names = [str(camera.name) for camera in self._cameras.values()]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise UserError(f"map: cameras: two are called {repeated[0]!r}")
        self._state = {name: _Vector(f"map: state.{name}", parts, spec.state, name) for name, parts in map.state.items()}
        state = {name: made.spec for name, made in self._state.items()} or dict(spec.state)
        self._action = _Vector("map: action", map.action, {"action": spec.action}, "action", state) if map.action else None
        self.spec = replace(
            spec,
            name=map.robot or spec.name,
            cameras={str(camera.name): camera.size or spec.cameras[name] for name, camera in self._cameras.items()},
            state=state,
            action=self._action.spec if self._action else spec.action,
            action_mode=map.action_mode or ("delta" if any(s.delta for part in map.action for s in part.steps) else spec.action_mode),
        )
        self.notes: Sequence[str] = (*reader.notes, *self._said())

    def __len__(self) -> int:
        return len(self._reader)

    def close(self) -> None:
        self._reader.close()

    def __getitem__(self, index: int) -> Episode:
        episode = self._reader[index]
        images = {str(c.name): resized(episode.images[name], c.size) for name, c in self._cameras.items()}
        image_time = {str(c.name): episode.image_time[name] for name, c in self._cameras.items() if name in episode.image_time}
        state = {name: made(episode.state) for name, made in self._state.items()} or dict(episode.state)
        action, requested = episode.action, episode.requested_action
        if self._action:
            action, requested = self._action.pair(action, requested, state)
        return replace(
            episode,
            images=images,
            image_time=image_time,
            state=state,
            action=action,
            requested_action=requested,
            meta=self._meta(episode),
        )

    def _meta(self, episode: Episode) -> dict[str, Any]:
        meta, success = dict(episode.meta), self._map.success
        if self._map.instruction is not None:
            meta["instruction"] = self._map.instruction
        if success is not None:
            meta["success"] = success if isinstance(success, bool) else success(episode.reward)
        return meta

    def _said(self) -> list[str]:
        success, said = self._map.success, []
        if success is not None:
            rule = success if isinstance(success, bool) else f"{success.reward} reward > {success.above:g}"
            said.append(f"map: success of every episode: {rule}")
        for name, camera in self._cameras.items():
            (height, width), (new_height, new_width) = self._reader.spec.cameras[name], camera.size or self._reader.spec.cameras[name]
            if abs(new_width * height / (new_height * width) - 1) > ASPECT:
                said.append(f"map: camera {name} is stretched from {height}x{width} to {new_height}x{new_width} px")
        return said


class _Vector:
    """Parts of vectors, joined."""

    def __init__(
        self,
        where: str,
        parts: Sequence[Part],
        sources: Mapping[str, ArraySpec],
        default: str,
        states: Mapping[str, ArraySpec] | None = None,
    ) -> None:
        self._where = where
        self._parts: list[tuple[str, Conversion]] = []
        specs = []
        for number, part in enumerate(parts):
            source = part.source or default
            if source not in sources:
                raise UserError(f"{where}.{number}.source: {source!r} is not in the files; valid: {', '.join(sources) or '(none)'}")
            conversion, spec = part.compile(sources[source], states or {}, f"{where}.{number}")
            self._parts.append((source, conversion))
            specs.append(spec)
        self.spec = ArraySpec(*(tuple(value for spec in specs for value in getattr(spec, f.name)) for f in fields(ArraySpec)))
        if repeated := [name for name in self.spec.names if self.spec.names.count(name) > 1]:
            raise UserError(f"{where}: two elements are called {repeated[0]!r}; give their parts `names`")

    def __call__(self, state: Mapping[str, np.ndarray]) -> np.ndarray:
        """float32 (T, D) of a state."""
        made = []
        for source, conversion in self._parts:
            values = state[source].astype(np.float64)
            made.append(conversion(values, values[:0], {})[0])
        return self._joined(made)

    def pair(self, action: np.ndarray, requested: np.ndarray, state: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The same of an action and of what was asked for."""
        pairs = [conversion(action.astype(np.float64), requested.astype(np.float64), state) for _, conversion in self._parts]
        return self._joined([executed for executed, _ in pairs]), self._joined([asked for _, asked in pairs])

    def _joined(self, parts: list[np.ndarray]) -> np.ndarray:
        return float32(self._where, np.concatenate(parts, axis=1))


def resized(frames: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """uint8 (T, h, w, 3) of (T, H, W, 3): bilinear, and over the whole of each new pixel where it shrinks, so nothing aliases."""
    if size is None or frames.shape[1:3] == size:
        return frames
    height, width = size
    made = np.empty((len(frames), height, width, 3), np.uint8)
    for row, frame in enumerate(frames):
        made[row] = Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)
    return made


def _require_known(what: str, named: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in named:
        if name not in known:
            raise UserError(f"map: {what}: {name!r} is not in the files; valid: {', '.join(known) or '(none)'}")
