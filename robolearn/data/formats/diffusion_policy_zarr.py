"""Diffusion Policy's replay buffer (Chi et al. 2023): a Zarr v2 folder or .zarr.zip, `data/*` end to end, `meta/episode_ends`. UMI's too.

The buffer says nothing of robots, rates or units. Push-T's columns are known and get their names, units and rewards; any other
buffer is read as it is: pictures by their shape, `action`, `timestamp` [s], and every other array of numbers as state.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np

from hardware import RobotConfig, spec_of
from hardware.pusht import SUCCESS_COVERAGE, block_pose
from hardware.types import RobotSpec
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode
from robolearn.data.formats._reader import Dataset, Options, Reader, chosen_cameras, episode, rate_of, vector
from robolearn.data.formats._zarr_v2 import Array, Files, Folder, Zip, open_zip

PUSHT = {"img": (96, 96, 3), "state": (5,), "action": (2,)}  # state: agent x, y, block x, y [px], block angle [rad]
GOAL = np.array([256.0, 256.0, np.pi / 4])  # x, y [px], angle [rad]
RATE_HZ = 10.0  # of the paper's own tasks and its real robot
MAX_NUMBERS = 1000  # of one row; beyond that it is a point cloud or a feature map
MIN_SIDE = 8  # [px] of a picture; anything smaller is a matrix
MAX_EPISODES = 10_000_000
CHUNK_BYTES, CHUNK_ROWS = 2_000_000, 4096  # at most, when written; 2 MB is ReplayBuffer's own target
_ENDS = "meta/episode_ends"


def matches(path: Path) -> bool:
    if path.suffix == ".zip" and path.is_file():
        with suppress(UserError), open_zip(path) as file:
            return any(f"/{name}".endswith(f"/{_ENDS}/.zarray") for name in file.namelist())
        return False
    return (path / _ENDS / ".zarray").is_file() and (path / "data").is_dir()


def read(path: Path, options: Options) -> Reader:
    """Push-T: for state and image policies alike, the spec holds the camera, the agent and the block. Others: all arrays of the buffer.

    A picture that is not uint8 has its first rows read, to tell grey levels from 0..1. UserError: damaged, or no rows of numbers.
    """
    files = Zip(path, f"{_ENDS}/.zarray") if path.is_file() else Folder(path)
    try:
        arrays = {name: Array(files, f"data/{name}") for name in sorted(files.names("data")) if not name.startswith(".")}
        known = {name: arrays[name].shape[1:] for name in PUSHT if name in arrays} == PUSHT
        return (_PushT if known else _Buffer)(path, files, arrays, options)
    except BaseException:
        files.close()
        raise


class _Buffer:
    """Any replay buffer."""

    def __init__(self, path: Path, files: Files, arrays: Mapping[str, Array], options: Options) -> None:
        self.path, self._files = path, files
        self._notes: list[str] = []
        self.notes: Sequence[str] = self._notes
        self.arrays = self._used(arrays)
        rows = min((array.shape[0] for array in self.arrays.values()), default=0)
        ends = Array(files, _ENDS)
        self.ends = ends[: MAX_EPISODES + 1].astype(np.int64)
        if (
            len(ends.shape) != 1
            or not 0 < len(self.ends) <= MAX_EPISODES
            or (np.diff(self.ends, prepend=0) <= 0).any()
            or self.ends[-1] > rows
        ):
            raise UserError(f"{_ENDS} must increase from above 0 to at most {rows}, the rows of data")
        self.spec = self._describe(options)
        for array in self.arrays.values():
            if missing := array.missing:
                self._notes.append(f"{array.name}: {missing} chunks are not in the store and read as its fill value, {array.fill}")

    def _used(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        used = {}
        for name, array in arrays.items():
            if _channels(array) == 0 and prod(array.shape[1:]) > MAX_NUMBERS:
                self._notes.append(f"{array.name} {array.dtype} {array.shape[1:]} is left out: depth, points or features")
            else:
                used[name] = array
        return used

    def _describe(self, options: Options) -> RobotSpec:
        pictures = [name for name, array in self.arrays.items() if _channels(array)]
        self.cameras = chosen_cameras(pictures, options)
        self.scales = {name: _grey_levels(self.arrays[name]) for name in self.cameras}
        self.action = next((name for name in ("action", "actions") if name in self.arrays and name not in pictures), None)
        self.clock = "timestamp" if "timestamp" in self.arrays and len(self.arrays["timestamp"].shape) == 1 else None
        self.states = [name for name in self.arrays if name not in (*pictures, self.action, self.clock)]
        state = {name: vector(prod(self.arrays[name].shape[1:]), prefix=f"{name}.") for name in self.states}
        if self.action is not None:
            action = vector(prod(self.arrays[self.action].shape[1:]), prefix="action.")
        elif state:
            action = vector([name for part in state.values() for name in part.names])
            self._notes.append("no action is recorded: it is assumed to be the next row's state, the last row repeats its own")
        else:
            raise UserError(f"data holds {', '.join(self.arrays) or 'nothing'}; expected action, or numbers to take it from")
        if any(_channels(self.arrays[name]) == 4 for name in self.cameras):
            self._notes.append("the fourth channel of a picture, transparency or depth, is left out")
        if (self.path.parent / "videos").is_dir():
            self._notes.append("the videos beside the buffer, as Diffusion Policy's real robot records them, are not read")
        self._notes.append("units, limits, frames and who acted are not recorded: the numbers are as they are, a human is assumed")
        cameras = {name: _height_width(self.arrays[name]) for name in self.cameras}
        return RobotSpec("unknown", cameras, state, action, "unknown", self._rate(options))

    def _rate(self, options: Options) -> float:
        if options.rate_hz is not None:
            return options.rate_hz
        if self.clock is not None:
            return rate_of(self.arrays[self.clock][: int(self.ends[0])].astype(np.float64))
        self._notes.append(f"no rate is recorded: {RATE_HZ:g} Hz is assumed, that of the paper's own tasks")
        return RATE_HZ

    def __len__(self) -> int:
        return len(self.ends)

    def close(self) -> None:
        self._files.close()

    def __getitem__(self, index: int) -> Episode:
        rows = self._rows(index)
        state = {name: self.arrays[name][rows].reshape(rows.stop - rows.start, -1) for name in self.states}
        if self.action is not None:
            action = self.arrays[self.action][rows].reshape(rows.stop - rows.start, -1)
        else:
            now = np.concatenate(list(state.values()), 1)
            action = np.concatenate([now[1:], now[-1:]])
        clock = None if self.clock is None else self.arrays[self.clock][rows].astype(np.float64)
        return episode(
            self.spec,
            action=action,
            state=state,
            images={name: self._pictures(name, rows) for name in self.cameras},
            time=None if clock is None else clock - clock[0],
            meta={
                "task": self.path.name.split(".")[0],
                "success": None,
                "operator": "unknown",
                "origin": {"file": self.path.name, "episode": index},
                **({} if self.action else {"computed": "action: the next row's state"}),
            },
        )

    def _rows(self, index: int) -> slice:
        return slice(int(self.ends[index - 1]) if index else 0, int(self.ends[index]))

    def _pictures(self, name: str, rows: slice) -> np.ndarray:
        """uint8 (T, H, W, 3)."""
        array = self.arrays[name]
        image = array[rows]
        if image.shape[3] != _channels(array):
            image = np.moveaxis(image, 1, 3)
        if image.dtype != np.uint8:
            image = image * (255.0 / self.scales[name])
            if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 255):
                raise UserError(f"{array.name} leaves 0..{self.scales[name]:g} [grey levels], which its first rows keep to")
            image = np.rint(image).astype(np.uint8)
        return np.ascontiguousarray(np.repeat(image, 3, 3) if image.shape[3] == 1 else image[..., :3])


class _PushT(_Buffer):
    """The columns of the Push-T task. Its pictures are float32 that hold whole grey levels."""

    def _used(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        return {name: arrays[name] for name in PUSHT}

    def _describe(self, options: Options) -> RobotSpec:
        self.cameras, self.scales = chosen_cameras(["img"], options), {"img": 255.0}
        self._notes += [
            "Push-T: data/state becomes agent_pos and block_pose (x, y, sine, cosine); keypoint and n_contacts are left out",
            "rate, reward, terminal: not recorded; 10 Hz is the task's, the rest is computed from the block's pose",
        ]
        images, state = spec_of(RobotConfig("pusht")), spec_of(RobotConfig("pusht:state"))
        cameras = images.cameras if self.cameras else {}
        return replace(images, cameras=cameras, state={**images.state, **state.state}, rate_hz=options.rate_hz or images.rate_hz)

    def __getitem__(self, index: int) -> Episode:
        rows = self._rows(index)
        state, action = (self.arrays[name][rows].astype(np.float32) for name in ("state", "action"))
        if not np.isfinite(state).all():
            raise UserError(f"data/state is not finite at row {int(np.argmin(np.isfinite(state).all(1)))} of the episode")
        covered = coverage(state[:, 2:])
        reached = np.append(covered[1:], covered[-1])  # what row t's action led to is seen at row t + 1
        return episode(
            self.spec,
            action=action,
            state={"agent_pos": state[:, :2], "block_pose": block_pose(state)},
            images={"image": self._pictures("img", rows)} if self.cameras else {},
            reward=np.clip(reached / SUCCESS_COVERAGE, 0, 1),
            terminal=bool(reached[-1] > SUCCESS_COVERAGE),
            meta={
                "task": "pusht",
                "success": bool((covered > SUCCESS_COVERAGE).any()) or None,  # the last action's outcome was not recorded
                "max_coverage": float(covered.max()),
                "operator": "human",
                "origin": {"file": self.path.name, "episode": index},
                "computed": "reward, terminal and success from the recorded block poses; time from the rate",
            },
        )


def coverage(block: np.ndarray) -> np.ndarray:
    """Share of the goal T that the block T covers; block: (N, 3) x, y [px], angle [rad]. Geometry of gym-pusht."""
    import shapely
    from shapely.affinity import affine_transform

    tee = shapely.union_all([shapely.box(-60, 0, 60, 30), shapely.box(-15, 30, 15, 120)])

    def placed(pose: np.ndarray) -> shapely.Geometry:
        x, y, angle = pose
        c, s = np.cos(angle), np.sin(angle)
        return affine_transform(tee, [c, -s, s, c, x, y])

    goal = placed(GOAL)
    return shapely.area(shapely.intersection(goal, np.array([placed(pose) for pose in block]))) / shapely.area(goal)


def _channels(array: Array) -> int:
    """1, 3 or 4 where the rows are colour or grey pictures, channels last or first; else 0."""
    if len(array.shape) != 4:
        return 0
    valid = (1, 3, 4) if array.dtype == np.uint8 else (3,) if array.dtype.kind == "f" else ()  # one float channel is depth
    for channels, size in ((array.shape[3], array.shape[1:3]), (array.shape[1], array.shape[2:])):
        if channels in valid and min(size) >= MIN_SIDE:
            return channels
    return 0


def _height_width(array: Array) -> tuple[int, int]:
    last = array.shape[3] == _channels(array)
    return (array.shape[1], array.shape[2]) if last else (array.shape[2], array.shape[3])


def _grey_levels(array: Array) -> float:
    """The number that means white: 255, or 1 where no number of the first chunk is above it."""
    if array.dtype == np.uint8:
        return 255.0
    first = array[: array.chunks[0]]
    return 1.0 if 0 < first.max(initial=0) <= 1 else 255.0


def write(path: Path, dataset: Dataset) -> None:
    """A buffer that Diffusion Policy's ReplayBuffer opens: Blosc, chunks along time only; a zip where `path` ends in .zip.

    Keys: the cameras, the states, action, and timestamp (float64 [s], from each episode's start). Not kept, because the format
    has no place for it: names, units, reward, terminal, source, meta. UserError: names that collide.
    """
    spec = dataset.spec
    keys = [*spec.cameras, *spec.state, "action", "timestamp"]
    if len(set(keys)) != len(keys):
        raise UserError(
            f"{path}: cameras {sorted(spec.cameras)} and states {sorted(spec.state)} share a name, or have 'action', 'timestamp'"
        )
    building = path.with_name(f".{path.name}.partial")
    shutil.rmtree(building, ignore_errors=True)
    try:
        _write_folder(building, dataset)
        if path.suffix == ".zip":
            with zipfile.ZipFile(building / "packed", "w") as packed:  # not compressed again
                for file in sorted(f for f in building.rglob("*") if f.is_file() and f.name != "packed"):
                    packed.write(file, file.relative_to(building))
            (building / "packed").rename(path)
        else:
            building.rename(path)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write_folder(path: Path, dataset: Dataset) -> None:
    import zarr
    from numcodecs import Blosc

    group = zarr.create_group(str(path), zarr_format=2)
    group.require_group("data")
    group.require_group("meta")
    ends: list[int] = []
    arrays: dict[str, zarr.Array] = {}
    for index in range(len(dataset)):
        rows = dataset[index]
        for key, values in {**rows.images, **rows.state, "action": rows.action, "timestamp": rows.time}.items():
            if key not in arrays:
                length = max(1, min(CHUNK_ROWS, CHUNK_BYTES // max(values[0].nbytes, 1)))
                arrays[key] = group.create_array(
                    f"data/{key}",
                    shape=(0, *values.shape[1:]),
                    chunks=(length, *values.shape[1:]),
                    dtype=values.dtype,
                    compressors=Blosc("zstd", clevel=5, shuffle=Blosc.BITSHUFFLE),  # ReplayBuffer's own choice for disks
                    config={"write_empty_chunks": True},  # a chunk that is not there looks lost
                )
            arrays[key].append(np.asarray(values))
        ends.append((ends[-1] if ends else 0) + len(rows))
    group.create_array("meta/episode_ends", data=np.array(ends, np.int64), compressors=None)
