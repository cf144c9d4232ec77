"""TOTO's pickle and image folder, made here from the benchmark's dataset_README.md (keys, shapes, where the images lie)."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robolearn.core.errors import UserError
from robolearn.data.episode import check_episode
from robolearn.data.formats import Options, locate, read
from robolearn.data.testing import ReaderContract


def one(number: int, steps: int = 4, reward: float = 0.0, **more) -> dict:
    rng = np.random.default_rng(number)
    rewards, ended = np.zeros(steps), np.zeros(steps)
    rewards[-1], ended[-1] = reward, 1
    return {
        "traj_id": f"pour_{number}",
        "observations": rng.normal(size=(steps, 7)),
        "cam0c": [f"c{t}.jpg" for t in range(steps)],
        "cam0d": [f"d{t}.png" for t in range(steps)],
        "actions": rng.normal(size=(steps, 7)),
        "rewards": rewards,
        "terminated": ended,
    } | more


def write(folder: Path, found: list[dict], name: str = "parsed.pkl", protocol: int = 4) -> Path:
    for trajectory in found:
        images = folder / "data" / str(trajectory.get("traj_id", "x"))
        images.mkdir(parents=True, exist_ok=True)
        for step, file in enumerate(trajectory.get("cam0c", [])):
            Image.new("RGB", (10, 6), (30 * step, 90, 200)).save(images / file, quality=95)
    (folder / name).write_bytes(pickle.dumps(found, protocol))
    return folder


class TestToto(ReaderContract):
    format, episodes = "toto_pickle", 2

    @pytest.fixture
    def dataset(self, tmp_path: Path) -> Path:
        return write(tmp_path / "in" / "cloud-dataset", [one(0), one(1, steps=3, reward=2.5)])


def test_rows_are_what_was_recorded(tmp_path):
    found = [one(0), one(1, steps=3, reward=2.5, material="rice", normalized_reward=np.float64(0.5))]
    path = write(tmp_path / "cloud-dataset-pouring-v0", found)
    assert locate(path / "parsed.pkl") == (path / "parsed.pkl", "toto_pickle")
    for where in (path, path / "parsed.pkl"):
        reader = read(where)
        assert len(reader) == 2 and dict(reader.spec.cameras) == {"cam0c": (6, 10)}
    spec, (failed, poured) = reader.spec, (reader[0], reader[1])
    assert (spec.name, spec.action_mode, spec.rate_hz) == ("toto", "joint_pos", 30.0)
    assert spec.action.names == tuple(f"joint{k}" for k in range(7)) and set(spec.action.units) == {"rad"}
    check_episode(poured, spec)
    np.testing.assert_array_equal(poured.action, found[1]["actions"].astype(np.float32))
    np.testing.assert_array_equal(poured.state["joint_pos"], found[1]["observations"].astype(np.float32))
    np.testing.assert_allclose(poured.images["cam0c"].mean((1, 2)), [[30 * t, 90, 200] for t in range(3)], atol=3)
    assert poured.reward.tolist() == [0, 0, 2.5] and poured.terminal.tolist() == [False, False, True]
    assert not failed.terminal.any() and (failed.meta["success"], poured.meta["success"]) == (False, True)
    assert poured.meta["origin"] == {"file": "parsed.pkl", "trajectory": 1, "traj_id": "pour_1"}
    assert (poured.meta["task"], poured.meta["operator"], poured.meta["material"]) == ("toto:pouring", "unknown", "rice")
    assert poured.meta["normalized_reward"] == 0.5 and json.dumps(dict(poured.meta))
    notes = "\n".join(reader.notes)
    assert "left out: cam0d" in notes and "30 Hz is what Open X-Embodiment says of toto" in notes
    assert "terminated: the last step of every trajectory, failures too" in notes


def test_the_add_ons_are_read_or_left_out_with_a_note(tmp_path):
    more = {"eef_pose_observations": np.ones((4, 7)), "eef_pose_actions": np.ones((4, 7)), "embeddings": np.zeros((4, 2048), np.float32)}
    path = write(tmp_path / "t", [one(0, **more)], "parsed_with_embeddings_moco_conv5.pkl", protocol=2)
    reader = read(path, options=Options(rate_hz=10))
    assert list(reader.spec.state) == ["joint_pos", "eef_pose"] and set(reader.spec.state["eef_pose"].units) == {""}
    np.testing.assert_array_equal(reader[0].state["eef_pose"], np.ones((4, 7)))
    assert "left out: embeddings, eef_pose_actions, cam0d" in reader.notes and reader.spec.rate_hz == 10
    shutil.rmtree(path / "data")
    alone = read(path)
    assert dict(alone.spec.cameras) == {} and len(alone[0]) == 4
    assert "left out (no folder data beside the pickle): cam0c" in alone.notes


def test_two_pickles_in_a_folder_are_told_apart(tmp_path):
    write(tmp_path / "t", [one(0)])
    write(tmp_path / "t", [one(0)], "parsed_with_embeddings_byol.pkl")
    with pytest.raises(UserError, match=r"holds 2 datasets: parsed.pkl \(toto_pickle\), parsed_with_embeddings_byol.pkl"):
        locate(tmp_path / "t")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"traj_id": "../../../etc"}, r"leads out of .*data; refused"),
        ({"traj_id": "/etc"}, r"leads out of .*data; refused"),
        ({"traj_id": ["pour_0"]}, "traj_id is no text of at most 200 characters"),
        ({"cam0c": ["c0.jpg", "../../secret.jpg", "c2.jpg", "c3.jpg"]}, r"leads out of .*; refused"),
        ({"cam0c": ["c0.jpg", "absent.jpg", "c2.jpg", "c3.jpg"]}, r"cam0c absent\.jpg: no such file"),
        ({"cam0c": ["c0.jpg"]}, "cam0c must list 4 file names, as many as actions"),
        ({"cam0c": ["c0.jpg", 1, 2, 3]}, "cam0c must list 4 file names"),
        ({"actions": np.zeros((4, 6))}, r"actions has shape \(4, 6\); expected \(T, 7\)"),
        ({"observations": np.zeros((3, 7))}, r"rows differ or there are none: action 4, state.joint_pos 3"),
        ({"rewards": np.zeros(3)}, r"rewards has shape \(3,\); expected \(4,\)"),
        ({"observations": "joints"}, "observations is a str; expected numbers"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, change, message):
    path = write(tmp_path / "t", [one(0)])
    (tmp_path / "secret.jpg").write_bytes((path / "data" / "pour_0" / "c0.jpg").read_bytes())
    (path / "parsed.pkl").write_bytes(pickle.dumps([one(0) | change]))
    with pytest.raises(UserError, match=message) as error:
        read(path)[0]
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


class Gadget:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_a_pickle_is_never_run_not_even_to_tell_what_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "t", [one(0, extra=Gadget())])
    assert locate(path) == (path, "toto_pickle")
    with pytest.raises(UserError, match=rf"^{path}: parsed\.pkl: names posix\.system; only numbers, text, plain containers"):
        read(path)
    (tmp_path / "other.pkl").write_bytes(pickle.dumps(Gadget()))
    with pytest.raises(UserError, match="not in a format that is read here"):
        locate(tmp_path / "other.pkl")
    assert not (tmp_path / "ran").exists()
