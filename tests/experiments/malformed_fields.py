"""Ways to change what lies in the fields of a dataset's files: arrays in HDF5 and JSON beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.experiments.malformed import DROID, Case, Spoil

ABSURD = (2**62, -1, 0, "many", None, float("nan"), [], {}, True)


def rewritten(name: str, *keys: str | int, to: Any) -> Spoil:
    """The value at these keys of a JSON file."""

    def spoil(dataset: Path) -> None:
        file = dataset / name
        data = node = json.loads(file.read_text())
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = to
        file.write_text(json.dumps(data))

    return spoil


def replaced(name: str, old: str, new: str) -> Spoil:
    """`old` must be there: a mutation that changes nothing proves nothing."""

    def spoil(dataset: Path) -> None:
        file = dataset / name if name else dataset
        text = file.read_bytes()
        assert old.encode() in text
        file.write_bytes(text.replace(old.encode(), new.encode(), 1))

    return spoil


def written(name: str, data: bytes | str) -> Spoil:
    def spoil(dataset: Path) -> None:
        file = dataset / name if name else dataset
        file.write_bytes(data if isinstance(data, bytes) else data.encode())

    return spoil


def hdf5(name: str, change: Any) -> Spoil:
    """change(file) of an HDF5 file that is open."""

    def spoil(dataset: Path) -> None:
        with h5py.File(dataset / name if name else dataset, "r+") as file:
            change(file)

    return spoil


def put(key: str, value: Any) -> Any:
    def change(file: h5py.File) -> None:
        old = file[key][()]
        del file[key]
        file[key] = value(old) if callable(value) else value

    return change


def at(row: int, number: float) -> Any:
    """Row `row` of an array of numbers set to `number`."""

    def change(old: np.ndarray) -> np.ndarray:
        new = old.astype(np.float64)
        new[row] = number
        return new

    return change


# Arrays in HDF5 ---------------------------------------------------------------------------------------------------------------

ARRAYS = {  # dataset -> (file, an array of actions, one of state)
    "act": ("episode_0.hdf5", "action", "observations/qpos"),
    "d4rl": ("", "actions", "observations"),
    "droid": (f"{DROID}/trajectory.h5", "action/joint_position", "observation/robot_state/joint_positions"),
    "minari": ("data/main_data.hdf5", "episode_0/actions", "episode_0/observations"),
    "robomimic": ("", "data/demo_0/actions", "data/demo_0/obs/robot0_eef_pos"),
    "robosuite": ("", "data/demo_1/actions", "data/demo_1/states"),
}


def _external(key: str) -> Any:
    def change(file: h5py.File) -> None:
        del file[key]
        file[key] = h5py.ExternalLink("/etc/passwd", "/x")

    return change


def _cycle(key: str) -> Any:
    def change(file: h5py.File) -> None:
        del file[key]
        file[key] = h5py.SoftLink(f"/{key}")

    return change


def _raw_file(key: str) -> Any:
    """Numbers that lie in another file: HDF5's external storage."""

    def change(file: h5py.File) -> None:
        shape = file[key].shape
        del file[key]
        file.create_dataset(key, shape, "f8", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])

    return change


def _huge(key: str) -> Any:
    def change(file: h5py.File) -> None:
        del file[key]
        file.create_dataset(key, (2**40, 7), "f8", chunks=(1024, 7))

    return change


def _gone(key: str) -> Any:
    def change(file: h5py.File) -> None:
        del file[key]

    return change


HDF5: dict[str, Any] = {
    "NaN": lambda key: put(key, at(1, np.nan)),
    "inf": lambda key: put(key, at(1, np.inf)),
    "beyond float32": lambda key: put(key, at(1, 1e300)),
    "text": lambda key: put(key, lambda old: np.full(old.shape, b"x", "S1")),
    "a number": lambda key: put(key, 3.0),
    "fewer rows": lambda key: put(key, lambda old: old[:-2]),
    "no rows": lambda key: put(key, lambda old: old[:0]),
    "flat": lambda key: put(key, lambda old: old.ravel()[: len(old)] + b"" if old.dtype.kind == "S" else np.repeat(old.ravel(), 2)),
    "three-dimensional": lambda key: put(key, lambda old: np.stack([old, old], -1)),
    "complex": lambda key: put(key, lambda old: old.astype(np.complex64)),
    "an external link": _external,
    "a link to itself": _cycle,
    "in another file": _raw_file,
    "2^40 rows": _huge,
    "missing": _gone,
}


