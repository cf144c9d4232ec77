"""Small valid datasets in every format, and many ways to break each: what `robolearn ingest` must refuse in one line.

Each dataset is made by the writer of its own format's tests; there it says which documentation that follows.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.data.formats import (
    rlds_files,
    test_act_hdf5,
    test_bridge_raw,
    test_d4rl_hdf5,
    test_dapg_pickle,
    test_droid_raw,
    test_folder,
    test_lerobot_v2,
    test_lerobot_v3,
    test_mcap_json,
    test_minari_hdf5,
    test_replay_buffer,
    test_robomimic_hdf5,
    test_robosuite_hdf5,
    test_toto_pickle,
)

Spoil = Callable[[Path], Any]


@dataclass(frozen=True)
class Case:
    """One malformed input: the dataset `of`, spoiled. `of` "": `spoil` gets an empty folder to fill."""

    name: str
    of: str
    spoil: Spoil
    options: dict[str, Any] = field(default_factory=dict)  # of ingest's Config
    told: bool = True  # by its content; else `format` says what it should be
    says: str = ""  # a pattern that the message must hold


# Valid datasets ---------------------------------------------------------------------------------------------------------------


def _act(root: Path) -> Path:
    for number in range(2):
        test_act_hdf5.make(root / "wipe" / f"episode_{number}.hdf5", seed=number, compress=True)
    return root / "wipe"


def _bridge(root: Path) -> Path:
    for number in range(2):
        test_bridge_raw.trajectory(test_bridge_raw.dated(root / "bridge") / f"traj{number}", number)
    return root / "bridge"


def _droid(root: Path) -> Path:
    test_droid_raw.make(root / "AUTOLab" / "success" / "2023-07-07" / "Fri_Jul__7_09:42:23_2023")
    return root / "AUTOLab"


def _folder(root: Path) -> Path:
    for number in range(2):
        episode = test_folder.episode_folder(root / "cups" / f"episode_{number}", meta={"task": "lift", "success": True})
        test_folder.pictures(episode / "front")
        test_folder.video(episode / "wrist.mp4")
    return root / "cups"


def _lines(root: Path) -> Path:
    table = "\n".join(json.dumps({"time": t / 10, "action": [t, 1], "q": [0.5, t]}) for t in range(4)) + "\n"
    return test_folder.episode_folder(root / "cup", table=table, name="log.jsonl")


def _robosuite(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    return test_robosuite_hdf5.write(root / "demo.hdf5", test_robosuite_hdf5.lift_states((0.82, 0.82)))


def _mcap(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    return test_mcap_json.json_log(root / "cup.mcap")


def _zip(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    folder = test_replay_buffer.real_buffer(root / "buffer.zarr")
    made = test_replay_buffer.zipped(folder, root / "dataset.zarr.zip")
    shutil.rmtree(folder)
    return made


def _rlds(root: Path) -> Path:
    split = [[rlds_files.steps_of(0), rlds_files.steps_of(1)]]
    return rlds_files.write(root / "1.0.0", {"train": split})


def _door(root: Path) -> Path:
    return test_dapg_pickle.write(root / "door-v0_demos.pickle", [test_dapg_pickle.one(), test_dapg_pickle.one(number=1)])


# name -> (format, writer, the files whose loss or damage must be noticed)
TRAJ = "toykitchen2/set_table/00/2022-01-02_03-04-05/raw/traj_group0/traj0"
DROID = "success/2023-07-07/Fri_Jul__7_09:42:23_2023"
CAM = "observation.images.top"
VALID: dict[str, tuple[str, Callable[[Path], Path], tuple[str, ...]]] = {
    "act": ("act_hdf5", _act, ("episode_0.hdf5",)),
    "bridge": ("bridge_raw", _bridge, (f"{TRAJ}/obs_dict.pkl", f"{TRAJ}/policy_out.pkl", f"{TRAJ}/images0/im_1.jpg")),
    "d4rl": ("d4rl_hdf5", lambda root: test_d4rl_hdf5.make(root / "hopper_medium-v2.hdf5"), ("",)),
    "dapg": ("dapg_pickle", _door, ("",)),
    "zarr": (
        "diffusion_policy_zarr",
        lambda root: test_replay_buffer.real_buffer(root / "buffer.zarr"),
        ("data/action/0.0", "data/action/.zarray", "meta/episode_ends/0", "meta/episode_ends/.zarray", "data/camera_0/1.0.0.0"),
    ),
    "zip": ("diffusion_policy_zarr", _zip, ("",)),
    "droid": ("droid_raw", _droid, (f"{DROID}/trajectory.h5", f"{DROID}/recordings/MP4/13062452.mp4")),
    "folder": ("folder", _folder, ("episode_0/steps.csv", "episode_0/front/img_1.png", "episode_0/wrist.mp4", "episode_0/meta.json")),
    "lines": ("folder", _lines, ("log.jsonl",)),
    "lerobot2": (
        "lerobot_v2",
        lambda root: test_lerobot_v2.make(root / "cups"),
        ("meta/info.json", "meta/episodes.jsonl", "meta/tasks.jsonl", "data/chunk-000/episode_000000.parquet", "VIDEO"),
    ),
    "lerobot3": (
        "lerobot_v3",
        lambda root: test_lerobot_v3.make(root / "cups"),
        ("meta/info.json", "meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet", "data/chunk-000/file-000.parquet", "VIDEO"),
    ),
    "mcap": ("mcap_log", _mcap, ("",)),
    "minari": ("minari_hdf5", lambda root: test_minari_hdf5.make(root / "human-v2"), ("data/main_data.hdf5", "data/metadata.json")),
    "rlds": ("rlds_tfrecord", _rlds, ("toy_arm-train.tfrecord-00000-of-00001", "features.json", "dataset_info.json")),
    "robomimic": ("robomimic_hdf5", lambda root: test_robomimic_hdf5.make(root / "image.hdf5"), ("",)),
    "robosuite": ("robosuite_hdf5", _robosuite, ("",)),
    "toto": (
        "toto_pickle",
        lambda root: test_toto_pickle.write(root / "cloud", [test_toto_pickle.one(0), test_toto_pickle.one(1)]),
        ("parsed.pkl", "data/pour_0/c1.jpg"),
    ),
    # `bag` is added by the test: its writer is a fixture
}


def target(dataset: Path, name: str) -> Path:
    """A file of the dataset; VIDEO: its first."""
    return sorted(dataset.rglob("*.mp4"))[0] if name == "VIDEO" else dataset / name if name else dataset


# Ways to break any file -------------------------------------------------------------------------------------------------------


def cut(file: Path, share: float = 0.4) -> None:
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def zeroed(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def noise(file: Path) -> None:
    file.write_bytes(random.Random(0).randbytes(max(file.stat().st_size, 64)))


def folder_instead(file: Path) -> None:
    file.unlink()
    file.mkdir()


def link_to_itself(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def led_out(file: Path) -> None:
    """Its content lies beside the input, where a stranger's dataset has no business."""
    beside = next(parent for parent in file.parents if parent.name == "in").parent / "private"
    beside.mkdir(exist_ok=True)
    shutil.move(file, beside / file.name)
    file.symlink_to(beside / file.name)


