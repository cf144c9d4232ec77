"""Writing robomimic's datasets: what it reads, and beside that, in a group and an attribute it passes over, what it has no place for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hardware.types import ArraySpec
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode, check_episode
from robolearn.data.formats._reader import Dataset, float32
from robolearn.data.formats._robomimic_environment import env_args

OWN = "robolearn"  # our attribute of `data` and our group in each demo


def image_key(camera: str) -> str:
    """robomimic's (and robosuite's) name for the pictures of a camera."""
    return camera if camera.endswith("image") else f"{camera}_image"


def splits_of(meta: Mapping[str, Any]) -> list[str]:
    """The filter keys (robomimic's word for splits) that an episode is listed under."""
    found = meta.get("splits")
    return [str(key) for key in found] if isinstance(found, list | tuple) else []


def write(path: Path, dataset: Dataset) -> None:
    """All episodes, as robomimic 0.3 and later read them. UserError: nothing in it, names that collide, damaged episodes.

    robomimic asks for actions in [-1, 1]: each element is scaled from its limits in the spec (widened where the data leave them),
    or, where it has none, from the range of the data if that leaves [-1, 1]; `data`'s attribute "robolearn" holds low and high.
    What follows the last row is not recorded: its next_obs repeats it.
    """
    spec = dataset.spec
    keys = Counter([*spec.state, *map(image_key, spec.cameras)])
    bad = [key for key, count in keys.items() if count > 1 or "/" in key]
    if bad or not len(dataset):
        raise UserError(f"{path}: {f'cannot hold the observations {bad}' if bad else 'there is no episode to write'}")
    building = path.with_name(f".{path.name}.partial")
    try:
        with h5py.File(building, "w") as file:
            _write(file, dataset)
        building.rename(path)
    finally:
        building.unlink(missing_ok=True)


def _write(file: h5py.File, dataset: Dataset) -> None:
    spec, data = dataset.spec, file.create_group("data")
    low, high = np.full(spec.action.dim, np.inf), np.full(spec.action.dim, -np.inf)
    splits: dict[str, list[str]] = {}
    total = 0
    for index in range(len(dataset)):
        one, name = dataset[index], f"demo_{index}"
        try:
            check_episode(one, spec)
        except ValueError as error:
            raise UserError(f"episode {index}: {error}") from error
        _write_demo(data.create_group(name), one)
        low, high = np.minimum(low, one.action.min(0)), np.maximum(high, one.action.max(0))
        for key in splits_of(one.meta):
            splits.setdefault(key.replace("/", "."), []).append(name)
        total += len(one)
    low, high = _limits(spec.action, low, high)
    for demo in data.values():
        demo["actions"] = scaled(demo[f"{OWN}/action"][:], low, high)
    for key, names in splits.items():
        file[f"mask/{key}"] = np.array(names, dtype="S")
    data.attrs["total"] = total
    data.attrs["env_args"] = json.dumps(env_args(spec), indent=4)
    data.attrs[OWN] = json.dumps({"spec": spec.to_dict(), "action_low": low.tolist(), "action_high": high.tolist()})


def _write_demo(demo: h5py.Group, one: Episode) -> None:
    demo.attrs["num_samples"] = len(one)
    demo["rewards"], demo["dones"] = one.reward, one.terminal.astype(np.int64)
    demo["states"] = np.zeros((len(one), 0))  # robomimic: "should be empty" without MuJoCo's own
    for key, values in {**one.state, **{image_key(name): frames for name, frames in one.images.items()}}.items():
        demo[f"obs/{key}"] = values
        demo[f"next_obs/{key}"] = np.concatenate([values[1:], values[-1:]])
    own = demo.create_group(OWN)
    own.attrs["meta"] = json.dumps(dict(one.meta))
    for field in ("time", "action", "requested_action", "terminal", "source"):
        own[field] = getattr(one, field)
    for name, taken in one.image_time.items():
        own[f"image_time/{name}"] = taken
    for name, stream in one.streams.items():
        own[f"streams/{name}/time"], own[f"streams/{name}/values"] = stream.time, stream.values


def _limits(action: ArraySpec, lowest: np.ndarray, highest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What becomes -1 and what becomes 1, for each element."""
    low, high = np.array(action.low, np.float64), np.array(action.high, np.float64)
    known = np.isfinite(low) & np.isfinite(high) & (low < high)
    wide = (lowest < -1) | (highest > 1)
    apart = np.where(lowest < highest, highest, lowest + 1)  # an element that never moves
    low = np.where(known, np.minimum(low, lowest), np.where(wide, lowest, -1.0))
    return low, np.where(known, np.maximum(high, highest), np.where(wide, apart, 1.0))


def scaled(action: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """float32; the same bits where low is -1 and high is 1."""
    return float32("actions", np.where((low == -1) & (high == 1), action, 2 * (action - low) / (high - low) - 1))
