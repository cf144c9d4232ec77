"""LeRobot itself reads what we write, and we read what it records: by the interpreter that ROBOLEARN_PEER_LEROBOT names, offline.

    python3.12 -m venv /somewhere && /somewhere/bin/pip install "lerobot[dataset]"
    ROBOLEARN_PEER_LEROBOT=/somewhere/bin/python pytest tests/data/formats/test_lerobot_peer.py

LeRobot needs Python 3.12 and a torch of its own, so it lives beside our environment and speaks to us through files.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hardware.types import ArraySpec, RobotSpec, Source
from robolearn.data.episode import Episode, check_episode
from robolearn.data.formats import read, write
from robolearn.data.store import EpisodeStore
from tests.data.formats.lerobot_files import numbered

PYTHON = os.environ.get("ROBOLEARN_PEER_LEROBOT", "")
pytestmark = [
    pytest.mark.peer,
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="ROBOLEARN_PEER_LEROBOT is not set: a Python that has lerobot"),
]
SIZE = (64, 160)  # height, width [px]
RATE_HZ = 20.0
CODEC_ERROR = 6  # [grey levels], mean over a frame; the frame before or after differs by 25 and more

SPEC = RobotSpec(
    name="arm",
    cameras={"front": SIZE, "wrist": SIZE},
    state={
        "joint_pos": ArraySpec(("j1", "j2"), ("rad", "rad"), (-3.0, -2.0), (3.0, np.inf)),
        "gripper": ArraySpec(("open",), ("1",), (0.0,), (1.0,)),
        "environment_state": ArraySpec(("x", "y"), ("m", "m"), (-np.inf,) * 2, (np.inf,) * 2),
    },
    action=ArraySpec(("j1", "j2", "open"), ("rad", "rad", "1"), (-3.0, -2.0, 0.0), (3.0, 2.0, 1.0)),
    action_mode="joint_pos",
    rate_hz=RATE_HZ,
)


class Memory:
    """Four episodes of the robot above, measured a little late now and then; one request was no number."""

    spec = SPEC
    lengths = (30, 41, 12, 25)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Episode:
        if index >= len(self):
            raise IndexError(index)
        rng, n = np.random.default_rng(index), self.lengths[index]
        action = rng.normal(size=(n, 3)).astype(np.float32)
        requested = action + np.float32(0.5)
        requested[3, 0] = np.nan
        return Episode(
            time=np.arange(n) / RATE_HZ + rng.uniform(0, 0.02, n) + 7.0,
            images={"front": numbered(100 * index + np.arange(n), SIZE), "wrist": numbered(100 * index + 50 + np.arange(n), SIZE)},
            state={name: rng.normal(size=(n, part.dim)).astype(np.float32) for name, part in SPEC.state.items()},
            action=action,
            requested_action=requested,
            reward=rng.normal(size=n).astype(np.float32),
            terminal=np.arange(n) == (n - 1 if index % 2 else -1),
            source=np.full(n, Source.HUMAN, np.uint8),
            meta={"task": "lift", "instruction": f"lift number {index % 2}", "success": (True, False, None)[index % 3]},
        )


def peer(folder: Path, script: str, *arguments: str) -> None:
    """Run a script in LeRobot's interpreter, without the network and with caches of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "SVT_LOG": "1"}
    command = [PYTHON, *(("-c", script) if not script.startswith("-m ") else script.split()), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


READ = """
import sys
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

dataset = LeRobotDataset("robolearn/peer", root=sys.argv[1], video_backend="pyav", return_uint8=True)
keys = ["observation.state", "observation.environment_state", "action", "next.reward", "next.done", "timestamp", "episode_index",
        "frame_index", "robolearn.time", "robolearn.requested_action", "observation.images.front", "observation.images.wrist"]
items = [dataset[i] for i in range(len(dataset))]
found = {key: np.stack([item[key].numpy() for item in items]) for key in keys}
found["task"] = np.array([item["task"] for item in items])
found["fps"] = dataset.fps
for name in ("mean", "std", "q50"):
    found["stats." + name] = dataset.meta.stats["action"][name]
found["stats.image"] = dataset.meta.stats["observation.images.front"]["mean"]
window = LeRobotDataset("robolearn/peer", root=sys.argv[1], video_backend="pyav", episodes=[2], return_uint8=True,
                        delta_timestamps={"action": [0.0, 0.05, 0.1], "observation.images.wrist": [-0.05, 0.0]})
found["window.action"], found["window.wrist"] = window[5]["action"].numpy(), window[5]["observation.images.wrist"].numpy()

from lerobot.utils.feature_utils import dataset_to_policy_features
policy = dataset_to_policy_features(dataset.meta.features)
found["policy"] = np.array(sorted(f"{key} {feature.type.value}" for key, feature in policy.items()))
np.savez(sys.argv[2], **found)
"""


def compare_with_lerobot(folder: Path, name: str) -> None:
    """LeRobot's own items against ours: numbers exactly, frames within what the codec changes."""
    peer(folder, READ, name, "found.npz")
    found, episodes = np.load(folder / "found.npz"), [Memory()[i] for i in range(len(Memory()))]
    together = {key: np.concatenate([getattr(e, key) for e in episodes]) for key in ("action", "reward", "terminal", "time")}
    np.testing.assert_array_equal(found["action"], together["action"])
    state = [np.concatenate([e.state["joint_pos"], e.state["gripper"]], 1) for e in episodes]
    np.testing.assert_array_equal(found["observation.state"], np.concatenate(state))
    np.testing.assert_array_equal(found["observation.environment_state"], np.concatenate([e.state["environment_state"] for e in episodes]))
    np.testing.assert_array_equal(found["next.reward"], together["reward"])
    np.testing.assert_array_equal(found["next.done"], together["terminal"])
    np.testing.assert_allclose(found["robolearn.time"], together["time"], atol=1e-6)  # torch keeps it as float32
    np.testing.assert_array_equal(found["timestamp"], np.concatenate([(np.arange(len(e)) / RATE_HZ).astype(np.float32) for e in episodes]))
    np.testing.assert_array_equal(found["episode_index"], np.repeat(np.arange(4), Memory.lengths))
    assert found["fps"] == RATE_HZ
    assert found["task"].tolist() == [e.meta["instruction"] for e in episodes for _ in range(len(e))]
    for camera in ("front", "wrist"):
        frames = np.concatenate([e.images[camera] for e in episodes]).astype(float)
        shown = found[f"observation.images.{camera}"].transpose(0, 2, 3, 1)  # LeRobot has channels first
        assert np.abs(shown - frames).mean((1, 2, 3)).max() < CODEC_ERROR
    np.testing.assert_allclose(found["stats.mean"], together["action"].mean(0), atol=1e-6)
    np.testing.assert_allclose(found["stats.std"], together["action"].std(0), atol=1e-6)
    assert found["stats.image"].shape == (3, 1, 1) and 0.1 < found["stats.image"].mean() < 0.9
    np.testing.assert_array_equal(found["window.action"], episodes[2].action[5:8])
    wrist = episodes[2].images["wrist"][4:6].astype(float)
    assert np.abs(found["window.wrist"].transpose(0, 2, 3, 1) - wrist).mean((1, 2, 3)).max() < CODEC_ERROR
    assert found["policy"].tolist() == [
        "action ACTION",
        "observation.environment_state ENV",
        "observation.images.front VISUAL",
        "observation.images.wrist VISUAL",
        "observation.state STATE",
    ]


def compare_with_ours(path: Path) -> None:
    reader = read(path)
    assert reader.spec == SPEC and tuple(reader.notes) == ()
    for index in range(len(Memory())):
        got, wrote = reader[index], Memory()[index]
        for name in ("time", "action", "reward", "terminal", "source"):
            np.testing.assert_array_equal(getattr(got, name), getattr(wrote, name), err_msg=name)
        for name, values in wrote.state.items():
            np.testing.assert_array_equal(got.state[name], values)
        for camera, frames in wrote.images.items():
            assert np.abs(got.images[camera].astype(float) - frames).mean((1, 2, 3)).max() < CODEC_ERROR
        assert {key: got.meta[key] for key in wrote.meta} == wrote.meta


def test_lerobot_reads_our_v30(tmp_path):
    with EpisodeStore.create(tmp_path / "store.zarr", SPEC) as store:
        for episode in (Memory()[i] for i in range(len(Memory()))):
            store.append(episode)
    write(tmp_path / "ours", EpisodeStore.open(tmp_path / "store.zarr"), "lerobot_v3")
    compare_with_lerobot(tmp_path, "ours")
    compare_with_ours(tmp_path / "ours")


def test_lerobot_converts_our_v21(tmp_path):
    """LeRobot since 0.4 reads v2.1 only by converting it to v3.0; what it makes of ours holds the same, for it and for us."""
    write(tmp_path / "ours", Memory(), "lerobot_v2")
    compare_with_ours(tmp_path / "ours")
    script = "-m lerobot.scripts.convert_dataset_v21_to_v30 --repo-id robolearn/peer --push-to-hub false --root"
    peer(tmp_path, script, str(tmp_path / "ours"))
    compare_with_lerobot(tmp_path, "ours")
    compare_with_ours(tmp_path / "ours")


RECORD = """
import sys
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

size, lengths = (64, 160), (30, 41, 12)
names = ["height", "width", "channels"]
features = {
    "observation.state": {"dtype": "float32", "shape": (3,), "names": {"motors": ["a", "b", "c"]}},
    "observation.tactile": {"dtype": "float32", "shape": (2, 3), "names": None},
    "action": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
    "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
    "next.done": {"dtype": "bool", "shape": (1,), "names": None},
    "next.success": {"dtype": "bool", "shape": (1,), "names": None},
    "observation.images.top": {"dtype": "video", "shape": (*size, 3), "names": names},
    "observation.images.wrist": {"dtype": "image", "shape": (*size, 3), "names": names},
}
dataset = LeRobotDataset.create("robolearn/peer", fps=30, features=features, root=sys.argv[1], robot_type="so100")
for episode, length in enumerate(lengths):
    data = np.load(f"episode{episode}.npz")
    for t in range(length):
        frame = {key: data[key][t] for key in data.files}
        dataset.add_frame(frame | {"task": f"sort {episode % 2}"})
    dataset.save_episode()
dataset.finalize()
"""


def test_we_read_what_lerobot_records(tmp_path):
    lengths, recorded = (30, 41, 12), []
    for episode, length in enumerate(lengths):
        rng, last = np.random.default_rng(episode), np.arange(length)[:, None] == length - 1
        recorded.append({
            "observation.state": rng.normal(size=(length, 3)).astype(np.float32),
            "observation.tactile": rng.normal(size=(length, 2, 3)).astype(np.float32),
            "action": rng.normal(size=(length, 2)).astype(np.float32),
            "next.reward": rng.normal(size=(length, 1)).astype(np.float32),
            "next.done": last,
            "next.success": last & (episode == 1),
            "observation.images.top": numbered(100 * episode + np.arange(length), SIZE),
            "observation.images.wrist": rng.integers(0, 256, (length, *SIZE, 3), np.uint8),
        })  # fmt: skip
        np.savez(tmp_path / f"episode{episode}.npz", **recorded[-1])
    peer(tmp_path, RECORD, "theirs")
    reader = read(tmp_path / "theirs")
    assert len(reader) == 3 and (reader.spec.name, reader.spec.rate_hz) == ("so100", 30.0)
    assert reader.spec.state["state"].names == ("a", "b", "c") and reader.spec.action.names == ("x", "y")
    for index, expected in enumerate(recorded):
        episode = reader[index]
        check_episode(episode, reader.spec)
        np.testing.assert_array_equal(episode.state["state"], expected["observation.state"])
        np.testing.assert_array_equal(episode.state["tactile"], expected["observation.tactile"].reshape(-1, 6))
        np.testing.assert_array_equal(episode.action, expected["action"])
        np.testing.assert_array_equal(episode.reward, expected["next.reward"][:, 0])
        np.testing.assert_array_equal(episode.images["wrist"], expected["observation.images.wrist"])  # PNG: lossless
        assert np.abs(episode.images["top"].astype(float) - expected["observation.images.top"]).mean((1, 2, 3)).max() < CODEC_ERROR
        np.testing.assert_allclose(episode.time, np.arange(lengths[index]) / 30, atol=1e-6)
        assert episode.terminal.tolist() == expected["next.success"][:, 0].tolist()
        assert episode.meta["instruction"] == f"sort {index % 2}" and episode.meta["success"] == (index == 1)
