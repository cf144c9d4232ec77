"""D4RL's datasets (Fu et al. 2020): one flat HDF5 file, all episodes end to end.

    observations (N, D), actions (N, A), rewards (N,), terminals (N,), [timeouts (N,)], [next_observations], [infos/*], [metadata/*]

An episode ends at a terminal or a timeout. Older files lack `timeouts`: there it also ends after as many steps as the environment was
registered with, which is how D4RL's own sequence_dataset cuts them. Facts: D4RL's offline_env.py and its registrations.
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
from robolearn.data.formats._hdf5 import Group, open_hdf5, read_rgb, rgb_size, root_has
from robolearn.data.formats._reader import Options, Reader, chosen_cameras, episode, vector

COLUMNS = ("observations", "actions", "rewards", "terminals")
MAX_STEPS, RATE_HZ = 1000, 20.0  # where the name says nothing
# Of the environments, by what their files are called: max_episode_steps as D4RL registers them (None: not known), and
# 1 / (frame_skip x timestep) [Hz] as Gymnasium documents them (None: it does not). The first that fits.
_KNOWN = {
    "halfcheetah": (1000, 20.0),
    "hopper": (1000, 125.0),
    "walker": (1000, 125.0),
    "ant_maze_u-maze": (700, None),
    "antmaze-umaze": (700, None),
    "ant_maze": (1000, None),
    "antmaze": (1000, None),
    "ant": (1000, 20.0),
    "maze2d-umaze": (300, None),
    "maze2d-medium": (600, None),
    "maze2d-large": (800, None),
    "pen": (100, 100.0),
    "hammer": (200, 100.0),
    "door": (200, 100.0),
    "relocate": (200, 100.0),
    "kitchen": (280, 12.5),
}


def known(name: str) -> tuple[int | None, float | None]:
    """(max_episode_steps, rate [Hz]) of the environment that `name`, a file's or a Minari dataset's, speaks of; None: not known."""
    lowered = name.lower().removeprefix("d4rl/").removeprefix("mini_")
    return next((facts for start, facts in _KNOWN.items() if re.match(rf"{start}(?![a-z])", lowered)), (None, None))


def matches(path: Path) -> bool:
    return root_has(path, lambda root: all(name in root and not root.is_group(name) for name in COLUMNS))


def read(path: Path, options: Options) -> Reader:
    """Opening it reads where episodes end. UserError: a column missing, or columns of different lengths."""
    return _Flat(path, options)


class _Flat:
    notes: Sequence[str]

    def __init__(self, path: Path, options: Options) -> None:
        self.path = path
        steps, rate = known(path.name)
        notes: list[str] = []
        with open_hdf5(path) as root:
            shapes = {name: root.dataset(name).shape for name in COLUMNS}
            if len({shape[:1] for shape in shapes.values()}) != 1 or not shapes["actions"] or not shapes["actions"][0]:
                raise UserError(f"rows differ or there are none: {', '.join(f'{k} {v}' for k, v in shapes.items())}")
            ended = root.array("terminals").reshape(-1).astype(bool)
            timed = root.array("timeouts").reshape(-1).astype(bool) if "timeouts" in root else None
            size = rgb_size(root.dataset("observations")) if len(shapes["observations"]) == 4 else None
            self.metadata = _scalars(root)
            infos = root.group("infos").names() if "infos" in root else []
        if timed is not None and len(timed) != len(ended):
            raise UserError(f"rows differ: terminals {len(ended)}, timeouts {len(timed)}")
        self.stops = _stops(ended | timed) if timed is not None else _cut(_stops(ended), steps or MAX_STEPS)
        cameras = {"observations": size} if size else {}
        width = int(np.prod(shapes["observations"][1:], dtype=np.int64))
        self.spec = RobotSpec(
            f"d4rl:{path.stem}",
            {name: cameras[name] for name in chosen_cameras(list(cameras), options)},
            {} if size else {"observation": vector(width, prefix="observation_")},
            vector(int(np.prod(shapes["actions"][1:], dtype=np.int64)), prefix="action_"),
            "unknown",
            options.rate_hz or rate or RATE_HZ,
        )
        if timed is None:
            said = "as D4RL registers this environment" if steps else "assumed: the file's name is not one of D4RL's"
            notes.append(f"no timeouts: cut after {steps or MAX_STEPS} steps, {said}")
        if options.rate_hz is None:
            said = "as Gymnasium documents the environment" if rate else "assumed: neither the file nor its name says it"
            notes.append(f"{self.spec.rate_hz:g} Hz {said}")
        if not (ended[-1] or (timed is not None and timed[-1])):
            notes.append("the last episode has no recorded end")
        if infos:
            notes.append(f"left out (the simulator's): {', '.join(f'infos/{name}' for name in infos)}")
        notes.append("next_observations left out; names and units of the numbers are not recorded; success unknown")
        self.human = any(word in path.name for word in ("human", "_demos", "kitchen"))
        notes.append(f"taken as {'human demonstrations' if self.human else 'a policy'}, by the file's name")
        self.notes = notes

    def __len__(self) -> int:
        return len(self.stops)

    def close(self) -> None:
        """Nothing is held open."""

    def __getitem__(self, index: int) -> Episode:
        start, stop = int(self.stops[index - 1]) if index else 0, int(self.stops[index])
        rows = slice(start, stop)
        with open_hdf5(self.path) as root:
            columns = {name: root.array(name, rows) for name in COLUMNS[1:]}
            images = {name: read_rgb(root.dataset(name), size, rows) for name, size in self.spec.cameras.items()}
            state = {name: _matrix(root.array("observations", rows)) for name in self.spec.state}
        return episode(
            self.spec,
            action=_matrix(columns["actions"]),
            state=state,
            images=images,
            reward=columns["rewards"].reshape(-1),
            terminal=bool(columns["terminals"].reshape(-1)[-1]),
            source=Source.HUMAN if self.human else Source.POLICY,
            meta={
                "task": self.path.stem,
                "success": None,
                "operator": "human" if self.human else "policy",
                "origin": {"file": self.path.name, "rows": [start, stop]},
                "computed": "time from the rate",
            }
            | ({"metadata": self.metadata} if self.metadata else {}),
        )


def _stops(last: np.ndarray) -> np.ndarray:
    """Where episodes stop, exclusive: after each row of `last`, and at the end."""
    stops = np.flatnonzero(last) + 1
    return stops if len(stops) and stops[-1] == len(last) else np.append(stops, len(last))


def _cut(stops: np.ndarray, steps: int) -> np.ndarray:
    """`stops`, and one more after every `steps` rows of an episode."""
    starts = np.concatenate([[0], stops[:-1]])
    return np.concatenate([np.append(np.arange(a + steps, b, steps), b) for a, b in zip(starts, stops, strict=True)])


def _matrix(values: np.ndarray) -> np.ndarray:
    """(T,) or (T, ...) as (T, D)."""
    return values.reshape(len(values), int(np.prod(values.shape[1:], dtype=np.int64)))


def _scalars(root: Group) -> dict[str, Any]:
    """metadata/algorithm, metadata/iteration and the like; not the policy's weights, which lie there too."""
    found: dict[str, Any] = {}
    metadata = root.group("metadata") if "metadata" in root else None
    for name in metadata.names() if metadata else ():
        if metadata and not metadata.is_group(name) and (value := metadata.scalar(name)) is not None:
            found[name] = value
    return found
