"""What the writers of LeRobot datasets share: features, rows, statistics, and what is kept for the way back.

LeRobot's clock is frame_index / fps and its frames are video, so `timestamp` is that grid and images are lossy. Kept beside it, under
names that LeRobot loads and passes over: `robolearn.time` (the measured time [s]), `robolearn.requested_action`, `robolearn.source`,
each episode's meta as JSON, and with each feature the parts, units and limits it came from. Our readers take them back: all but the
images is then as before. All parts of the state stand in `observation.state`, where LeRobot's policies look for them, except
`environment_state`, for which they have a key of its own. `next.done` marks where the task ended, and never a time limit.

Lost: capture times of images and streams, which have no place in the format; and a request that is no number, in whose place the
executed action stands, because LeRobot's own tools turn NaN into a gap that LeRobot then cannot load. A rate that is no whole number
is kept as it is and loads in LeRobot, but its converter from v2.1 to v3.0 truncates it: write v3.0 then.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hardware.types import ArraySpec, RobotSpec
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode, check_episode
from robolearn.data.formats._lerobot_info import OUR_FEATURES, OURS
from robolearn.data.formats._reader import Dataset
from robolearn.data.formats._video import VideoWriter

CHUNK = 1000  # files in one folder, LeRobot's default
_ENVIRONMENT = "environment_state"
_TIME, _REQUESTED, _SOURCE = OUR_FEATURES
_QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
_SAMPLES, _SAMPLE_PX = 100, 150  # of an episode's frames and of their longer side, for statistics
_ROW = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64", "task_index": "int64"}

Stats = dict[str, dict[str, list]]  # feature -> min, max, mean, std, count, q01 ... q99


class Recording:
    """One dataset on its way out: its features, and what has been counted so far."""

    def __init__(self, spec: RobotSpec) -> None:
        """UserError: a camera whose name LeRobot does not take."""
        self.spec = spec
        self.fps: int | float = int(spec.rate_hz) if float(spec.rate_hz).is_integer() else spec.rate_hz
        self.cameras = {f"observation.images.{name}": name for name in spec.cameras}
        self.tasks: dict[str, int] = {}
        self.episode_count = self.row_count = 0
        if bad := [name for name in spec.cameras if "/" in name or name in ("", ".", "..")]:
            raise UserError(f"cameras: {bad[0]!r} cannot be a feature of LeRobot's; rename it")
        self._state = {
            key: parts
            for key, parts in {
                "observation.state": {name: part for name, part in spec.state.items() if name != _ENVIRONMENT},
                f"observation.{_ENVIRONMENT}": {name: part for name, part in spec.state.items() if name == _ENVIRONMENT},
            }.items()
            if sum(part.dim for part in parts.values())
        }
        self.features: dict[str, dict[str, Any]] = {key: _feature(parts) for key, parts in self._state.items()}
        self.features["action"] = _feature({"action": spec.action}, mode=spec.action_mode)
        for key, name in self.cameras.items():
            self.features[key] = {"dtype": "video", "shape": [*spec.cameras[name], 3], "names": ["height", "width", "channels"]}
        single = {"next.reward": "float32", "next.done": "bool", _TIME: "float64", _SOURCE: "uint8"} | _ROW
        self.features[_REQUESTED] = {"dtype": "float32", "shape": [spec.action.dim], "names": list(spec.action.names)}
        self.features |= {key: {"dtype": dtype, "shape": [1], "names": None} for key, dtype in single.items()}

    def episodes(self, dataset: Dataset) -> Iterator[tuple[int, Episode, pa.Table, Stats]]:
        """(number, episode, its rows, its statistics), one at a time. UserError: none, or one that does not fit the spec."""
        if not len(dataset):
            raise UserError("holds no episode; LeRobot has no empty dataset")
        for index in range(len(dataset)):
            episode = dataset[index]
            try:
                check_episode(episode, self.spec)
            except ValueError as error:
                raise UserError(f"episode {index}: {str(error).removeprefix('episode: ')}") from error
            columns = self._columns(episode, index)
            stats = {key: _statistics(values) for key, values in columns.items()}
            stats |= {key: _image_statistics(episode.images[name]) for key, name in self.cameras.items()}
            yield index, episode, _table(columns), stats
            self.episode_count += 1
            self.row_count += len(episode)

    def instruction(self, episode: Episode) -> str:
        """LeRobot asks for a text in every row."""
        return str(episode.meta.get("instruction") or episode.meta.get("task") or self.spec.name)

    def meta(self, episode: Episode) -> str:
        return json.dumps(dict(episode.meta), default=lambda value: value.tolist() if hasattr(value, "tolist") else str(value))

    def describe(self, key: str, video: VideoWriter) -> None:
        """Note in a camera's feature how it was encoded."""
        height, width, _ = self.features[key]["shape"]
        self.features[key]["info"] = {
            "video.height": height,
            "video.width": width,
            "video.codec": video.codec,
            "video.pix_fmt": video.pix_fmt,
            "video.fps": self.fps,
            "video.channels": 3,
            "has_audio": False,
            "is_depth_map": False,
        }

    def _columns(self, episode: Episode, index: int) -> dict[str, np.ndarray]:
        rows = np.arange(len(episode))
        task = self.tasks.setdefault(self.instruction(episode), len(self.tasks))
        columns = {
            key: np.concatenate([episode.state[name] for name in parts], axis=1) for key, parts in self._state.items()
        } | {
            "action": episode.action,
            "next.reward": episode.reward,
            "next.done": episode.terminal,
            _TIME: episode.time,
            _REQUESTED: np.where(np.isfinite(episode.requested_action), episode.requested_action, episode.action),
            _SOURCE: episode.source,
            "timestamp": rows / self.fps,
            "frame_index": rows,
            "episode_index": np.full(len(rows), index),
            "index": self.row_count + rows,
            "task_index": np.full(len(rows), task),
        }  # fmt: skip
        return {key: values.astype(self.features[key]["dtype"]) for key, values in columns.items()}


