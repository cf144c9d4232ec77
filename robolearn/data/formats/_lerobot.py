"""Reading a LeRobot dataset of any version: rows of parquet and frames of video as an Episode.

A dataset is a folder: `meta/` lists features and episodes, `data/` holds parquet rows, `videos/` one mp4 or more for each camera.
Which file holds an episode is what the versions differ in; lerobot_v2 and lerobot_v3 find it and hand it over as a Listed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hardware.types import ArraySpec, RobotSpec, Source
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode
from robolearn.data.formats._image import decode_images
from robolearn.data.formats._lerobot_info import INTERVENTION, OUR_FEATURES, OURS, ROW, Info, roles_of
from robolearn.data.formats._parquet import numbers
from robolearn.data.formats._reader import Options, chosen_cameras, episode
from robolearn.data.formats._video import frames_between, read_frames, read_frames_at, size_and_rate

META = f"{OURS}/meta"  # an episode's meta as JSON, which our writers add to the list of episodes


@dataclass(frozen=True)
class Clip:
    """Where one camera's frames of one episode are: a file, and from when to when [s] (None: to its end)."""

    file: str
    start_s: float = 0.0
    stop_s: float | None = None


@dataclass(frozen=True)
class Listed:
    """One episode as the metadata lists it. Files are relative to the dataset; clips go by feature."""

    index: int
    data: str
    clips: Mapping[str, Clip]
    length: int | None = None
    tasks: Sequence[str] = ()
    meta: str | None = None


