"""The beginnings of five real datasets (ROBOLEARN_DATA), as their makers wrote them, and ways to break each that keep it recognisable."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.experiments.malformed import DAMAGE, Case, Spoil
from tests.experiments.malformed_fields import at, hdf5, put, rewritten, written

G1 = "data/chunk-000/episode_000026.parquet"
G1_VIDEO = "videos/chunk-000/observation.images.cam_high/episode_000026.mp4"
SHARD = "bridge_dataset-train.tfrecord-00000-of-00001"
ROWS = 161  # of Push-T's first episode, and of its chunks


# The beginnings ---------------------------------------------------------------------------------------------------------------


def _door(data: Path, root: Path) -> Path:
    made = root / "door-v0_demos.pickle"
    with (data / "adroit-door-human" / made.name).open("rb") as file:
        found = pickle.load(file, encoding="latin1")[:2]
    made.write_bytes(pickle.dumps(found, 2))
    return made


def _bridge(data: Path, root: Path) -> Path:
    """Two of its records."""
    real, made = data / "bridge-rlds-tfrecord/bridge_dataset/1.0.0", root / "1.0.0"
    made.mkdir()
    shutil.copyfile(real / "features.json", made / "features.json")
    info = json.loads((real / "dataset_info.json").read_text())
    info["splits"] = [info["splits"][0] | {"shardLengths": ["2"]}]
    (made / "dataset_info.json").write_text(json.dumps(info))
    with (real / SHARD).open("rb") as file:
        for _ in range(2):
            (length,) = struct.unpack("<Q", file.read(8))
            file.seek(length + 8, 1)
        end = file.tell()
        file.seek(0)
        (made / SHARD).write_bytes(file.read(end))
    return made


def _g1(data: Path, root: Path) -> Path:
    """One of its episodes."""
    real, made = data / "g1-inspire-lerobot-v21", root / "g1"
    for name in ("meta/info.json", "meta/tasks.jsonl", "meta/episodes.jsonl", G1, G1_VIDEO):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(real / name, made / name)
    lines = (made / "meta/episodes.jsonl").read_text().splitlines()
    (made / "meta/episodes.jsonl").write_text(next(line for line in lines if json.loads(line)["episode_index"] == 26) + "\n")
    return made


def _pusht(data: Path, root: Path) -> Path:
    """Its first chunk of each array, which is its first episode."""
    real, made = data / "pusht-human-zarr/pusht_cchi_v7_replay.zarr", root / "pusht.zarr"
    for folder in ("", "data", "meta"):
        (made / folder).mkdir(parents=True, exist_ok=True)
        (made / folder / ".zgroup").write_text('{"zarr_format": 2}')
    for array in (*(f"data/{name}" for name in ("img", "state", "action")), "meta/episode_ends"):
        (made / array).mkdir(parents=True)
        meta = json.loads((real / array / ".zarray").read_text())
        shape = [1] if array == "meta/episode_ends" else [ROWS, *meta["shape"][1:]]
        if array == "meta/episode_ends":
            meta |= {"compressor": None, "chunks": [1]}
            (made / array / "0").write_bytes(np.array([ROWS], meta["dtype"]).tobytes())
        else:
            first = ".".join("0" * len(shape))
            shutil.copyfile(real / array / first, made / array / first)
        (made / array / ".zarray").write_text(json.dumps(meta | {"shape": shape}))
    return made


def _lift(data: Path, root: Path) -> Path:
    """One of its demonstrations."""
    real = data / "robosuite-human/lift"
    made = Path(shutil.copyfile(real / "demo.hdf5", root / "demo.hdf5"))
    with h5py.File(made, "r+") as file:
        first, *others = file["data"]
        for name in others:
            del file["data"][name]
        for key in ("states", "actions"):
            kept = file["data"][first][key][:5]
            del file["data"][first][key]
            file["data"][first][key] = kept
        model = file["data"][first].attrs["model_file"]
    (root / "models").mkdir()
    shutil.copyfile(real / "models" / model, root / "models" / model)
    return made


REAL: dict[str, tuple[str, Any, tuple[str, ...]]] = {
    "door": ("dapg_pickle", _door, ("",)),
    "bridge1": ("rlds_tfrecord", _bridge, (SHARD, "features.json", "dataset_info.json")),
    "g1": ("lerobot_v2", _g1, ("meta/info.json", "meta/episodes.jsonl", G1)),
    "pusht": ("diffusion_policy_zarr", _pusht, ("data/state/0.0", "data/action/.zarray", "meta/episode_ends/0")),
    "lift": ("robosuite_hdf5", _lift, ("",)),
}


# Ways to break them -----------------------------------------------------------------------------------------------------------


def _demos(change: Any) -> Spoil:
    """change(the first trajectory) of the pickle."""

    def spoil(dataset: Path) -> None:
        found = pickle.loads(dataset.read_bytes())
        change(found[0])
        dataset.write_bytes(pickle.dumps(found, 2))

    return spoil


def _column(name: str, change: Any) -> Spoil:
    """change(the column as an Arrow array) of the episode; None removes it."""

    def spoil(dataset: Path) -> None:
        table = pq.read_table(dataset / G1)
        place = table.schema.get_field_index(name)
        new = change(table.column(name).combine_chunks())
        table = table.remove_column(place) if new is None else table.set_column(place, name, new)
        pq.write_table(table, dataset / G1)

    return spoil


def _nan(column: pa.Array) -> pa.Array:
    values = column.to_pylist()
    values[3] = [float("nan")] * 26
    return pa.array(values)


def _array(name: str, change: Any) -> Spoil:
    """change(the numbers) of an array whose chunk is then kept uncompressed."""

    def spoil(dataset: Path) -> None:
        import zarr

        old: Any = zarr.open_group(str(dataset), mode="r")[name]
        values = change(np.asarray(old[:]))
        shutil.rmtree(dataset / name)
        zarr.create_array(str(dataset), name=name, data=values, chunks=values.shape, zarr_format=2)

    return spoil


def _cell(row: int, value: float) -> Any:
    def change(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values[row] = value
        return values

    return change


def real() -> Iterator[Case]:
    for of, (_, _, files) in REAL.items():
        for name in files:
            for kind in ("cut", "one byte", "emptied", "zeroed", "noise", "a folder", "text"):
                spoil = DAMAGE[kind]
                yield Case(f"{of}: {name or 'the file'}: {kind}", of, lambda d, n=name, s=spoil: s(d / n if n else d), told=False)
    door = {
        "NaN": lambda one: one["actions"].__setitem__((1, 2), np.nan),
        "a key less": lambda one: one.pop("rewards"),
        "text": lambda one: one.update(actions="left"),
        "half the rows": lambda one: one.update(observations=one["observations"][::2]),
        "a column less": lambda one: one.update(actions=one["actions"][:, 1:]),
        "another task": lambda one: one["init_state_dict"].pop("door_body_pos"),
        "whole numbers beyond": lambda one: one.update(actions=one["actions"] * 1e300),
        "objects": lambda one: one.update(actions=one["actions"].astype(object)),
    }
    for what, change in door.items():
        yield Case(f"door: {what}", "door", _demos(change), told=False)
    for value in (["3"], ["1"], ["-2"], ["two"]):
        yield Case(f"bridge1: {value} records", "bridge1", rewritten("dataset_info.json", "splits", 0, "shardLengths", to=value))
    steps = ("featuresDict", "features", "steps", "sequence", "feature", "featuresDict", "features")
    for what, change in {
        "another shape": rewritten("features.json", *steps, "action", "tensor", "shape", "dimensions", to=["9"]),
        "an absurd shape": rewritten("features.json", *steps, "action", "tensor", "shape", "dimensions", to=[str(2**62)]),
        "another dtype": rewritten("features.json", *steps, "action", "tensor", "dtype", to="complex64"),
    }.items():
        yield Case(f"bridge1: {what}", "bridge1", change)
    for what, (column, change) in {
        "NaN": ("action", _nan),
        "text": ("action", lambda c: pa.array(["x"] * len(c))),
        "ragged": ("action", lambda c: pa.array([[0.0] * (1 + i % 3) for i in range(len(c))])),
        "a number less": ("observation.state", lambda c: pa.array([row[1:] for row in c.to_pylist()])),
        "gone": ("action", lambda c: None),
        "no state": ("observation.state", lambda c: None),
        "nested": ("action", lambda c: pa.array([{"x": 1.0}] * len(c))),
        "missing values": ("action", lambda c: pa.array([None] * len(c), pa.list_(pa.int64()))),
    }.items():
        yield Case(f"g1: {column}: {what}", "g1", _column(column, change), {"cameras": ()})
    yield Case("g1: rows", "g1", lambda d: pq.write_table(pq.read_table(d / G1)[:50], d / G1), {"cameras": ()})
    for kind in ("cut", "one byte", "emptied", "noise", "gone", "text", "led out"):
        yield Case(f"g1: video: {kind}", "g1", lambda d, s=DAMAGE[kind]: s(d / G1_VIDEO))
    for keys, value in (("fps", 0), ("fps", "30"), ("features", {}), ("data_path", "../{episode_index}.parquet"), ("chunks_size", 0)):
        yield Case(f"g1: {keys} {value!r}", "g1", rewritten("meta/info.json", keys, to=value), {"cameras": ()})
    for ends in ([0], [-1], [ROWS + 1], [100, 50], [50, 50], [2**62]):
        yield Case(f"pusht: ends {ends}", "pusht", _array("meta/episode_ends", lambda _, e=ends: np.array(e, np.int64)))
    for name, number in (("action", np.nan), ("action", np.inf), ("state", np.nan), ("img", 256.0), ("img", -1.0), ("img", np.nan)):
        yield Case(f"pusht: {name} {number}", "pusht", _array(f"data/{name}", _cell(3, number)))
    for shape in ([2**62, 2], [-1, 2], [0, 2], ["x", 2]):
        yield Case(f"pusht: shape {shape}", "pusht", rewritten("data/action/.zarray", "shape", to=shape))
    yield Case("pusht: text ends", "pusht", written("meta/episode_ends/.zarray", '{"shape": [1]}'))
    for what, change in {
        "NaN": put("data/demo_1/actions", at(1, np.nan)),
        "a column less": put("data/demo_1/actions", lambda old: old[:, 1:]),
        "rows": put("data/demo_1/states", lambda old: old[:-1]),
        "text": put("data/demo_1/actions", lambda old: np.full(old.shape, b"x", "S1")),
        "time back": put("data/demo_1/states", lambda old: old[::-1]),
        "model": lambda file: file["data/demo_1"].attrs.__setitem__("model_file", "../../../etc/passwd"),
        "laughs": lambda file: file["data/demo_1"].attrs.__setitem__("model_file", _xml_laughs()),
        "body": lambda file: file["data"].attrs.__setitem__("env", "os.system"),
        "robot": lambda file: file["data"].attrs.__setitem__("env_info", '{"robots": "Sawyer"}'),
        "env_info": lambda file: file["data"].attrs.__setitem__("env_info", "{"),
        "no env": lambda file: file["data"].attrs.__delitem__("env"),
    }.items():
        yield Case(f"lift: {what}", "lift", hdf5("", change), told=False)


def _xml_laughs(levels: int = 9) -> str:
    entities = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10 if i else "lol"}">' for i in range(levels + 1))
    return f'<!DOCTYPE x [{entities}]><mujoco><worldbody name="&a{levels};"/></mujoco>'