def swapped_ends(file: Path) -> None:
    data = file.read_bytes()
    half = len(data) // 2
    file.write_bytes(data[half:] + data[:half])


def text_instead(file: Path) -> None:
    file.write_bytes("not what the name says: \x1b[31mé\n".encode("latin-1") * 8)


DAMAGE: dict[str, Spoil] = {
    "cut": cut, "one byte": lambda file: cut(file, 0) or file.write_bytes(b"\x00"), "emptied": emptied, "zeroed": zeroed, "noise": noise,
    "gone": lambda file: file.unlink(), "a folder": folder_instead, "a link to itself": link_to_itself, "a pipe": pipe,
    "led out": led_out, "its halves swapped": swapped_ends, "text": text_instead,
}  # fmt: skip


_ABSENT = ("gone", "a folder", "a link to itself", "a pipe")
# What is no error: who downloads a part of a dataset gets that part, with a note that says what is missing and how much.
ALLOWED: dict[str, tuple[str, ...]] = {
    "act: episode_0": ("gone",),  # a recording that was thrown away
    "obs_dict.pkl": ("gone", "a folder"),  # noted as a trajectory that is not whole
    "policy_out.pkl": ("gone", "a folder"),
    "droid: success/2023-07-07/Fri_Jul__7_09:42:23_2023/recordings": ("gone", "a folder", "a pipe", "its halves swapped"),  # left out
    "steps.csv": tuple(kind for kind in DAMAGE if kind not in ("cut", "led out")),  # noted; `folders` spoils it where it is alone
    "folder: episode_0/wrist.mp4": ("gone",),
    "meta.json": ("gone", "a folder", "a pipe"),  # optional
    "tasks.jsonl": ("emptied", "its halves swapped"),  # the episodes name their tasks too; lines in another order
    "lerobot2: data": _ABSENT,  # noted: episodes without all their data
    "lerobot3: data": _ABSENT,
    "VIDEO": _ABSENT,
    "zarr: data/action/0.0": ("zeroed", "its halves swapped", "gone"),  # raw numbers; a chunk less is noted
    "zarr: data/camera_0": ("zeroed", "noise", "its halves swapped", "gone"),
    "rlds: toy_arm": ("its halves swapped",),  # two records of one length
}


def damaged() -> Iterator[Case]:
    """Every kind of damage to every file that matters."""
    for of, (_, _, files) in VALID.items():
        for name in files:
            for kind, spoil in DAMAGE.items():
                if any(word in f"{of}: {name}" and kind in kinds for word, kinds in ALLOWED.items()):
                    continue
                if name == "" and kind in ("gone", "led out"):
                    continue  # a dataset that is one file may be a link, and one that is not there is a case of its own
                yield Case(f"{of}: {name or 'the file'}: {kind}", of, lambda d, n=name, s=spoil: s(target(d, n)), told=False)
