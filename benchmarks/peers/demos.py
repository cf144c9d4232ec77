"""The demonstrations that every contestant of data_loading.py reads, made from a seed: numpy arrays in FOLDER/raw.

Two cameras: a disc moves over a gradient, with sensor noise of up to 4 grey levels, so that codecs meet something like a camera.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

CAMERAS = ("agentview_image", "robot0_eye_in_hand_image")
STATE = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2}
ACTION, RATE_HZ, NOISE = 7, 20, 4


def demo(index: int, steps: int, size: int = 84) -> dict[str, np.ndarray]:
    """camera -> uint8 (T, H, W, 3); state -> float32 (T, D); "actions" -> float32 (T, 7)."""
    rng = np.random.default_rng([2024, index])
    found: dict[str, np.ndarray] = {}
    row, column = np.mgrid[:size, :size]
    time = np.arange(steps)[:, None, None]
    for number, camera in enumerate(CAMERAS):
        shades = np.stack([60 + row, 40 + column + 20 * number, 160 - (row + column) // 2], axis=-1)
        phase, speed = rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.03, 0.09, 2)
        middle = [size * (0.5 + 0.32 * np.sin(phase[i] + speed[i] * time)) for i in range(2)]
        disc = (row - middle[0]) ** 2 + (column - middle[1]) ** 2 < (size / 9) ** 2
        frames = np.where(disc[..., None], rng.integers(40, 220, 3), shades)
        noise = rng.integers(-NOISE, NOISE, frames.shape, dtype=np.int8, endpoint=True)
        found[camera] = np.clip(frames + noise, 0, 255).astype(np.uint8)
    for name, width in STATE.items():
        found[name] = (0.01 * rng.standard_normal((steps, width))).cumsum(axis=0).astype(np.float32)
    return found | {"actions": rng.uniform(-1, 1, (steps, ACTION)).astype(np.float32)}


def write(folder: Path, demos: int, steps: int) -> None:
    """FOLDER/raw: one .npy for each camera, state and the actions, all demonstrations one after the other; nothing where it is there."""
    setting = {"demos": demos, "steps": steps}
    made = folder / "raw" / "demos.json"
    if made.exists():
        if json.loads(made.read_text()) != setting:
            raise SystemExit(f"{folder}: holds {made.read_text()}, not {setting}; name another folder")
        return
    made.parent.mkdir(parents=True)
    found = [demo(i, steps) for i in range(demos)]
    for name in found[0]:
        np.save(made.with_name(f"{name}.npy"), np.concatenate([one[name] for one in found]))
    made.write_text(json.dumps(setting))


def lengths(folder: Path) -> tuple[int, int]:
    """(demonstrations, steps of each)."""
    setting = json.loads((folder / "raw" / "demos.json").read_text())
    return setting["demos"], setting["steps"]


def raw(folder: Path, name: str) -> np.ndarray:
    """Memory-mapped, (demonstrations * steps, ...)."""
    return np.load(folder / "raw" / f"{name}.npy", mmap_mode="r")


def episodes(folder: Path) -> Iterator[dict[str, np.ndarray]]:
    """As `demo` made them."""
    count, steps = lengths(folder)
    arrays = {name: raw(folder, name) for name in (*CAMERAS, *STATE, "actions")}
    for i in range(count):
        yield {name: np.array(array[i * steps : (i + 1) * steps]) for name, array in arrays.items()}


def write_hdf5(folder: Path, path: Path) -> None:
    """The layout of robomimic's datasets, uncompressed as its own scripts write them."""
    import h5py

    with h5py.File(path, "w") as file:
        data: Any = file.create_group("data")
        for i, episode in enumerate(episodes(folder)):
            group = data.create_group(f"demo_{i}")
            steps = len(episode["actions"])
            group.attrs["num_samples"] = steps
            group["actions"] = episode["actions"]
            group["rewards"], group["dones"] = np.zeros(steps), np.zeros(steps, np.int64)
            for name in (*CAMERAS, *STATE):
                group[f"obs/{name}"] = episode[name]
        data.attrs["total"] = sum(len(data[name]["actions"]) for name in data)
        data.attrs["env_args"] = json.dumps({"env_name": "Demos", "type": 1, "env_kwargs": {}})
