"""DROID's raw episodes, made here as its TrajectoryWriter, parse.py and svo2mp4.py leave them (droid-dataset/droid): one growing
dataset for each leaf of the timestep, metadata beside it, the left eyes' videos in MPEG-4. Frames are smaller than 720p.
"""

from __future__ import annotations

import json
from pathlib import Path

import av
import h5py
import numpy as np
import pytest

from hardware.types import Source
from robolearn.core.errors import UserError
from robolearn.data.episode import check_episode
from robolearn.data.formats import Options, locate, read
from robolearn.data.testing import ReaderContract

SERIALS = {"wrist": "13062452", "ext1": "20103212", "ext2": "22008760"}
SIZE = (48, 64)
BEGAN_MS = 1_696_000_000_000


def video(path: Path, rows: int, level: int) -> None:
    """Grey frames that get brighter by 8 each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=60)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for row in range(rows):
            grey = np.full((*SIZE, 3), level + 8 * row, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())


def trajectory(path: Path, rows: int, stopped=(), seed: int = 0, **columns) -> None:
    rng = np.random.default_rng(seed)
    read_start = BEGAN_MS + 67 * np.arange(rows)
    moving = np.ones(rows, bool)
    moving[list(stopped)] = False
    written = {
        "action/joint_position": rng.normal(size=(rows, 7)),
        "action/joint_velocity": rng.uniform(-1, 1, (rows, 7)),
        "action/cartesian_position": rng.normal(size=(rows, 6)),
        "action/cartesian_velocity": rng.uniform(-1, 1, (rows, 6)),
        "action/gripper_position": rng.random(rows),
        "action/gripper_velocity": rng.uniform(-1, 1, rows),
        "action/robot_state/joint_positions": rng.normal(size=(rows, 7)),
        "observation/robot_state/joint_positions": rng.normal(size=(rows, 7)),
        "observation/robot_state/joint_velocities": rng.normal(size=(rows, 7)),
        "observation/robot_state/cartesian_position": rng.normal(size=(rows, 6)),
        "observation/robot_state/gripper_position": rng.random(rows),
        "observation/robot_state/motor_torques_measured": rng.normal(size=(rows, 7)),
        "observation/robot_state/prev_command_successful": np.ones(rows, bool),
        "observation/timestamp/robot_state/read_start": read_start,
        "observation/timestamp/robot_state/read_end": read_start + 1,
        "observation/controller_info/movement_enabled": moving,
        "observation/controller_info/success": np.zeros(rows, bool),
    }
    for number, serial in enumerate(SERIALS.values()):
        written[f"observation/camera_type/{serial}"] = np.full(rows, min(number, 1))
        written[f"observation/camera_extrinsics/{serial}_left"] = rng.normal(size=(rows, 6))
        written[f"observation/timestamp/cameras/{serial}_frame_received"] = read_start + 20 + number
    with h5py.File(path, "w") as file:
        file.attrs.update({"success": True, "failure": False, "user": "somebody", "current_task": "from the h5", "version_number": 1.1})
        for name, value in (written | columns).items():
            if value is not None:
                file.create_dataset(name, data=value, maxshape=(None, *np.shape(value)[1:]))


def make(folder: Path, rows: int = 6, frames: int | None = None, metadata=None, seed: int = 0, stopped=(), **columns) -> Path:
    folder.mkdir(parents=True)
    trajectory(folder / "trajectory.h5", rows, stopped, seed, **columns)
    for number, (camera, serial) in enumerate(SERIALS.items()):
        video(folder / "recordings" / "MP4" / f"{serial}.mp4", frames if frames and camera == "ext1" else rows, 20 + 40 * number)
    (folder / "recordings" / "SVO").mkdir()
    (folder / "recordings" / "SVO" / f"{SERIALS['wrist']}.svo").write_bytes(b"SVO")
    uuid = f"AUTOLab+5d05c5aa+2023-07-07-09h-42m-{seed:02d}s"
    said = {
        "uuid": uuid, "lab": "AUTOLab", "user": "somebody", "user_id": "5d05c5aa", "date": "2023-07-07", "building": "hall", "scene_id": 7,
        "success": True, "robot_serial": "panda-295341", "droid_version": "1.0", "current_task": "Put the marker into the cup",
        "trajectory_length": rows, "wrist_mp4_path": "success/2023-07-07/somewhere/else.mp4",
        **{f"{camera}_cam_serial": serial for camera, serial in SERIALS.items()},
    }  # fmt: skip
    written = metadata if isinstance(metadata, str) else json.dumps(said | (metadata or {}))
    (folder / f"metadata_{uuid}.json").write_text(written)
    return folder


class TestDroid(ReaderContract):
    format, episodes = "droid_raw", 2

    @pytest.fixture
    def dataset(self, tmp_path):
        root = tmp_path / "in" / "AUTOLab"
        make(root / "success" / "2023-07-07" / "Fri_Jul__7_09:42:23_2023", seed=0, stopped=(1, 2))
        make(root / "failure" / "2023-07-08" / "Sat_Jul__8_10:00:00_2023", seed=1, metadata={"success": False})
        return root


def test_rows_come_out_as_recorded(tmp_path):
    path = make(tmp_path / "episode")
    reader = read(path)
    spec = reader.spec
    assert locate(path) == (path, "droid_raw") and len(reader) == 1
    assert (spec.name, spec.action_mode, spec.rate_hz) == ("droid", "joint_pos", 15.0)
    assert dict(spec.cameras) == {"wrist": SIZE, "ext1": SIZE, "ext2": SIZE}
    assert list(spec.state) == ["joint_pos", "joint_vel", "ee_pose", "gripper"]
    assert spec.action.names[6:] == ("joint7", "gripper") and spec.action.units == ("rad",) * 7 + ("1",)
    episode = reader[0]
    check_episode(episode, spec)
    with h5py.File(path / "trajectory.h5") as raw:
        np.testing.assert_array_equal(episode.action[:, :7], raw["action/joint_position"][:].astype(np.float32))
        np.testing.assert_allclose(episode.action[:, 7], 1 - raw["action/gripper_position"][:], rtol=1e-6)  # 1 is open here
        np.testing.assert_allclose(episode.state["gripper"][:, 0], 1 - raw["observation/robot_state/gripper_position"][:], rtol=1e-6)
        np.testing.assert_array_equal(episode.state["ee_pose"], raw["observation/robot_state/cartesian_position"][:].astype(np.float32))
        velocity = episode.streams["action.cartesian_velocity"]
        np.testing.assert_array_equal(velocity.values, raw["action/cartesian_velocity"][:].astype(np.float32))
        np.testing.assert_array_equal(velocity.time, episode.time)
    np.testing.assert_allclose(episode.time, 0.067 * np.arange(6), atol=1e-6)
    np.testing.assert_allclose(episode.image_time["ext1"], episode.time + 0.021, atol=1e-6)
    for number, camera in enumerate(SERIALS):
        brightness = episode.images[camera].mean((1, 2, 3))
        np.testing.assert_allclose(brightness, 20 + 40 * number + 8 * np.arange(6), atol=4)
    assert episode.terminal.tolist() == [False] * 5 + [True] and (episode.source == Source.HUMAN).all()
    assert episode.meta["instruction"] == "Put the marker into the cup" and episode.meta["success"] is True
    assert episode.meta["origin"]["lab"] == "AUTOLab" and episode.meta["origin"]["rows"] == [6, 6]
    json.dumps(dict(episode.meta))
    assert any("kept as streams" in note for note in reader.notes) and any("SVO" in note for note in reader.notes)


def test_rows_without_movement_are_left_out_with_their_frames(tmp_path):
    path = make(tmp_path / "episode", stopped=(0, 3, 5))
    episode = read(path)[0]
    kept = [1, 2, 4]
    with h5py.File(path / "trajectory.h5") as raw:
        np.testing.assert_array_equal(episode.action[:, :7], raw["action/joint_position"][kept].astype(np.float32))
    np.testing.assert_allclose(episode.time, [0, 0.067, 0.201], atol=1e-6)  # the pause stays visible
    np.testing.assert_allclose(episode.images["wrist"].mean((1, 2, 3)), 20 + 8 * np.array(kept), atol=4)
    assert len(episode.streams["motor_torques"].time) == 3 and episode.meta["origin"]["rows"] == [6, 3]


def test_a_tree_is_read_wherever_one_begins(tmp_path):
    first = make(tmp_path / "raw" / "AUTOLab" / "success" / "2023-07-07" / "a", seed=0)
    make(tmp_path / "raw" / "AUTOLab" / "failure" / "2023-07-07" / "b", seed=1, metadata={"success": False})
    make(tmp_path / "raw" / "ILIAD" / "success" / "2023-07-09" / "c", seed=2)
    for root, count in (("raw", 3), ("raw/AUTOLab", 2), ("raw/AUTOLab/success", 1), ("raw/AUTOLab/success/2023-07-07", 1)):
        assert locate(tmp_path / root) == (tmp_path / root, "droid_raw")
        assert len(read(tmp_path / root)) == count
    reader = read(tmp_path / "raw")
    assert [reader[i].meta["success"] for i in range(3)] == [False, True, True]
    assert not reader[0].terminal.any()
    assert reader[1].meta["origin"]["folder"] == str(first.relative_to(tmp_path / "raw"))


def test_links_out_of_the_tree_are_not_followed(tmp_path):
    outside = make(tmp_path / "outside", seed=1)
    make(tmp_path / "tree" / "success" / "day" / "a", seed=0)
    (tmp_path / "tree" / "success" / "day" / "b").symlink_to(outside)
    assert len(read(tmp_path / "tree")) == 1


def test_cameras_can_be_missing_or_unwanted(tmp_path):
    path = make(tmp_path / "episode")
    (path / "recordings" / "MP4" / f"{SERIALS['ext2']}.mp4").unlink()
    assert list(read(path).spec.cameras) == ["wrist", "ext1"]
    (path / "recordings" / "MP4" / f"{SERIALS['ext1']}.mp4").write_bytes(b"no video")
    reader = read(path, options=Options(cameras=("wrist",), rate_hz=7.5))
    assert list(reader[0].images) == ["wrist"] and reader.spec.rate_hz == 7.5
    with pytest.raises(UserError, match="20103212.mp4"):
        read(path)


def test_a_later_episode_that_lacks_a_camera_says_so(tmp_path):
    make(tmp_path / "tree" / "success" / "day" / "a", seed=0)
    second = make(tmp_path / "tree" / "success" / "day" / "b", seed=1)
    (second / "recordings" / "MP4" / f"{SERIALS['wrist']}.mp4").unlink()
    reader = read(tmp_path / "tree")
    with pytest.raises(UserError, match="episode 1: b: the MP4 of camera wrist is missing; choose other cameras"):
        _ = reader[1]


def test_rows_after_the_last_frame_are_left_out(tmp_path):
    """As DROID's own load_trajectory stops where a camera does; whether the task ended is then not seen."""
    episode = read(make(tmp_path / "episode", frames=4))[0]
    assert len(episode) == 4 and not episode.terminal.any() and episode.meta["success"] is True


