"""Diffusion Policy's replay buffer (Chi et al. 2023): a Zarr v2 folder, `data/*` end to end and `meta/episode_ends`.

The buffer says nothing of robots, rates or units, so each task's columns are spelled out here: so far Push-T's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hardware import RobotConfig, spec_of
from hardware.pusht import SUCCESS_COVERAGE, block_pose
from hardware.types import RobotSpec, Source
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode

PUSHT = {"img": (96, 96, 3), "state": (5,), "action": (2,)}  # state: agent x, y, block x, y [px], block angle [rad]
GOAL = np.array([256.0, 256.0, np.pi / 4])  # x, y [px], angle [rad]


def matches(path: Path) -> bool:
    return (path / "meta" / "episode_ends" / ".zarray").is_file() and (path / "data").is_dir()


def read(path: Path) -> tuple[RobotSpec, Iterator[Episode]]:
    """Push-T demonstrations, for state and image policies alike: the spec holds the camera, the agent and the block.

    UserError: damaged, or columns of another task.
    """
    episodes = _PushT(path)
    return episodes.spec, iter(episodes)  # type: ignore[call-overload]


class _PushT:
    """Indexable and of known length, so that Python's own iterator over it can tell how many are left."""

    def __init__(self, path: Path) -> None:
        import zarr

        self.path = path
        try:
            group = zarr.open_group(str(path), mode="r")
            self.ends = np.asarray(group["meta/episode_ends"][:]).astype(np.int64)  # type: ignore[index]
            self.data: dict[str, Any] = {name: group[f"data/{name}"] for name in PUSHT if f"data/{name}" in group}
        except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
            raise UserError(f"{path}: damaged Zarr v2 folder: {error}") from error
        shapes = {name: tuple(array.shape[1:]) for name, array in self.data.items()}
        if shapes != PUSHT:
            raise UserError(f"{path}: data has {shapes}; only Push-T's columns are known: {PUSHT}")
        rows = min(array.shape[0] for array in self.data.values())
        if self.ends.ndim != 1 or not len(self.ends) or (np.diff(self.ends, prepend=0) <= 0).any() or self.ends[-1] > rows:
            raise UserError(f"{path}: meta/episode_ends must increase from above 0 to at most {rows}, the rows of data")
        images, state = spec_of(RobotConfig("pusht")), spec_of(RobotConfig("pusht:state"))
        self.spec = replace(images, state={**images.state, **state.state})

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> Episode:
        if index >= len(self):
            raise IndexError(index)
        rows = slice(int(self.ends[index - 1]) if index else 0, int(self.ends[index]))
        try:
            image, state, action = (np.asarray(self.data[name][rows]) for name in PUSHT)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise UserError(f"{self.path}: episode {index}: unreadable: {error}") from error
        if image.dtype != np.uint8:  # Push-T's are float32 that hold whole grey levels
            if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 255):
                raise UserError(f"{self.path}: episode {index}: data/img leaves 0..255 [grey levels]")
            image = np.rint(image).astype(np.uint8)
        state, action = state.astype(np.float32), action.astype(np.float32)
        covered = coverage(state[:, 2:])
        reached = np.append(covered[1:], covered[-1])  # what row t's action led to is seen at row t + 1
        terminal = np.zeros(len(state), bool)
        terminal[-1] = reached[-1] > SUCCESS_COVERAGE
        return Episode(
            time=np.arange(len(state)) / self.spec.rate_hz,
            images={"image": image},
            state={"agent_pos": state[:, :2], "block_pose": block_pose(state)},
            action=action,
            requested_action=action,
            reward=np.clip(reached / SUCCESS_COVERAGE, 0, 1).astype(np.float32),
            terminal=terminal,
            source=np.full(len(state), Source.HUMAN, np.uint8),
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
