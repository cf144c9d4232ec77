"""BridgeData V2 as recorded. The folders are made here as bridge_data_robot's RawSaver writes them (dict of stacked arrays, list of dicts,
one JPEG a camera and step); T, lag and lmdb as its authors' bridgedata_raw_to_numpy reads them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hardware.types import Source
from robolearn.core.errors import UserError
from robolearn.data.episode import check_episode
from robolearn.data.formats import Options, locate, read
from robolearn.data.formats.bridge_raw import matches
from robolearn.data.testing import ReaderContract


def numbers(number: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """full_state (T, 7), actions (T - 1, 7)."""
    rng = np.random.default_rng(number)
    return rng.normal(size=(steps, 7)), rng.uniform(-0.05, 0.05, (steps - 1, 7))


def trajectory(folder: Path, number: int = 0, steps: int = 5, cameras: int = 2, **changed) -> Path:
    state, actions = numbers(number, steps)
    seen = {
        "full_state": state,
        "state": state,
        "qpos": np.zeros((steps, 6)),
        "time_stamp": 1.6e9 + 0.2 * np.arange(steps),
        "env_done": np.zeros(steps, bool),
    } | changed
    policy = [{"actions": a, "new_robot_transform": np.eye(4), "policy_type": "VRTeleopPolicy"} for a in actions]
    folder.mkdir(parents=True)
    (folder / "obs_dict.pkl").write_bytes(pickle.dumps(seen))
    (folder / "policy_out.pkl").write_bytes(pickle.dumps(policy))
    (folder / "agent_data.pkl").write_bytes(b"not looked at")
    (folder / "lang.txt").write_text("put the cup in the sink\nconfidence: 0.9\nmove the cup\nConfidence: 1\n")
    for camera in range(cameras):
        (folder / f"images{camera}").mkdir()
        for step in range(steps):
            Image.new("RGB", (12, 8), (20 * step, 100 * camera, 7)).save(folder / f"images{camera}" / f"im_{step}.jpg", quality=95)
    (folder / "depth_images0").mkdir()
    return folder


def dated(root: Path, date: str = "2022-01-02_03-04-05") -> Path:
    """<kitchen>/<task>/<id>/<date>/raw/traj_group0"""
    return root / "toykitchen2" / "set_table" / "00" / date / "raw" / "traj_group0"


class TestBridge(ReaderContract):
    format, episodes = "bridge_raw", 2

    @pytest.fixture
    def dataset(self, tmp_path: Path) -> Path:
        root = tmp_path / "in" / "bridgedata_raw"
        trajectory(dated(root) / "traj0")
        trajectory(dated(root) / "traj1", 1, steps=3)
        return root


def test_an_image_more_than_actions_makes_no_row(tmp_path):
    trajectory(dated(tmp_path / "b") / "traj0")
    meta = {"policy_desc": "human demo", "robot": "widowx", "objects": ["cup"], "camera": 3}
    (dated(tmp_path / "b").parents[1] / "collection_metadata.json").write_text(json.dumps(meta))
    reader = read(tmp_path / "b")
    (one,) = (reader[0],)
    check_episode(one, reader.spec)
    state, actions = numbers(0, 5)
    assert len(one) == 4 and dict(reader.spec.cameras) == {"images0": (8, 12), "images1": (8, 12)}
    np.testing.assert_array_equal(one.action, actions.astype(np.float32))
    np.testing.assert_array_equal(one.state["state"], state[:4].astype(np.float32))
    np.testing.assert_allclose(one.images["images1"].mean((1, 2)), [[20 * t, 100, 7] for t in range(4)], atol=3)
    np.testing.assert_allclose(one.time, [0, 0.2, 0.4, 0.6], atol=1e-6)
    assert reader.spec.rate_hz == 5.0 and reader.spec.action_mode == "ee_delta" and reader.spec.action.names[-1] == "gripper"
    assert one.meta["instruction"] == "put the cup in the sink" and one.meta["instructions"] == ["put the cup in the sink", "move the cup"]
    assert one.meta["task"] == "set_table" and one.meta["operator"] == "human" and (one.source == Source.HUMAN).all()
    assert one.meta["success"] is None and not one.terminal.any() and not one.reward.any()
    assert one.meta["collection"] == {"policy_desc": "human demo", "robot": "widowx", "camera": 3}
    assert one.meta["origin"] == {
        "file": "toykitchen2/set_table/00/2022-01-02_03-04-05/raw/traj_group0/traj0",
        "recorded": "2022-01-02T03:04:05",
    }
    json.dumps(dict(one.meta))
    assert any("the commanded deltas" in note for note in reader.notes)


def test_before_july_23_2021_the_cameras_lagged(tmp_path):
    """The first observation and the last action are dropped, so that each action meets the image of its own moment."""
    for date, rows in (("2021-07-22_23-59-59", 3), ("2021-07-23_00-00-00", 4)):
        trajectory(dated(tmp_path / date, date) / "traj0")
        reader = read(tmp_path / date)
        one = reader[0]
        assert len(one) == rows
    early = read(tmp_path / "2021-07-22_23-59-59")[0]
    state, actions = numbers(0, 5)
    np.testing.assert_array_equal(early.state["state"], state[1:4].astype(np.float32))
    np.testing.assert_array_equal(early.action, actions[:3].astype(np.float32))
    np.testing.assert_allclose(early.images["images0"][:, 0, 0, 0], [20, 40, 60], atol=3)
    assert early.time[0] == 0 and "the camera lagged" in early.meta["computed"]
    trajectory(dated(tmp_path / "short", "2021-07-01_00-00-00") / "traj0", steps=2)
    with pytest.raises(UserError, match=r"traj0: 1 action; the camera's lag leaves no row"):
        read(tmp_path / "short")[0]


def test_any_cut_of_the_tree_is_told(tmp_path):
    group = dated(tmp_path / "all" / "rss")
    trajectory(group / "traj0")
    for path in (tmp_path / "all", *group.relative_to(tmp_path / "all").parents, group.relative_to(tmp_path / "all"), "traj0"):
        where = tmp_path / "all" / (group.relative_to(tmp_path / "all") / path if path == "traj0" else path)
        assert locate(where) == (where, "bridge_raw"), where
        assert len(read(where)) == 1
    undated = shutil.copytree(group / "traj0", tmp_path / "alone")
    reader = read(undated)
    assert any("lie in no dated folder" in note for note in reader.notes) and len(reader[0]) == 4
    assert reader[0].meta["origin"]["recorded"] is None


def test_what_is_no_such_folder_is_told_in_few_looks(tmp_path, monkeypatch):
    from robolearn.data.formats import bridge_raw

    (tmp_path / "a" / "raw").mkdir(parents=True)
    (tmp_path / "a" / "raw" / "obs_dict.pkl").write_bytes(b"")
    assert not matches(tmp_path) and not matches(tmp_path / "a" / "raw" / "obs_dict.pkl")
    os.symlink(tmp_path, tmp_path / "a" / "round")  # a circle
    looks = []
    scandir = os.scandir
    for number in range(400):
        (tmp_path / "a" / str(number)).mkdir()
    monkeypatch.setattr(bridge_raw.os, "scandir", lambda path: looks.append(path) or scandir(path))
    assert not matches(tmp_path) and len(looks) == bridge_raw.MAX_FOLDERS


def test_order_and_what_is_left_out(tmp_path):
    group = dated(tmp_path / "b")
    for number in (10, 2):
        trajectory(group / f"traj{number}", number)
    (trajectory(group / "traj3", 3) / "policy_out.pkl").unlink()
    trajectory(tmp_path / "b" / "old_lmdb" / "00" / "2022-01-02_03-04-05" / "raw" / "traj_group0" / "traj0")
    reader = read(tmp_path / "b")
    assert [e.meta["origin"]["file"][-6:] for e in reader] == ["/traj2", "traj10"]
    assert "left out: 1 folders named lmdb, as in the authors' conversion" in reader.notes
    assert "left out: 1 trajectories without obs_dict.pkl or policy_out.pkl" in reader.notes


def test_cameras_that_only_some_have(tmp_path):
    group = dated(tmp_path / "b")
    trajectory(group / "traj0", 0, cameras=1)
    trajectory(group / "traj1", 1, cameras=3)
    every = read(tmp_path / "b")
    assert list(every.spec.cameras) == ["images0"] and len(every) == 2
    assert "left out: images2, which 1 of 2 trajectories have; name it in cameras for those" in every.notes
    some = read(tmp_path / "b", options=Options(cameras=("images0", "images2")))
    assert list(some.spec.cameras) == ["images0", "images2"] and len(some) == 1
    assert "left out: 1 of 2 trajectories, which lack one of images0, images2" in some.notes
    check_episode(some[0], some.spec)


def test_who_acted_and_when(tmp_path):
    trajectory(dated(tmp_path / "scripted_raw") / "traj0", time_stamp=np.array([1.0, 2.0, 2.0, 3.0, 4.0]))
    one = read(tmp_path / "scripted_raw")[0]
    assert one.meta["operator"] == "scripted" and (one.source == Source.SCRIPTED).all()
    np.testing.assert_allclose(one.time, [0, 0.2, 0.4, 0.6])  # the stamps do not increase
    assert one.meta["computed"] == "time from the rate"
    trajectory(dated(tmp_path / "b") / "traj0", time_stamp=[float(t) for t in range(5)])
    assert read(tmp_path / "b")[0].time.tolist() == [0, 1, 2, 3]
    fast = read(tmp_path / "b", options=Options(rate_hz=10))
    assert fast.spec.rate_hz == 10 and fast[0].time[1] == 0.1


class Gadget:
    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"full_state": np.zeros((4, 7))}, r"full_state \(4, 7\), actions \(4, 7\); expected \(T, 7\) and \(T - 1, 7\)"),
        ({"full_state": np.zeros((5, 6))}, r"full_state \(5, 6\)"),
        ({"full_state": None}, "full_state is a NoneType; expected numbers"),
        ({"full_state": Gadget()}, r"traj0/obs_dict\.pkl: names posix\.system; only numbers"),
        ({"time_stamp": "noon"}, "time_stamp is a str; expected numbers"),
    ],
)
def test_pickles_that_do_not_fit_are_one_line(tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    trajectory(dated(tmp_path / "b") / "traj0", **change)
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path / "b")[0]
    assert str(error.value).startswith(f"{tmp_path / 'b'}: episode 0: toykitchen2/") and "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_images_that_do_not_fit_are_one_line(tmp_path):
    folder = trajectory(dated(tmp_path / "b") / "traj0")
    image = folder / "images1" / "im_2.jpg"
    whole = image.read_bytes()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)).save(image)
    for data, message in (
        (image.read_bytes()[:-60], r"traj0/images1 im_2\.jpg is damaged"),
        (b"GIF89a", r"traj0/images1 im_2\.jpg is not a JPEG or PNG image"),
    ):
        image.write_bytes(data)
        with pytest.raises(UserError, match=message):
            read(tmp_path / "b")[0]
    Image.new("RGB", (10, 8)).save(image)
    with pytest.raises(UserError, match=r"im_2\.jpg is 8x10 px; expected 8x12"):
        read(tmp_path / "b")[0]
    image.unlink()
    with pytest.raises(UserError, match=r"traj0/images1: 4 images; expected im_0\.jpg to im_4\.jpg, one for each state"):
        read(tmp_path / "b")[0]
    (tmp_path / "secret.jpg").write_bytes(whole)
    os.symlink(tmp_path / "secret.jpg", image)
    with pytest.raises(UserError, match=r"'.*images1/im_2\.jpg' leads out of .*; refused"):
        read(tmp_path / "b")[0]


def test_a_huge_image_is_refused_by_its_header(tmp_path):
    folder = trajectory(dated(tmp_path / "b") / "traj0")
    picture = (folder / "images0" / "im_3.jpg").read_bytes()
    at = picture.index(b"\xff\xc0")
    (folder / "images0" / "im_3.jpg").write_bytes(picture[: at + 5] + b"\xff\xff\xff\xff" + picture[at + 9 :])
    with pytest.raises(UserError, match=r"im_3\.jpg is (not a JPEG or PNG image|65535x65535 px; expected 8x12)"):
        read(tmp_path / "b")[0]
