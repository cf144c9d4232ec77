"""ACT's and ALOHA's recordings (Zhao et al. 2023, Fu et al. 2024): a folder of episode_<i>.hdf5, one file for each episode.

    /action (T, 14), /base_action (T, 2)     the leader arms' joints; Mobile ALOHA's base
    /observations/{qpos, qvel, effort} (T, 14), /observations/images/<camera> (T, H, W, 3), or JPEG where the attribute compress is set

Layout, columns and the 50 Hz: ACT's record_sim_episodes.py and constants.py, Mobile ALOHA's record_episodes.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hardware.types import ArraySpec, RobotSpec, Source
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode
from robolearn.data.formats._hdf5 import Group, is_encoded, open_hdf5, read_rgb, rgb_size, root_has
from robolearn.data.formats._reader import Options, Reader, chosen_cameras, episode, inside, vector

RATE_HZ = 50.0  # constants.py: DT = 0.02
FILE = re.compile(r"episode_(\d+)\.(hdf5|h5)")
_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
_COLUMNS = tuple(f"{side}_{joint}" for side in ("left", "right") for joint in (*_JOINTS, "gripper"))
_UNITS = {
    "qpos": ("rad",) * 6 + ("1",),  # the gripper's joint, 0 closed to 1 open (constants.py: PUPPET_GRIPPER_JOINT_NORMALIZE_FN)
    "qvel": ("rad/s",) * 6 + ("1/s",),
    "effort": ("",) * 7,
}


PEEK = 8  # files that tell whether a folder holds such episodes


def matches(path: Path) -> bool:
    files = _files(path)
    return any(root_has(file, _is_episode) for file in files[:PEEK])  # the first may be the damaged one


def _is_episode(root: Group) -> bool:
    return "observations/qpos" in root and "action" in root and not root.is_group("action")


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if FILE.fullmatch(path.name) else []
    found = [(int(match[1]), file) for file in path.glob("episode_*") if (match := FILE.fullmatch(file.name))]
    return [file for _, file in sorted(found)]


def read(path: Path, options: Options) -> Reader:
    """The episodes of a folder, or one of them. UserError: no episode file, damaged, or another layout."""
    return _Recordings(path, options)


class _Recordings:
    notes: Sequence[str]

    def __init__(self, path: Path, options: Options) -> None:
        self.path, self.files = path, _files(path)
        if not self.files:
            raise UserError("holds no episode_<number>.hdf5")
        with open_hdf5(self.files[0]) as root:
            observations = root.group("observations")
            cameras, left_out = {}, []
            for name in observations.group("images").names() if "images" in observations else ():
                size = rgb_size(observations.dataset(f"images/{name}"))
                if size is None or name.endswith("_depth"):
                    left_out.append(name)
                else:
                    cameras[name] = size
            widths = {name: observations.array(name, slice(0, 1), ndim=2).shape[1] for name in _UNITS if name in observations}
            if "qpos" not in widths:
                raise UserError(f"{self.files[0].name}: observations has no qpos, the joints' positions")
            state = {name: _columns(name, width) for name, width in widths.items()}
            action = _columns("qpos", root.array("action", slice(0, 1), ndim=2).shape[1])
            self._base = "base_action" in root
            encoded = [name for name in cameras if is_encoded(observations.dataset(f"images/{name}"))]
            simulated = bool(root.attributes().get("sim", False))
        if self._base:
            base = vector(("base_linear", "base_angular"), ("m/s", "rad/s"))
            action = ArraySpec(*(getattr(action, field) + getattr(base, field) for field in ("names", "units", "low", "high")))
        chosen = {name: cameras[name] for name in chosen_cameras(list(cameras), options)}
        self.spec = RobotSpec("aloha", chosen, state, action, "joint_pos", options.rate_hz or RATE_HZ)
        folder = (path if path.is_dir() else path.parent).name
        self.task = folder
        self.operator = "scripted" if "scripted" in folder else "human" if "human" in folder or not simulated else "unknown"
        notes = ["success and rewards are not recorded"]
        if action.names[:14] == _COLUMNS:
            notes.append("14 columns taken as ALOHA's: for each arm 6 joints [rad] and a gripper, 0 closed to 1 open")
        if options.rate_hz is None:
            notes.append(f"{RATE_HZ:g} Hz, as ALOHA records; the files do not say")
        if self._base:
            notes.append("base_action (the base's measured velocity) appended to the action, as Mobile ALOHA's training does")
        if encoded:
            notes.append(f"JPEG with red and blue swapped back, as ACT's own tools do: {', '.join(encoded)}")
        if left_out:
            notes.append(f"left out, not colour images: {', '.join(left_out)}")
        if self.operator == "unknown":
            notes.append("operator unknown, taken as human: simulated, and the folder's name says neither scripted nor human")
        self.notes = notes

    def __len__(self) -> int:
        return len(self.files)

    def close(self) -> None:
        """Nothing is held open."""

    def __getitem__(self, index: int) -> Episode:
        file = self.files[index] if self.path.is_file() else inside(self.path, self.files[index].name)
        with open_hdf5(file) as root:
            action = root.array("action", ndim=2)
            if self._base:
                base = root.array("base_action", ndim=2)
                if len(base) != len(action):
                    raise UserError(f"{file.name}: action has {len(action)} rows, base_action {len(base)}")
                action = np.concatenate([action, base], axis=1)
            images = {name: self._frames(root, name, size) for name, size in self.spec.cameras.items()}
            state = {name: root.array(f"observations/{name}", ndim=2) for name in self.spec.state}
            simulated = root.attributes().get("sim")
        return episode(
            self.spec,
            action=action,
            state=state,
            images=images,
            source=Source.SCRIPTED if self.operator == "scripted" else Source.HUMAN,
            meta={
                "task": self.task,
                "success": None,
                "operator": self.operator,
                "simulated": None if simulated is None else bool(simulated),
                "origin": {"file": file.name},
                "computed": "time from the rate",
            },
        )

    def _frames(self, root: Group, camera: str, size: tuple[int, int]) -> np.ndarray:
        dataset = root.dataset(f"observations/images/{camera}")
        frames = read_rgb(dataset, size)
        # OpenCV's encoder takes the first channel for blue, and ACT hands it RGB; its decoder undoes that, any other does not.
        return np.ascontiguousarray(frames[..., ::-1]) if is_encoded(dataset) else frames


def _columns(name: str, width: int) -> ArraySpec:
    if width == len(_COLUMNS):
        return vector(_COLUMNS, _UNITS[name] * 2)
    return vector(width, prefix=f"{name}_")