class LeRobot:
    """Episodes of one dataset. `rows(episode, columns)` returns its table; the rest is the same in all versions."""

    def __init__(
        self,
        info: Info,
        options: Options,
        listed: Sequence[Listed],
        tasks: Mapping[int, str],
        rows: Callable[[Listed, Sequence[str]], pa.Table],
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.close = close
        self._info, self._tasks, self._rows, self._rate_hz = info, tasks, rows, options.rate_hz
        roles = roles_of(info)
        self._state, self._action, self._mode, notes = roles.state, roles.action, roles.action_mode, roles.notes
        self._scalars = [key for key in (*ROW, *OUR_FEATURES) if key in info.numeric]
        by_key = {key: name for name, key in roles.cameras.items()}
        if options.cameras is not None:
            options = Options(options.rate_hz, tuple(by_key.get(name, name) for name in options.cameras))
        self._cameras = {name: roles.cameras[name] for name in chosen_cameras(list(roles.cameras), options)}
        self._listed = self._complete(listed, notes)
        self.numbers: Sequence[int] = [one.index for one in self._listed]
        self.spec = self._spec(notes)
        self.notes: Sequence[str] = tuple(notes)

    def __len__(self) -> int:
        return len(self._listed)

    def __getitem__(self, index: int) -> Episode:
        listed, features = self._listed[index], self._info.features
        pictures = [key for key in self._cameras.values() if features[key]["dtype"] == "image"]
        plain = [*self._state, *self._action, *self._scalars]
        table = self._rows(listed, [*plain, *pictures])
        column = {key: numbers(table, key, math.prod(features[key]["shape"])) for key in plain}
        stamps = column["timestamp"][:, 0].astype(np.float64) if "timestamp" in column else np.arange(len(table)) / self._info.fps
        state = {}
        for key, parts in self._state.items():
            ends = np.cumsum([part.dim for part in parts.values()])
            state |= dict(zip(parts, np.split(column[key], ends[:-1], axis=1), strict=True))
        done, success = (column[key][:, 0].astype(bool) if key in column else None for key in ("next.done", "next.success"))
        extra: dict[str, Any] = {}
        if f"{OURS}.requested_action" in column:
            extra["requested_action"] = column[f"{OURS}.requested_action"].astype(np.float32)
        return episode(
            self.spec,
            action=self._executed(column),
            state=state,
            images={name: self._frames(key, listed, table, stamps) for name, key in self._cameras.items()},
            time=self._time(column, stamps),
            reward=column.get("next.reward"),
            terminal=self._terminal(len(table), done, success),
            source=self._source(column),
            meta=self._meta(listed, column, success),
            **extra,
        )

    # What is where ----------------------------------------------------------------------------------------------------

    def _complete(self, listed: Sequence[Listed], notes: list[str]) -> list[Listed]:
        """The episodes whose files are all here. UserError: none is, or none is listed."""
        if not listed:
            raise UserError("meta: lists no episode")
        videos = [key for key in self._cameras.values() if self._info.features[key]["dtype"] == "video"]
        known: dict[str, bool] = {}
        missing: dict[str, list[str]] = {"data": [], "videos": []}

        def here(file: str) -> bool:
            if file not in known:
                known[file] = os.path.isfile(f"{self._info.path}/{file}")
            return known[file]

        complete = []
        for one in listed:
            lost = [key for key in videos if key not in one.clips or not here(one.clips[key].file)]
            if not here(one.data):
                missing["data"].append(one.data)
            elif lost:
                missing["videos"].append(one.clips[lost[0]].file if lost[0] in one.clips else lost[0])
            else:
                complete.append(one)
        out = "Options(cameras=()), in ingest a bare --cameras, reads all episodes without images"
        for what, files in missing.items():
            if files:
                lines = f"{len(files)} of {len(listed)} episodes have not all their {what} (first: {files[0]} is not here)"
                if not complete:
                    raise UserError(f"{lines}; {'none is left' if what == 'data' else out}")
                notes.append(f"left out: {lines}{f'; {out}' if what == 'videos' else ''}")
        return complete

    def _spec(self, notes: list[str]) -> RobotSpec:
        info = self._info
        if not self._action and "observation.state" not in self._state:
            raise UserError("meta/info.json: has neither an action nor observation.state")
        if not self._action:
            notes.append("action: not recorded; the next row's observation.state stands for it, in the last row its own")
            parts = self._state["observation.state"].values()
        else:
            parts = self._action.values()
        columns = [sum(values, ()) for values in zip(*((p.names, p.units, p.low, p.high) for p in parts), strict=True)]
        if self._mode is None:
            notes.append("units and limits are not recorded: left open")
            notes.append(
                "who acted is not recorded: every row counts as a person's"
                if INTERVENTION not in info.features
                else f"who acted: a person where {INTERVENTION}, else a policy"
            )
        if len(self._action) > 1:
            notes.append(f"action: {', '.join(self._action)} one after the other")
        if self._rate_hz is not None:
            notes.append(f"time: row number / {self._rate_hz:g} Hz as asked for; the files say {info.fps:g} Hz")
        if "next.reward" not in info.features:
            notes.append("reward: not recorded; zero")
        if "next.done" in info.features and "next.success" not in info.features and self._mode is None:
            notes.append("next.done: does not tell the task's end from a time limit; no row is terminal")
        robot = info.raw.get("robot_type")
        return RobotSpec(
            name=robot if isinstance(robot, str) and robot else info.path.name,
            cameras={name: self._size(key) for name, key in self._cameras.items()},
            state={name: part for found in self._state.values() for name, part in found.items()},
            action=ArraySpec(*columns),
            action_mode=self._mode or ("as_recorded" if self._action else "next_state"),
            rate_hz=self._rate_hz or info.fps,
        )

    def _size(self, key: str) -> tuple[int, int]:
        """(height, width) [px]: a video's own; of images in parquet what the feature says."""
        feature = self._info.features[key]
        if feature["dtype"] == "video":
            return size_and_rate(self._info.locate(self._listed[0].clips[key].file))[0]
        shape, names = feature["shape"], feature.get("names")
        if len(shape) != 3:
            raise UserError(f"meta/info.json: {key} has shape {shape}; expected (height, width, 3) or (3, height, width) [px]")
        first = isinstance(names, list) and names and str(names[0]).startswith("channel")
        height, width = shape[1:] if first or (shape[0] in (1, 3) and shape[2] not in (1, 3)) else shape[:2]
        return height, width

    # What is in it ----------------------------------------------------------------------------------------------------

    def _frames(self, key: str, listed: Listed, table: pa.Table, stamps: np.ndarray) -> np.ndarray:
        """uint8 (rows, H, W, 3)."""
        if self._info.features[key]["dtype"] == "image":
            return decode_images([self._encoded(cell.as_py(), key) for cell in table.column(key)], self._size(key), key)
        clip = listed.clips[key]
        file = self._info.locate(clip.file)
        try:
            if frames_between(file, clip.start_s, clip.stop_s) == len(table):  # one for each row, whatever clock the rows had
                return read_frames(file, len(table), clip.start_s)
            return read_frames_at(file, clip.start_s + stamps)  # as LeRobot looks frames up
        except UserError as error:
            raise UserError(f"{key}: {error}") from error

    def _encoded(self, cell: Any, key: str) -> bytes | Path:
        """What a cell of images holds: {"bytes", "path"}, the bytes themselves, or in old datasets only a path."""
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if data is None and isinstance(cell, dict) and isinstance(cell.get("path"), str):
            return self._info.locate(cell["path"])
        if not isinstance(data, bytes):
            raise UserError(f"{key}: holds {type(data).__name__}; expected the bytes of an image")
        return data

    def _executed(self, column: Mapping[str, np.ndarray]) -> np.ndarray:
        if self._action:
            return np.concatenate([column[key] for key in self._action], axis=1)
        state = column["observation.state"]
        return np.concatenate([state[1:], state[-1:]])

    def _time(self, column: Mapping[str, np.ndarray], stamps: np.ndarray) -> np.ndarray | None:
        """float64 (rows,) [s]; None: row number / rate."""
        if self._rate_hz is not None:
            return None
        name = f"{OURS}.time" if f"{OURS}.time" in column else "timestamp"
        time = column[name][:, 0].astype(np.float64) if name in column else stamps
        if (late := np.flatnonzero(~(np.diff(time) > 0))).size:
            row = int(late[0]) + 1
            raise UserError(
                f"{name} does not increase at row {row} ({time[row - 1]:g} s, then {time[row]:g} s); "
                f"Options(rate_hz={self._info.fps:g}) numbers the rows instead"
            )
        return time

    def _terminal(self, rows: int, done: np.ndarray | None, success: np.ndarray | None) -> np.ndarray:
        """LeRobot's done also marks a time limit; success tells. Ours marks the task's end only."""
        if f"{OURS}.source" in self._info.features and done is not None:
            return done
        ends = np.zeros(rows, bool)
        if success is not None:
            ends = done & success if done is not None else success & (np.arange(rows) == rows - 1)
        return ends

    def _source(self, column: Mapping[str, np.ndarray]) -> Source | np.ndarray:
        if f"{OURS}.source" in column:
            return column[f"{OURS}.source"][:, 0].astype(np.uint8)
        if INTERVENTION in column:
            return np.where(column[INTERVENTION][:, 0].astype(bool), Source.HUMAN, Source.POLICY).astype(np.uint8)
        return Source.HUMAN

    def _meta(self, listed: Listed, column: Mapping[str, np.ndarray], success: np.ndarray | None) -> dict[str, Any]:
        said: list[Any] = list(listed.tasks)
        if "task_index" in column:
            order = dict.fromkeys(column["task_index"][:, 0].tolist())
            said = [self._tasks[index] for index in order if index in self._tasks] or said
        instruction = str(said[0]) if said else None
        try:
            meta = json.loads(listed.meta) if listed.meta else {}
        except ValueError:
            meta = {}
        before = meta.get("origin") if isinstance(meta, dict) else None
        if not isinstance(meta, dict) or not meta:
            meta = {
                "task": instruction or self._info.path.name,
                "success": None if success is None else bool(success.any()),
                "operator": "unknown",
            }
            if not self._action:
                meta["computed"] = "action from the next row's observation.state"
        meta["instruction"] = meta.get("instruction") or instruction
        if len(said) > 1:
            meta["instructions"] = [str(text) for text in said]
        meta["origin"] = {"file": self._info.path.name, "episode": listed.index, "codebase_version": self._info.version}
        if before is not None:
            meta["origin"]["before"] = before
        return meta