# Not malformed: D4RL's own files have a dimension too many; a state that is no vector of numbers is left out with a note.
READ = {
    ("d4rl", "three-dimensional"),
    *(("minari", "episode_0/observations", what) for what in ("text", "a number", "complex")),
    *(("robomimic", "data/demo_0/obs/robot0_eef_pos", what) for what in ("text", "a number", "three-dimensional", "complex", "missing")),
}


def arrays() -> Iterator[Case]:
    for of, (file, *keys) in ARRAYS.items():
        for key in keys:
            for what, change in HDF5.items():
                if (of, what) in READ or (of, key, what) in READ:
                    continue
                yield Case(f"{of}: {key}: {what}", of, hdf5(file, change(key)), told=False)


# Metadata ---------------------------------------------------------------------------------------------------------------------

JSON_FIELDS: dict[str, list[tuple[str, tuple[str | int, ...], tuple[Any, ...]]]] = {
    "lerobot2": [
        ("meta/info.json", ("fps",), (*ABSURD, 1e300)),
        ("meta/info.json", ("features",), (*ABSURD, {"action": 3}, {"action": {"dtype": "float32"}})),
        ("meta/info.json", ("features", "action", "shape"), ([2**62], [-1], ["2"], None, {}, [[2]], [3], [float("nan")])),
        ("meta/info.json", ("features", "action", "dtype"), (None, 3, "video", "image")),
        ("meta/info.json", ("data_path",),
        ("../{episode_index}.parquet", "/etc/passwd", "{x.__class__}", "{episode_index:9999d}", 3, None)),
        ("meta/info.json", ("video_path",), ("../../v.mp4", "C:\\v\\{episode_index}.mp4", "/dev/zero", 7)),
        ("meta/info.json", ("chunks_size",), (0, -1, "x", 1.5)),
    ],
    "lerobot3": [
        ("meta/info.json", ("fps",), ABSURD),
        ("meta/info.json", ("data_path",), ("../x.parquet", "/etc/passwd", "{0}", 3)),
        ("meta/info.json", ("video_path",), ("\x1b[2J.mp4", "../../v.mp4", None)),
    ],
    "zarr": [
        ("data/action/.zarray", ("shape",), ([2**62, 6], [-1, 6], [8], "8", None, [8, 6, 1, 1, 1], [8.5, 6], [[8], 6])),
        ("data/action/.zarray", ("chunks",), ([0, 6], [-1, 6], [8], None, "x", [2**62, 6])),
        ("data/action/.zarray", ("dtype",), ("|O", "<f99", "<U4", None, 3, [["a", "<f8"]], "<c16")),
        ("data/action/.zarray", ("zarr_format",), (3, "2", None)),
        ("data/action/.zarray", ("order",), ("X", None)),
        ("data/action/.zarray", ("filters",), ([{"id": "pickle"}], [{"id": "x"}], "x", 3)),
        ("data/action/.zarray", ("compressor",), ({"id": "pickle"}, {"id": "../x"}, {}, 3)),
        ("meta/episode_ends/.zarray", ("shape",), ([0], [2**40], [3], [])),
    ],
    "rlds": [
        ("dataset_info.json", ("splits", 0, "shardLengths"), (["3"], ["-1"], ["x"], [], 3, [str(2**62)])),
        ("dataset_info.json", ("fileFormat",), ("array_record", "\x1b[31mx")),
        ("features.json", ("featuresDict",), ABSURD),
        ("features.json", ("featuresDict", "features", "steps"), ({}, 3, None, {"sequence": {}}, {"sequence": {"feature": 3}})),
    ],
    "minari": [
        ("data/metadata.json", ("total_episodes",), (2**62, -1, "x", {})),
        ("data/metadata.json", ("data_format",), ("arrow", 3, [])),
    ],
}  # fmt: skip


def fields() -> Iterator[Case]:
    for of, listed in JSON_FIELDS.items():
        for file, keys, values in listed:
            for value in values:
                yield Case(f"{of}: {'.'.join(map(str, keys))} = {value!r}"[:90], of, rewritten(file, *keys, to=value), told=False)
