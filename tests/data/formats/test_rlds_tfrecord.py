"""RLDS in TFDS folders; the files are made by rlds_files.py."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest

from hardware.types import Source
from robolearn.core.errors import UserError
from robolearn.data.episode import check_episode
from robolearn.data.formats import Options, read
from robolearn.data.testing import ReaderContract
from tests.data.formats.rlds_files import (
    TEXT,
    encoded,
    folder,
    image,
    pixels,
    sequence,
    simple,
    simple_features,
    steps_of,
    tensor,
    write,
)


class TestRlds(ReaderContract):
    format, episodes = "rlds_tfrecord", 3

    @pytest.fixture
    def dataset(self, tmp_path: Path) -> Path:
        train, repeated = [[steps_of(0), steps_of(1)]], [[steps_of(1), steps_of(2)]]
        return write(tmp_path / "in" / "1.0.0", {"val": repeated, "train": train})


# Values ------------------------------------------------------------------------------------------------------------------------


def test_rows_are_the_steps_that_have_an_action(tmp_path):
    reader = read(write(tmp_path / "d", {"train": [[steps_of(7)]]}))
    spec, (one,) = reader.spec, (reader[0],)
    check_episode(one, spec)
    source = steps_of(7)
    assert len(one) == 3  # of 4 steps: the last only shows where the third action led
    assert dict(spec.cameras) == {"image_0": (8, 10), "image_1": (8, 10)}
    assert {name: part.names for name, part in spec.state.items()} == {
        "gripper": ("gripper",),
        "state": ("state_0", "state_1", "state_2"),
        "touching": ("touching",),
    }
    assert spec.name == "toy_arm" and spec.rate_hz == 10.0 and spec.action_mode == "as_recorded"
    assert spec.action.names == ("action_0", "action_1") and spec.action.units == ("", "")
    np.testing.assert_array_equal(one.images["image_0"], pixels(7, 4)[:3])
    np.testing.assert_allclose(one.images["image_1"].mean((1, 2, 3)), [40, 50, 60], atol=1)
    np.testing.assert_array_equal(one.state["state"], source["steps/observation/state"][:3].astype(np.float32))
    np.testing.assert_array_equal(one.state["touching"][:, 0], [1, 0, 0])
    np.testing.assert_array_equal(one.action, source["steps/action"][:3].astype(np.float32))
    assert one.reward.tolist() == [0, 0, 1] and one.terminal.tolist() == [False, False, True]
    np.testing.assert_allclose(one.time, [0, 0.1, 0.2])
    assert (one.source == Source.HUMAN).all()
    assert one.meta["instruction"] == "lift it" and one.meta["success"] is True and one.meta["split"] == "train"
    assert one.meta["episode_metadata"] == {"episode_id": 7, "file_path": "/raw/7", "has_image_0": False}
    assert one.meta["operator"] == "unknown" and one.meta["origin"]["file"].endswith("train.tfrecord-00000-of-00001")
    json.dumps(dict(one.meta))


def test_what_was_assumed_and_left_out_is_said(tmp_path):
    notes = "\n".join(read(write(tmp_path / "d", {"train": [[steps_of(0)]]})).notes)
    for expected in (
        "rate: not recorded, and toy_arm is not known here; 10 Hz is assumed",
        "left out (black in every episode): observation/gone",
        "left out (depth, or not RGB): observation/depth",
        "left out (an embedding): observation/image_embedding, language_embedding",
        "the step flagged is_last has no action and no row",
        "who acted is not recorded: rows count as human",
    ):
        assert expected in notes


def test_a_camera_that_is_asked_for_is_read_black_or_not(tmp_path):
    path = write(tmp_path / "d", {"train": [[steps_of(0)]]})
    reader = read(path, options=Options(cameras=("gone",)))
    assert dict(reader.spec.cameras) == {"gone": (8, 10)} and not reader[0].images["gone"].any()


def test_a_camera_that_sees_something_in_one_episode_is_kept(tmp_path):
    other = steps_of(1) | {"steps/observation/gone": [encoded(np.full((8, 10, 3), 9, np.uint8))] * 4}
    reader = read(write(tmp_path / "d", {"train": [[steps_of(0), other]]}))
    assert "gone" in reader.spec.cameras and not reader[0].images["gone"].any() and reader[1].images["gone"].any()


def test_no_step_is_dropped_where_none_is_the_last_or_it_is_the_only_one(tmp_path):
    path = write(tmp_path / "d", {"train": [[steps_of(0, last=False), steps_of(1, steps=1)]]})
    cut, single = read(path)
    assert len(cut) == 4 and not cut.terminal.any() and cut.meta["success"] is None
    assert len(single) == 1 and single.reward.tolist() == [1] and single.terminal.tolist() == [True]


def test_splits_come_train_first_and_nothing_twice(tmp_path):
    path = write(
        tmp_path / "d",
        {"val": [[steps_of(1), steps_of(2)]], "test": [[steps_of(2)]], "train": [[steps_of(0)], [steps_of(1), steps_of(1)]]},
    )
    reader = read(path)
    told = [(e.meta["split"], e.meta["episode_metadata"]["episode_id"]) for e in reader]
    assert told == [("train", 0), ("train", 1), ("train", 1), ("val", 2)]
    assert "split val: 1 of 2 episodes are in another split too; left out" in reader.notes
    assert "split test: 1 of 1 episodes are in another split too; left out" in reader.notes


def test_equal_checksums_are_not_enough_to_call_two_episodes_one(tmp_path, monkeypatch):
    from robolearn.data.formats import _tfrecord

    monkeypatch.setattr(_tfrecord, "_masked_crc", lambda data: 7)
    monkeypatch.setattr("tests.data.formats.rlds_files.masked", lambda data: 7)
    a, b = steps_of(0), steps_of(0) | {"steps/discount": np.zeros(4, np.float32)}
    assert len(read(write(tmp_path / "d", {"train": [[a]], "val": [[b]]}))) == 2


def test_files_that_were_not_fetched_are_noted(tmp_path):
    path = write(tmp_path / "d", {"train": [[steps_of(0)], [steps_of(1)]], "val": [[steps_of(2)]]}, lengths={"train": [1, 1, 5]})
    (path / "toy_arm-train.tfrecord-00000-of-00003").unlink()
    (path / "toy_arm-extra.tfrecord-00000-of-00001").write_bytes(b"")
    reader = read(path)
    assert [e.meta["episode_metadata"]["episode_id"] for e in reader] == [1, 2]
    assert "split train: 1 of 3 files are here; the others' episodes are missing" in reader.notes
    assert "left out: files of splits that dataset_info.json does not name: extra" in reader.notes


def test_actions_in_a_dict_and_tensors_of_every_encoding(tmp_path):
    rng = np.random.default_rng(0)
    picture, joints = rng.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8), rng.normal(size=(3, 2, 2))
    features = simple_features(
        action=folder(world_vector=tensor("float32", 3), gripper=tensor("float32"), terminate=tensor("int32", 2), note=TEXT),
        observation=folder(
            arm=folder(joints=tensor("float64", 2, 2, encoding="zlib"), flags=tensor("bool", 2, encoding="bytes")),
            history=sequence(tensor("float32", 2), length=2),
            loose=sequence(tensor("float32", 2)),
            camera=tensor("uint8", 4, 5, 3),
            counts=tensor("int64", 1),
            cloud=tensor("float32", 100, 6),
            instruction=tensor("int32", 6),
        ),
    )
    words = np.array([[ord(c) for c in "push\0\0"]] * 3)
    episode = simple() | {
        "steps/action/world_vector": np.arange(9.0).reshape(3, 3),
        "steps/action/gripper": np.array([0.0, 1.0, 2.0]),
        "steps/action/terminate": np.array([[0, 1], [0, -1], [1, 0]]),
        "steps/action/note": [b"a"] * 3,
        "steps/observation/arm/joints": [zlib.compress(j.astype("<f8").tobytes()) for j in joints],
        "steps/observation/arm/flags": [b"\1\0"] * 3,
        "steps/observation/history/ragged_flat_values": np.arange(12.0),
        "steps/observation/history/ragged_row_lengths_0": np.array([2, 2, 2]),
        "steps/observation/loose/ragged_flat_values": np.arange(2.0),
        "steps/observation/camera": picture.astype(np.int64),
        "steps/observation/counts": np.array([5, -(2**40), 2**62]),
        "steps/observation/instruction": words,
    }
    reader = read(write(tmp_path / "d", {"train": [[episode]]}, features))
    one = reader[0]
    check_episode(one, reader.spec)
    assert reader.spec.action.names == ("gripper", "terminate_0", "terminate_1", "world_vector_0", "world_vector_1", "world_vector_2")
    np.testing.assert_array_equal(one.action, [[0, 0, 1, 0, 1, 2], [1, 0, -1, 3, 4, 5]])
    np.testing.assert_allclose(one.state["arm_joints"], joints[:2].reshape(2, 4), rtol=1e-6)
    np.testing.assert_array_equal(one.state["arm_flags"], [[1, 0], [1, 0]])
    np.testing.assert_array_equal(one.state["history"], [[0, 1, 2, 3], [4, 5, 6, 7]])
    np.testing.assert_array_equal(one.state["counts"], np.float32([[5], [-(2**40)]]))
    np.testing.assert_array_equal(one.images["camera"], picture[:2])
    assert one.meta["instruction"] == "push" and one.meta["success"] is None and one.reward.tolist() == [0, 0]
    notes = "\n".join(reader.notes)
    assert "left out (not 1 to 512 numbers): observation/cloud, observation/loose" in notes
    assert "left out (not an observation): action/note" in notes


def test_droid_is_read_by_its_action_dict_and_its_folders(tmp_path):
    features = simple_features(
        action=tensor("float64", 7),
        action_dict=folder(
            cartesian_position=tensor("float64", 6), gripper_position=tensor("float64", 1), joint_velocity=tensor("float64", 7)
        ),
        language_instruction=TEXT,
        language_instruction_2=TEXT,
    )
    features["episode_metadata"] = folder(file_path=TEXT)

    def made(outcome: str) -> dict:
        return simple() | {
            "steps/action": np.full((3, 7), 9.0),
            "steps/action_dict/cartesian_position": np.arange(18.0).reshape(3, 6),
            "steps/action_dict/gripper_position": np.array([0.5, 0.6, 0.7]),
            "steps/action_dict/joint_velocity": np.zeros((3, 7)),
            "steps/language_instruction": [b""] * 3,
            "steps/language_instruction_2": [b"open", b"open", b"shut"],
            "episode_metadata/file_path": [f"gs://droid/lab/{outcome}/2023/trajectory.h5".encode()],
        }

    reader = read(write(tmp_path / "d", {"train": [[made("success"), made("failure")]]}, features, name="droid_100"))
    won, lost = reader
    assert (reader.spec.rate_hz, reader.spec.action_mode, reader.spec.action.dim) == (15.0, "ee_pose", 7)
    np.testing.assert_array_equal(won.action[1], np.float32([6, 7, 8, 9, 10, 11, 0.6]))
    assert (won.meta["success"], lost.meta["success"]) == (True, False)
    assert won.meta["instruction"] == "open" and won.meta["instructions"] == ["open", "shut"] and won.meta["operator"] == "human"
    assert any("left out (not an observation): action, action_dict/joint_velocity" in note for note in reader.notes)


def test_the_rate_is_the_users_then_the_datasets_then_assumed(tmp_path):
    path = write(tmp_path / "d", {"train": [[simple()]]}, simple_features(), name="taco_play")
    assert read(path).spec.rate_hz == 15.0
    assert "rate: not recorded; 15 Hz is what Open X-Embodiment says of taco_play" in read(path).notes
    mine = read(path, options=Options(rate_hz=4.0))
    assert mine.spec.rate_hz == 4.0 and mine[0].time.tolist() == [0, 0.25] and not any("rate" in note for note in mine.notes)
    kuka = read(write(tmp_path / "k", {"train": [[simple()]]}, simple_features(), name="kuka"))
    assert kuka[0].meta["operator"] == "policy" and (kuka[0].source == Source.POLICY).all()


def test_the_size_of_images_that_features_json_leaves_open_is_the_firsts(tmp_path):
    features = simple_features(observation=folder(image=image(-1, -1, 3, encoding="")))
    frames = [encoded(np.full((6, 7, 3), k, np.uint8), kind) for k, kind in ((10, "PNG"), (20, "JPEG"), (30, "PNG"))]
    episode = simple() | {"steps/observation/image": frames}
    other = simple() | {"steps/observation/image": [encoded(np.zeros((5, 7, 3), np.uint8))] * 3}
    reader = read(write(tmp_path / "d", {"train": [[episode, other]]}, features))
    assert dict(reader.spec.cameras) == {"image": (6, 7)}
    assert reader[0].images["image"][:, 0, 0, 0].tolist() == [10, 20]
    with pytest.raises(UserError, match=r"episode 1: steps/observation/image 0 is 5x7 px; expected 6x7"):
        reader[1]


# Damage ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.peer
def test_the_real_bridge_sample():
    """25 real episodes (datasets/bridge-rlds.md), in train and again in val."""
    if not (root := os.environ.get("ROBOLEARN_DATA")):
        pytest.skip("ROBOLEARN_DATA is not set: the folder that holds bridge-rlds-tfrecord")
    reader = read(Path(root) / "bridge-rlds-tfrecord")
    spec = reader.spec
    assert len(reader) == 25 and spec.rate_hz == 5.0 and spec.action_mode == "ee_delta"
    assert dict(spec.cameras) == {f"image_{k}": (64, 64) for k in range(3)}
    assert spec.state["state"].names == ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
    assert "split val: 25 of 25 episodes are in another split too; left out" in reader.notes
    assert "left out (black in every episode): observation/image_3" in reader.notes
    instructions = []
    for index in range(25):
        one = reader[index]
        check_episode(one, spec)
        assert len(one) == 10  # cut there, so that no step is the last
        assert np.abs(one.action[0, :6]).max() < 1e-3 and 0 <= one.action[:, 6].min() <= one.action[:, 6].max() <= 1
        assert all(frames.std() > 20 for frames in one.images.values())
        assert one.meta["operator"] == "human" and one.meta["success"] is None
        instructions.append(one.meta["instruction"])
    counts = {text: instructions.count(text) for text in instructions}
    assert counts == {"put carrot on plate": 8, "put cup from counter or drying rack into sink": 6,
                      "turn lever vertical to front": 6, "flip pot upright which is in sink": 5}  # fmt: skip