class Totals:
    """Statistics of all episodes from those of each, weighted by their rows; quantiles are averaged, as LeRobot does."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, np.ndarray]] = {}

    def add(self, stats: Stats) -> None:
        for key, part in stats.items():
            values = {name: np.asarray(value, np.float64) for name, value in part.items()}
            count = values["count"][0]
            sums = {name: value * count for name, value in values.items() if name not in ("min", "max", "std", "count")}
            sums |= {"square": (values["std"] ** 2 + values["mean"] ** 2) * count, "count": values["count"]}
            if (have := self._sums.get(key)) is None:
                self._sums[key] = sums | {"min": values["min"], "max": values["max"]}
                continue
            have |= {name: have[name] + value for name, value in sums.items()}
            have |= {"min": np.minimum(have["min"], values["min"]), "max": np.maximum(have["max"], values["max"])}

    def result(self) -> Stats:
        stats = {}
        for key, sums in self._sums.items():
            count = sums["count"][0]
            means = {name: value / count for name, value in sums.items() if name not in ("min", "max", "square", "count")}
            means["std"] = np.sqrt(np.maximum(sums["square"] / count - means["mean"] ** 2, 0))
            stats[key] = {name: value.tolist() for name, value in (means | {n: sums[n] for n in ("min", "max")}).items()}
            stats[key]["count"] = [int(count)]
        return stats


@contextmanager
def building(path: Path) -> Iterator[Path]:
    """A folder beside `path` that becomes it at the end; an error leaves neither."""
    root = path.with_name(f".{path.name}.{os.getpid()}.new")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    try:
        yield root
        root.rename(path)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def info_json(recording: Recording, version: str, data_path: str, video_path: str) -> dict[str, Any]:
    return {
        "codebase_version": version,
        "robot_type": recording.spec.name,
        "total_episodes": recording.episode_count,
        "total_frames": recording.row_count,
        "total_tasks": len(recording.tasks),
        "chunks_size": CHUNK,
        "fps": recording.fps,
        "splits": {"train": f"0:{recording.episode_count}"},
        "data_path": data_path,
        "video_path": video_path if recording.cameras else None,
        "features": recording.features,
    }


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=4))


def _feature(parts: Mapping[str, ArraySpec], **more: str) -> dict[str, Any]:
    names = [name if len(parts) == 1 else f"{part}.{name}" for part, spec in parts.items() for name in spec.names]

    def plain(spec: ArraySpec) -> dict[str, list]:
        low, high = ([float(x) if math.isfinite(x) else None for x in limits] for limits in (spec.low, spec.high))  # JSON has no infinity
        return {"names": list(spec.names), "units": list(spec.units), "low": low, "high": high}

    kept = {"parts": {name: plain(spec) for name, spec in parts.items()}} | more
    return {"dtype": "float32", "shape": [len(names)], "names": names, OURS: kept}


def _table(columns: Mapping[str, np.ndarray]) -> pa.Table:
    """One number a row is a plain column, several are a list of fixed length: so `datasets` casts them to LeRobot's features."""

    def column(values: np.ndarray) -> pa.Array:
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        return flat if values.ndim == 1 or values.shape[1] == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])

    return pa.table({key: column(values) for key, values in columns.items()})


def _statistics(values: np.ndarray) -> dict[str, list]:
    """Of (rows,) or (rows, D) numbers: lists of D."""
    return _of_rows(values.reshape(len(values), -1).astype(np.float64), len(values))


def _image_statistics(frames: np.ndarray) -> dict[str, list]:
    """Of uint8 (rows, H, W, 3), from some frames and pixels: grey levels / 255, in LeRobot's shape (3, 1, 1)."""
    step, pixel = -(-len(frames) // _SAMPLES), max(-(-max(frames.shape[1:3]) // _SAMPLE_PX), 1)
    some = frames[::step, ::pixel, ::pixel]
    stats = _of_rows(some.reshape(-1, 3) / 255.0, len(some))
    return {name: value if name == "count" else [[[x]] for x in value] for name, value in stats.items()}


def _of_rows(table: np.ndarray, count: int) -> dict[str, list]:
    quantiles = np.quantile(table, list(_QUANTILES.values()), axis=0)
    stats = {"min": table.min(0), "max": table.max(0), "mean": table.mean(0), "std": table.std(0)} | dict(
        zip(_QUANTILES, quantiles, strict=True)
    )
    return {name: value.tolist() for name, value in stats.items()} | {"count": [count]}
