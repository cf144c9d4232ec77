"""TOTO's real robot demonstrations (Zhou et al. 2023, Train Offline Test Online): a pickle beside the folder `data` with the images.

The pickle, `parsed.pkl` or `parsed_with_embeddings_*.pkl`, is a list with one dict per trajectory (the benchmark's dataset_README) and is
read without being run (`_pickle`). Joint angles are absolute. This is the original release: the Open X-Embodiment copy has other actions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hardware.types import RobotSpec, Source
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode
from robolearn.data.formats._image import decode_images, image_size
from robolearn.data.formats._pickle import numbers, texts, trajectories
from robolearn.data.formats._reader import Options, Reader, chosen_cameras, episode, inside, vector

RATE_HZ = 30.0
KEYS = ("traj_id", "observations", "actions", "rewards")
_JOINTS = vector(7, "rad", prefix="joint")
_POSE = vector(("x", "y", "z", "q0", "q1", "q2", "q3"))
_TASKS = ("scooping", "pouring", "inserting")


def matches(path: Path) -> bool:
    return (found := _pickle_of(path)) is not None and {*KEYS, "terminated"} <= texts(found)


def read(path: Path, options: Options) -> Reader:
    """Every trajectory, failures too. UserError: anything but data in the pickle, images that are missing or lie elsewhere."""
    found = _pickle_of(path)
    if found is None:
        raise UserError("expected a .pkl file, or a folder with one of them")
    if path.is_dir():
        inside(path, found.name)
    return _Toto(found, options)


def _pickle_of(path: Path) -> Path | None:
    """The pickle: `path`, or the only one in the folder `path`."""
    found = [p for p in sorted(path.iterdir()) if p.suffix == ".pkl"] if path.is_dir() else [path]
    return found[0] if len(found) == 1 and found[0].is_file() and found[0].suffix in (".pkl", ".pickle") else None


class _Toto:
    def __init__(self, path: Path, options: Options) -> None:
        self.path, self.root = path, path.parent / "data"
        self.found = trajectories(path, KEYS)
        if not self.found:
            raise UserError(f"{path.name}: holds no trajectory")
        first = self.found[0]
        cameras = sorted(str(key) for key in first if re.fullmatch(r"cam\d+c", str(key)))
        notes = ["terminated: the last step of every trajectory, failures too; terminal and success: a last reward above 0"]
        notes.append("operator: teleoperated, a policy's or a noisy replay, the files do not say which; rows count as human")
        if cameras and not self.root.is_dir():
            notes.append(f"left out (no folder {self.root.name} beside the pickle): {', '.join(cameras)}")
            cameras = []
        self.cameras = chosen_cameras(cameras, options)
        state = {"joint_pos": _JOINTS}
        self.has_pose = "eef_pose_observations" in first
        if self.has_pose:
            state["eef_pose"] = _POSE
            notes.append("eef_pose: position and quaternion as recorded; neither units nor the quaternion's order are documented")
        unread = [k for k in ("embeddings", "eef_pose_actions", *(c[:-1] + "d" for c in cameras)) if k in first]
        if unread:
            notes.append(f"left out: {', '.join(unread)}")
        if options.rate_hz is None:
            notes.append(f"rate: not recorded; {RATE_HZ:g} Hz is what Open X-Embodiment says of toto")
        self.notes: Sequence[str] = notes
        self.spec = RobotSpec(
            name="toto",
            cameras={camera: self._size(camera) for camera in self.cameras},
            state=state,
            action=_JOINTS,
            action_mode="joint_pos",
            rate_hz=options.rate_hz or RATE_HZ,
        )

    def __len__(self) -> int:
        return len(self.found)

    def close(self) -> None:
        """Nothing is held open."""

    def __getitem__(self, index: int) -> Episode:
        one = self.found[index]
        action = self._matrix(one, "actions")
        state = {"joint_pos": self._matrix(one, "observations")}
        if self.has_pose:
            state["eef_pose"] = self._matrix(one, "eef_pose_observations")
        reward = numbers(one["rewards"], "rewards")
        if reward.shape != (len(action),):
            raise UserError(f"rewards has shape {reward.shape}; expected ({len(action)},), as many as actions")
        success = bool(reward[-1] > 0)
        where = "/".join(self.path.absolute().parts[-3:]).lower()
        meta: dict[str, Any] = {
            "task": next((f"toto:{task}" for task in _TASKS if task[:-3] in where), "toto"),
            "success": success,
            "operator": "unknown",
            "origin": {"file": self.path.name, "trajectory": index, "traj_id": _identity(one)},
            "computed": "time from the rate; success and terminal from the last reward",
        }
        for key in ("material", "normalized_reward"):
            if isinstance(value := one.get(key), str | int | float | np.number):
                meta[key] = value.item() if isinstance(value, np.number) else value[:200] if isinstance(value, str) else value
        return episode(
            self.spec,
            action=action,
            state=state,
            images={
                camera: decode_images(self._files(one, camera, len(action)), self.spec.cameras[camera], camera) for camera in self.cameras
            },
            reward=reward,
            terminal=success,
            source=Source.HUMAN,
            meta=meta,
        )

    def _matrix(self, one: dict[Any, Any], key: str) -> np.ndarray:
        values = numbers(one.get(key), key)
        if values.ndim != 2 or values.shape[1] != 7 or not len(values):
            raise UserError(f"{key} has shape {values.shape}; expected (T, 7)")
        return values

    def _files(self, one: dict[Any, Any], camera: str, count: int) -> list[Path]:
        names = one.get(camera)
        names = names.tolist() if isinstance(names, np.ndarray) else names
        if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
            raise UserError(f"{camera} must list {count} file names, as many as actions")
        return [inside(self.root, Path(_identity(one)) / name) for name in names]

    def _size(self, camera: str) -> tuple[int, int]:
        steps = len(self._matrix(self.found[0], "actions"))
        file = self._files(self.found[0], camera, steps)[0]
        return image_size(file, f"{camera} {file.name}")


def _identity(one: dict[Any, Any]) -> str:
    """The name of the trajectory's folder."""
    if not isinstance(one["traj_id"], str) or len(one["traj_id"]) > 200:
        raise UserError("traj_id is no text of at most 200 characters")
    return one["traj_id"]
