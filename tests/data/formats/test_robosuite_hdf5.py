"""robosuite's raw demonstrations: states go into the installed scene by joint name, the rest is what that scene shows."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pytest

from hardware.mujoco.robosuite import start
from hardware.types import Source
from robolearn.core.errors import UserError
from robolearn.data.episode import check_episode
from robolearn.data.formats import Options, read, recognise
from robolearn.data.testing import ReaderContract

# As robosuite 1.0 wrote it, with the cube before the arm: the order of joints is the file's own.
XML = """<mujoco><worldbody><body><joint name="cube_jnt0" type="free"/></body>
<body>{}<joint name="gripper0_finger_joint1" type="slide"/><joint name="gripper0_finger_joint2" type="slide"/></body>
</worldbody></mujoco>""".format("".join(f'<joint name="robot0_joint{i}"/>' for i in range(1, 8)))
REAL = Path(os.environ.get("ROBOLEARN_DATA", "/nowhere")) / "robosuite-human"


@cache
def home() -> np.ndarray:
    return start("Lift").home


def lift_states(heights: tuple[float, ...]) -> np.ndarray:
    """The arm at home, turning at the base a little each row; the cube at these heights [m]. Rows (time, qpos, qvel)."""
    rows = []
    for k, height in enumerate(heights):
        cube = [0.01 * k, 0.02, height, 1, 0, 0, 0]
        rows.append([0.052 + 0.05 * k, *cube, *(home() + np.eye(7)[0] * 0.02 * k), 0.03, -0.03, *np.zeros(6 + 7 + 2)])
    return np.array(rows)


def write(path: Path, states: np.ndarray, actions: np.ndarray | None = None, demos: int = 1, xml: str = XML, **attrs: str) -> Path:
    if actions is None:
        actions = np.random.default_rng(0).uniform(-1.2, 1.2, (len(states), 7))
    (path.parent / "models").mkdir(exist_ok=True)
    (path.parent / "models" / "model_1.xml").write_text(xml)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        env_info = json.dumps({"robots": "Panda"})
        data.attrs.update({"env": "Lift", "repository_version": "1.0.0", "date": "1-2-2020", "env_info": env_info} | attrs)
        for number in range(1, demos + 1):
            demo = data.create_group(f"demo_{number}")
            demo["states"], demo["actions"] = states, actions
            demo.attrs["model_file"] = xml if number % 2 == 0 else "model_1.xml"  # newer releases store the text itself
    return path


@pytest.mark.slow
class TestRobosuite(ReaderContract):
    format, episodes = "robosuite_hdf5", 2

    @pytest.fixture
    def dataset(self, tmp_path):
        (tmp_path / "in").mkdir()
        path = write(tmp_path / "in" / "demo.hdf5", lift_states((0.82, 0.82)), demos=2)
        return path


def test_each_row_shows_the_recorded_state(tmp_path):
    states = lift_states((0.82, 0.82, 0.85))
    path = write(tmp_path / "demo.hdf5", states, demos=2)
    assert recognise(path) == "robosuite_hdf5"
    episodes = read(path)
    spec = episodes.spec
    assert len(episodes) == 2
    assert (spec.name, spec.action_mode, spec.rate_hz) == ("robosuite:Lift", "osc_pose_delta", 20.0)
    first, second = episodes
    for episode in (first, second):
        check_episode(episode, spec)
    np.testing.assert_allclose(first.state["joint_pos"], states[:, 8:15], atol=1e-6)
    np.testing.assert_allclose(first.state["gripper"][:, 0], 0.75, atol=1e-6)  # 0.03 of 0.04 m
    np.testing.assert_allclose(first.time, states[:, 0])
    assert np.ptp(first.state["ee_pos"][:, 1]) > 0.01  # the base turned
    np.testing.assert_array_equal(first.images["agentview"], second.images["agentview"])
    assert (first.images["agentview"][0] != first.images["agentview"][1]).any()
    assert (first.source == Source.HUMAN).all()
    assert first.requested_action.max() > 1.0  # as recorded
    assert np.abs(first.action).max() == 1.0  # as the controller took it
    assert first.meta["origin"]["demo"] == "demo_1"
    assert first.meta["origin"]["recorded"]["repository_version"] == "1.0.0"
    assert len(first.meta["origin"]["sha256"]) == 64
    json.dumps(dict(first.meta))


def test_reward_and_success_are_what_the_scene_says(tmp_path):
    episodes = read(write(tmp_path / "demo.hdf5", lift_states((0.82, 0.82, 0.85))))
    (lifted,) = episodes
    assert lifted.success
    assert lifted.terminal.tolist() == [False, False, True]
    assert lifted.reward[0] < 0.5
    assert lifted.reward[1:].tolist() == [1.0, 1.0]  # row 1's action lifted it
    (left,) = read(write(tmp_path / "demo.hdf5", lift_states((0.82, 0.82))))
    assert not left.success
    assert not left.terminal.any()


def test_cameras_and_rate_are_options(tmp_path):
    path = write(tmp_path / "demo.hdf5", lift_states((0.82, 0.82)))
    blind = read(path, options=Options(cameras=(), rate_hz=10.0))
    assert dict(blind.spec.cameras) == {} and dict(blind[0].images) == {} and blind.spec.rate_hz == 10.0
    assert any("10 Hz as asked for; robosuite records at 20 Hz" in note for note in blind.notes)
    np.testing.assert_allclose(np.diff(blind[0].time), 0.05)  # as recorded
    one = read(path, options=Options(cameras=("wrist",)))
    every = read(path)
    assert list(one[0].images) == ["wrist"]
    np.testing.assert_array_equal(one[0].images["wrist"], every[0].images["wrist"])
    np.testing.assert_array_equal(blind[0].state["joint_pos"], every[0].state["joint_pos"])
    assert any("recorded states as shown by robosuite" in note for note in every.notes)


def test_what_robomimic_made_of_it_is_robomimics(tmp_path):
    """Its convert_robosuite.py adds env_args to the same file; only observations make it robomimic's."""
    path = write(tmp_path / "demo.hdf5", lift_states((0.82,)))
    with h5py.File(path, "a") as file:
        file["data"].attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}})
    assert recognise(path) == "robosuite_hdf5"
    with h5py.File(path, "a") as file:
        file["data/demo_1/obs/robot0_eef_pos"] = np.zeros((1, 3))
    assert recognise(path) == "robomimic_hdf5"


