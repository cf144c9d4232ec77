"""DROID's raw episodes (Khazatsky et al. 2024): a folder with metadata_<uuid>.json, trajectory.h5 and recordings/MP4, or a tree of such.

    trajectory.h5: action/{joint,cartesian,gripper}_{position,velocity}, observation/{robot_state, timestamp, controller_info, ...}

The robot is sent action/joint_position and action/gripper_position whatever space the operator's controller acts in (DROID's
franka/robot.py, update_command): these are the action, the other spaces are kept as streams. The Franka's gripper_position is 0 open,
1 closed there, the other way round here. Rows where the operator had let go (controller_info/movement_enabled false) were not executed
and are left out, as DROID's own loader can.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hardware.types import ArraySpec, RobotSpec
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode, Stream
from robolearn.data.formats._hdf5 import Group, open_hdf5
from robolearn.data.formats._json import read_object
from robolearn.data.formats._reader import Options, Reader, chosen_cameras, episode, float32, inside, require_memory, vector
from robolearn.data.formats._video import frames_between, read_frames, size_and_rate

RATE_HZ = 15.0  # robot_env.py: control_hz
CAMERAS = ("wrist", "ext1", "ext2")  # metadata's words; each lab's cameras have serial numbers of their own
TREES = (".", "*", *(f"{lab}{outcome}/*/*" for lab in ("", "*/") for outcome in ("success", "failure")))  # [lab/]outcome/date/time
_ARM = tuple(f"joint{i}" for i in range(1, 8))
_POSE = ("x", "y", "z", "euler1x", "euler2y", "euler3z")  # of the flange in the base's frame, Euler about fixed axes
# name here -> (path in the file, names, units)
_STATE = {
    "joint_pos": ("observation/robot_state/joint_positions", _ARM, ("rad",) * 7),
    "joint_vel": ("observation/robot_state/joint_velocities", _ARM, ("rad/s",) * 7),
    "ee_pose": ("observation/robot_state/cartesian_position", _POSE, ("m",) * 3 + ("rad",) * 3),
    "gripper": ("observation/robot_state/gripper_position", ("opening",), ("1",)),
}
_STREAMS = {
    "action.cartesian_position": ("action/cartesian_position", _POSE, ("m",) * 3 + ("rad",) * 3),
    "action.cartesian_velocity": ("action/cartesian_velocity", _POSE, ("1",) * 6),  # shares of the largest
    "action.joint_velocity": ("action/joint_velocity", _ARM, ("1",) * 7),
    "action.gripper_velocity": ("action/gripper_velocity", ("closing",), ("1",)),
    "motor_torques": ("observation/robot_state/motor_torques_measured", _ARM, ("N m",) * 7),
}


def matches(path: Path) -> bool:
    return path.is_dir() and next(_episodes(path), None) is not None


def read(path: Path, options: Options) -> Reader:
    """UserError: no episode, or its first one lacks a camera or a column that every DROID episode has."""
    return _Droid(path, options)


def _episodes(root: Path) -> Iterator[Path]:
    """Folders with a trajectory.h5 and its metadata, where DROID puts them. Links out of `root` are not followed."""
    patterns = [*TREES, *(["*/*"] if root.name in ("success", "failure") else [])]
    for pattern in patterns:
        for file in root.glob(f"{pattern}/trajectory.h5"):
            if next(file.parent.glob("metadata_*.json"), None) and file.resolve().is_relative_to(root.resolve()):
                yield file.parent


class _Droid:
    notes: Sequence[str]

    def __init__(self, path: Path, options: Options) -> None:
        self.path, self.folders = path, sorted(_episodes(path))
        if not self.folders:
            raise UserError("holds no metadata_*.json beside a trajectory.h5, neither itself nor in [lab/]success/date/time below it")
        first = self.folders[0]
        metadata = _metadata(first)
        videos = {name: video for name in CAMERAS if (video := _video(first, metadata, name)) is not None}
        cameras = {name: size_and_rate(videos[name])[0] for name in chosen_cameras(list(videos), options)}
        with open_hdf5(first / "trajectory.h5") as root:
            streams = {name: part for name, part in _STREAMS.items() if part[0] in root}
        action = ArraySpec((*_ARM, "gripper"), ("rad",) * 7 + ("1",), (-np.inf,) * 7 + (0.0,), (np.inf,) * 7 + (1.0,))
        self.spec = RobotSpec(
            "droid",
            cameras,
            {name: vector(names, units) for name, (_, names, units) in _STATE.items()},
            action,
            "joint_pos",
            options.rate_hz or RATE_HZ,
            {name: vector(names, units) for name, (_, names, units) in streams.items()},
        )
        self.notes = [
            "action: joint_position and gripper_position, which are what the robot was sent; the other spaces are kept as streams",
            "gripper turned round: 0 closed to 1 open here, 0 open to 1 closed in the files",
            "rows with movement_enabled false left out, time keeps the gaps; so are rows after a camera's last frame",
            "left out: SVO recordings and the right views (-stereo), camera calibration; rewards are not recorded",
            f"{self.spec.rate_hz:g} Hz, {'as asked for' if options.rate_hz else 'as DROID controls'}; time is the recorded one",
        ]

    def __len__(self) -> int:
        return len(self.folders)

    def close(self) -> None:
        """Nothing is held open."""

    def __getitem__(self, index: int) -> Episode:
        folder = self.folders[index]
        metadata = _metadata(folder)
        videos = {name: _required(folder, metadata, name) for name in self.spec.cameras}
        with open_hdf5(folder / "trajectory.h5") as root:
            joints = _columns(root, "action/joint_position", len(_ARM))
            gripper = 1.0 - _columns(root, "action/gripper_position", 1)
            rows = min([len(joints), *(_frames(video, len(joints)) for video in videos.values())])
            kept = np.flatnonzero(_moving(root, len(joints))[:rows])
            if not len(kept):
                raise UserError(f"{folder.name}: of {len(joints)} rows none has both movement_enabled and a frame")
            lengths = {
                path: (root.dataset(path).shape or (0,))[0] for path in ("action/gripper_position", *(part[0] for part in _STATE.values()))
            }
            lengths |= {path: (root.dataset(path).shape or (0,))[0] for path in (_STREAMS[name][0] for name in self.spec.streams)}
            if short := next((path for path, n in lengths.items() if n != len(joints)), None):
                raise UserError(f"{folder.name}: {short} has {lengths[short]} rows, action/joint_position {len(joints)}")
            stamps = root.group("observation/timestamp")
            time = stamps.array("robot_state/read_start", ndim=1)[kept] / 1e3  # [ms] since 1970
            state = {name: _columns(root, path, len(names))[kept] for name, (path, names, _) in _STATE.items()}
            streams = {name: _columns(root, _STREAMS[name][0], part.dim)[kept] for name, part in self.spec.streams.items()}
            image_time = {}
            for name in videos:
                received = f"cameras/{metadata[f'{name}_cam_serial']}_frame_received"
                taken = stamps.array(received, ndim=1)[kept] / 1e3 if received in stamps else time[:0]
                if len(taken) and (np.diff(taken) >= 0).all():  # a clock that jumps back is worth less than none
                    image_time[name] = taken - time[0]
            recorded = root.attributes()
        state["gripper"] = 1.0 - state["gripper"]
        decoded = int(kept[-1]) + 1
        require_memory(f"{folder.name}: all cameras", (decoded, sum(h * w * 3 for h, w in self.spec.cameras.values())))
        images = {}
        for name, video in videos.items():
            frames = read_frames(video, decoded)
            images[name] = frames if len(kept) == decoded else frames[kept]
        success = metadata.get("success", recorded.get("success"))
        success = None if success is None else bool(success)
        instruction = metadata.get("current_task", recorded.get("current_task"))
        return episode(
            self.spec,
            action=np.concatenate([joints, gripper], axis=1)[kept],
            state=state,
            images=images,
            time=time - time[0],
            terminal=bool(success) and rows == len(joints),
            meta={
                "task": "droid",
                "instruction": instruction if isinstance(instruction, str) else None,
                "success": success,
                "operator": "human",
                "origin": {
                    "folder": str(folder.relative_to(self.path)),
                    **{key: metadata.get(key) for key in ("uuid", "lab", "scene_id", "building", "robot_serial", "date", "droid_version")},
                    "rows": [len(joints), len(kept)],
                },
                "computed": "gripper 1 - recorded; time from the first row on",
            },
            image_time=image_time,
            streams={name: Stream(time - time[0], float32(name, values)) for name, values in streams.items()},
        )


def _metadata(folder: Path) -> dict[str, Any]:
    file = next(iter(sorted(folder.glob("metadata_*.json"))), None)
    if file is None:
        raise UserError(f"{folder.name}: metadata_*.json is missing")
    return read_object(file)


def _video(folder: Path, metadata: dict[str, Any], camera: str) -> Path | None:
    """Of the left eye. Metadata's own paths begin at the lab's folder, which need not be here."""
    serial = metadata.get(f"{camera}_cam_serial")
    if not isinstance(serial, str):
        return None
    video = inside(folder, Path("recordings") / "MP4" / f"{serial}.mp4")
    return video if video.is_file() else None


def _required(folder: Path, metadata: dict[str, Any], camera: str) -> Path:
    video = _video(folder, metadata, camera)
    if video is None:
        raise UserError(f"{folder.name}: the MP4 of camera {camera} is missing; choose other cameras, or leave the episode out")
    return video


def _frames(video: Path, rows: int) -> int:
    """How many of `rows` have a frame: frame i is row i (DROID's RecordedMultiCameraWrapper)."""
    frames = frames_between(video) or rows  # 0: the header does not say
    if frames > rows + max(15, rows // 10):
        raise UserError(f"{video.name}: holds {frames} frames for {rows} rows; DROID records one for each")
    return frames


def _moving(root: Group, rows: int) -> np.ndarray:
    path = "observation/controller_info/movement_enabled"
    return root.array(path, ndim=1).astype(bool) if path in root else np.ones(rows, bool)


def _columns(root: Group, path: str, width: int) -> np.ndarray:
    """(T, width). Single numbers are kept as (T,)."""
    values = root.array(path)
    if values.ndim == 1 and width == 1:
        values = values[:, None]
    if values.ndim != 2 or values.shape[1] != width:
        raise UserError(f"{path} has shape {values.shape}; expected (T, {width})")
    return values
