"""Minari's datasets (Farama Foundation): a folder <id>/data with main_data.hdf5 and metadata.json.

    episode_<i>/{observations (T + 1, ...), actions (T, ...), rewards, terminations, truncations (T,), infos/*}

Observations and actions are groups where the space is a Dict (its keys) or a Tuple (_index_<i>), one inside another. Since 0.5.4
pictures are JPEG by default: bytes of any length, or padded to one. Spaces are JSON. Layout: Minari 0.5.4's hdf5_storage.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hardware.types import ArraySpec, RobotSpec, Source
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode
from robolearn.data.formats._hdf5 import Group, open_hdf5, read_rgb, rgb_size
from robolearn.data.formats._json import read_object
from robolearn.data.formats._reader import Options, Reader, chosen_cameras, episode, inside, vector
from robolearn.data.formats.d4rl_hdf5 import known

RATE_HZ = 20.0  # where the dataset's name says nothing
DEPTH = 16  # spaces inside spaces
PICTURE = 32  # px; Minari takes what is smaller, such as Minigrid's cells, for numbers


def matches(path: Path) -> bool:
    with suppress(UserError):
        return path.is_dir() and {"data_format", "total_episodes"} <= _metadata(path).keys()
    return False


def _metadata(path: Path) -> dict[str, Any]:
    return read_object(inside(path, "data/metadata.json"))


def read(path: Path, options: Options) -> Reader:
    """UserError: stored as Arrow, damaged, fewer episodes than metadata.json counts."""
    return _Minari(path, options)


class _Minari:
    notes: Sequence[str]

    def __init__(self, path: Path, options: Options) -> None:
        self.file = inside(path, "data/main_data.hdf5")
        metadata = _metadata(path)
        kept = metadata.get("data_format", "hdf5")  # versions before 0.5 knew no other and did not say so
        if kept != "hdf5":
            raise UserError(f"data_format: {kept!r} is not read here; valid: hdf5 (minari.create_dataset_from_buffers can write it)")
        self.id = str(metadata.get("dataset_id") or path.name)
        with open_hdf5(self.file) as root:
            self.episodes = [name for name in root.names() if name.startswith("episode_")]
            count = metadata.get("total_episodes", len(self.episodes))
            if count != len(self.episodes) or not self.episodes:
                raise UserError(f"metadata.json counts {count} episodes, main_data.hdf5 holds {len(self.episodes)}")
            first = root.group(self.episodes[0])
            cameras, state, left_out = _sorted_out(dict(_leaves(first, "observations")))
            actions = dict(_leaves(first, "actions"))
            action = _action_spec(actions, metadata)
        self._state, self._actions = {_name(leaf): leaf for leaf in state}, list(actions)
        self._cameras = {_name(leaf): leaf for leaf in cameras}
        chosen = chosen_cameras(list(self._cameras), options)
        rate = known(self.id)[1]
        self.spec = RobotSpec(
            f"minari:{self.id}",
            {name: cameras[self._cameras[name]] for name in chosen},
            {name: vector(state[leaf], prefix=f"{name}_") for name, leaf in self._state.items()},
            action,
            "unknown",
            options.rate_hz or rate or RATE_HZ,
        )
        self.algorithm = metadata.get("algorithm_name")
        self.human = "human" in f"{self.id} {self.algorithm}".lower()
        notes = ["the observation after the last action, and infos but for success, left out", "units are not recorded"]
        if options.rate_hz is None:
            said = "as Gymnasium documents the environment" if rate else "assumed: the dataset does not say it"
            notes.append(f"{self.spec.rate_hz:g} Hz {said}")
        if left_out:
            notes.append(f"left out, neither colour images nor vectors: {', '.join(map(_name, left_out))}")
        notes.append(f"taken as {'human demonstrations' if self.human else 'a policy'}, by the dataset's name and algorithm")
        self.notes = notes

    def __len__(self) -> int:
        return len(self.episodes)

    def close(self) -> None:
        """Nothing is held open."""

    def __getitem__(self, index: int) -> Episode:
        name = self.episodes[index]
        with open_hdf5(self.file) as root:
            group = root.group(name)
            action = [_matrix(group.array(leaf)) for leaf in self._actions]
            if len({len(part) for part in action}) != 1:
                raise UserError(f"{name}: actions differ in rows: {[len(part) for part in action]}")
            rows = slice(len(action[0]))
            for leaf in (*self._state.values(), *(self._cameras[camera] for camera in self.spec.cameras)):
                if len(group.dataset(leaf)) != rows.stop + 1:
                    raise UserError(f"{name}: {leaf} has {len(group.dataset(leaf))} rows; expected {rows.stop + 1}, one more than actions")
            return episode(
                self.spec,
                action=np.concatenate(action, axis=1),
                state={key: _matrix(group.array(leaf, rows)) for key, leaf in self._state.items()},
                images={key: read_rgb(group.dataset(self._cameras[key]), size, rows) for key, size in self.spec.cameras.items()},
                reward=group.array("rewards").reshape(-1),
                terminal=bool(group.array("terminations").reshape(-1)[-1:].any()),
                source=Source.HUMAN if self.human else Source.POLICY,
                meta={
                    "task": self.id.rpartition("/")[0] or self.id,
                    "success": _success(group),
                    "operator": "human" if self.human else "policy",
                    "origin": {"dataset": self.id, "episode": name, "algorithm": self.algorithm, **group.attributes()},
                    "computed": "time from the rate",
                },
            )


def _leaves(group: Group, path: str, depth: int = 0) -> Iterator[tuple[str, h5py.Dataset]]:
    """(path, dataset) of every array of a space."""
    if depth > DEPTH:
        raise UserError(f"{group.name}/{path}: spaces inside spaces, more than {DEPTH} deep")
    if not group.is_group(path):
        yield path, group.dataset(path)
        return
    for name in group.group(path).names():
        yield from _leaves(group, f"{path}/{name}", depth + 1)


def _name(leaf: str) -> str:
    """observations -> observation; observations/arm/_index_0 -> arm.0."""
    kind, _, rest = leaf.partition("/")
    return rest.replace("_index_", "").replace("/", ".") or kind.removesuffix("s")


def _sorted_out(leaves: dict[str, h5py.Dataset]) -> tuple[dict[str, tuple[int, int]], dict[str, int], list[str]]:
    """(cameras and their sizes [px], vectors and their widths, what is neither)."""
    cameras, state, left_out = {}, {}, []
    for leaf, dataset in leaves.items():
        size = rgb_size(dataset)
        if size is not None and min(size) >= PICTURE:
            cameras[leaf] = size
        elif dataset.dtype.kind not in "fiub" or not dataset.ndim or (dataset.ndim > 2 and min(dataset.shape[1:3]) >= PICTURE):
            left_out.append(leaf)
        else:
            state[leaf] = math.prod(dataset.shape[1:])
    return cameras, state, left_out


def _action_spec(actions: dict[str, h5py.Dataset], metadata: dict[str, Any]) -> ArraySpec:
    """One after the other where the space is a Dict or a Tuple; with the limits of the Box where it is one."""
    names: list[str] = []
    for leaf, dataset in actions.items():
        if dataset.dtype.kind not in "fiub" or not dataset.ndim:
            raise UserError(f"{dataset.name}: is {dataset.dtype} {dataset.shape}; actions must be numbers")
        names += [f"{_name(leaf)}_{i}" for i in range(math.prod(dataset.shape[1:]))]
    bare = vector(names)
    with suppress(KeyError, TypeError, ValueError, RecursionError):
        space = json.loads(metadata["action_space"])
        low, high = (tuple(np.asarray(space[key], np.float64).reshape(-1).tolist()) for key in ("low", "high"))
        if space["type"] == "Box" and len(low) == len(high) == len(names):
            return ArraySpec(bare.names, bare.units, low, high)
    return bare


def _matrix(values: np.ndarray) -> np.ndarray:
    """(T,) or (T, ...) as (T, D)."""
    return values.reshape(len(values), math.prod(values.shape[1:]))


def _success(group: Group) -> bool | None:
    """Environments that know it say so in each step's info."""
    for name in ("infos/success", "infos/is_success"):
        if name in group and not group.is_group(name):
            return bool(group.array(name).any())
    return None