def test_clocks_that_jump_back_are_not_believed(tmp_path):
    taken = BEGAN_MS + np.array([20, 87, 60, 221, 288, 355])
    path = make(tmp_path / "episode", **{f"observation/timestamp/cameras/{SERIALS['ext1']}_frame_received": taken})
    reader = read(path)
    check_episode(reader[0], reader.spec)
    assert sorted(reader[0].image_time) == ["ext2", "wrist"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action/joint_position": None}, "/action/joint_position: missing; /action holds robot_state, "),
        ({"action/joint_position": np.zeros((6, 6))}, r"action/joint_position has shape \(6, 6\); expected \(T, 7\)"),
        ({"observation/timestamp/robot_state/read_start": None}, "/observation/timestamp/robot_state/read_start: missing"),
        ({"observation/timestamp/robot_state/read_start": np.arange(3)}, "episode 0: damaged .IndexError"),
        ({"stopped": range(6)}, "episode: of 6 rows none has both movement_enabled and a frame"),
        ({"frames": 60}, "20103212.mp4: holds 60 frames for 6 rows; DROID records one for each"),
        ({"metadata": {"wrist_cam_serial": "../../../secret"}}, "leads out of .*; refused"),
        ({"metadata": "{"}, r"metadata_.*json: no JSON"),
        ({"metadata": "[]"}, r"metadata_.*json: holds a list; expected an object"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, change, message):
    path = make(tmp_path / "episode", **change)
    with pytest.raises(UserError, match=message) as caught:
        _ = read(path)[0]
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_nothing_else_is_taken_for_droid(tmp_path):
    (tmp_path / "a" / "success").mkdir(parents=True)
    trajectory(tmp_path / "a" / "trajectory.h5", 3)  # without metadata it is ManiSkill's, or anybody's
    with pytest.raises(UserError, match="holds no metadata_"):
        read(tmp_path / "a", "droid_raw")