def test_a_model_file_elsewhere_is_refused(tmp_path):
    (tmp_path / "secret.xml").write_text(XML)
    path = write(tmp_path / "demo.hdf5", lift_states((0.82,)))
    for elsewhere in ("../secret.xml", str(tmp_path / "secret.xml")):
        with h5py.File(path, "a") as file:
            file["data/demo_1"].attrs["model_file"] = elsewhere
        with pytest.raises(UserError, match=r"episode 0: .*secret.xml' leads out of .*models; refused"):
            _ = read(path)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env": "Juggle"}, r"demo.hdf5: RobotConfig.body: 'robosuite:Juggle'; valid: robosuite:Lift"),
        ({"env_info": json.dumps({"robots": "Sawyer"})}, r"env_info.robots 'Sawyer'; only Panda"),
        (
            {"xml": XML.replace("robot0_joint7", "robot0_wrist")},
            r"demo_1: joint 'robot0_wrist' \(hinge\) has no counterpart; .*robot0_joint7",
        ),
        ({"xml": XML.replace('<joint name="robot0_joint7"/>', "")}, r"states have 32 columns; its model's joints make 30"),
        ({"xml": "<mujoco"}, r"demo_1: its model_file cannot be read"),
        ({"actions": np.zeros((3, 4))}, r"states \(3, 32\), actions \(3, 4\); expected as many of each"),
        ({"actions": np.full((3, 7), np.nan)}, r"NaN or inf"),
    ],
)
def test_what_cannot_be_replayed_is_one_line(tmp_path, change, message):
    path = write(tmp_path / "demo.hdf5", lift_states((0.82, 0.82, 0.82)), **change)
    with pytest.raises(UserError, match=message) as error:
        list(read(path))
    assert "\n" not in str(error.value)


def test_a_truncated_file_and_another_hdf5_are_not_taken_for_demonstrations(tmp_path):
    path = write(tmp_path / "demo.hdf5", lift_states((0.82,)))
    path.write_bytes(path.read_bytes()[:1000])
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["data"] = np.zeros(3)
    for name in ("demo.hdf5", "other.hdf5"):
        with pytest.raises(UserError, match="not in a format that is read here"):
            read(tmp_path / name)


@pytest.mark.slow
@pytest.mark.peer
@pytest.mark.skipif(not REAL.is_dir(), reason="ROBOLEARN_DATA/robosuite-human: not there")
@pytest.mark.parametrize("task", ["lift", "stack", "door", "nut-assembly", "pick-place"])
def test_every_human_demonstration_ends_in_success(task, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model_1.xml").write_text((REAL / task / "models" / "model_1.xml").read_text())
    with h5py.File(REAL / task / "demo.hdf5") as real, h5py.File(tmp_path / "demo.hdf5", "w") as part:
        rows = np.unique(np.linspace(0, len(real["data/demo_1/states"]) - 1, 12).astype(int))  # 12 rows show enough
        data = part.create_group("data")
        data.attrs.update(real["data"].attrs)
        demo = data.create_group("demo_1")
        demo.attrs["model_file"] = "model_1.xml"
        demo["states"], demo["actions"] = real["data/demo_1/states"][rows], real["data/demo_1/actions"][rows]
    episodes = read(tmp_path / "demo.hdf5")
    spec = episodes.spec
    (episode,) = episodes
    check_episode(episode, spec)
    assert episode.success
    assert episode.terminal[-1]
    assert episode.reward[-1] == pytest.approx(1.0)
    assert episode.reward[0] < 0.5
    assert all(image.std() > 20 for images in episode.images.values() for image in images)  # something is in the picture
