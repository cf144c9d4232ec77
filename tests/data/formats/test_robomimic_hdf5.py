"""robomimic's HDF5, read and written.

The files are made here, as robomimic's dataset_states_to_obs.py and split_train_val.py write them (its documentation, "Dataset
Structure"): float64 vectors, uint8 pictures, env_args as JSON, masks as byte strings.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hardware.types import ArraySpec, RobotSpec, Source
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode, Stream, check_episode
from robolearn.data.formats import Options, locate, read, write
from robolearn.data.testing import ReaderContract

ENV_ARGS: dict[str, Any] = {
    "env_name": "Lift",
    "type": 1,
    "env_kwargs": {
        "robots": ["Panda"],
        "control_freq": 20,
        "controller_configs": {"type": "OSC_POSE", "control_delta": True, "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5]},
        "reward_shaping": False,
    },
}


def obs(rows: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    quaternion = rng.normal(size=(rows, 4))
    return {
        "agentview_image": rng.integers(0, 256, (rows, 12, 16, 3), np.uint8),
        "robot0_eye_in_hand_image": rng.integers(0, 256, (rows, 8, 8, 3), np.uint8),
        "agentview_depth": rng.random((rows, 12, 16, 1), np.float32),
        "object": rng.normal(size=(rows, 10)),
        "robot0_eef_pos": rng.normal(size=(rows, 3)),
        "robot0_eef_quat": quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True),
        "robot0_gripper_qpos": rng.random((rows, 2)),
        "robot0_joint_pos": rng.normal(size=(rows, 7)),
    }


def make(path: Path, lengths=(5, 4), env_args: Any = ENV_ARGS, without=(), **columns) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for number, rows in enumerate(lengths):
            rng = np.random.default_rng(number)
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"], demo.attrs["model_file"] = rows, "<mujoco/>"
            sparse = np.zeros(rows)
            sparse[-1] = number % 2 == 0
            written = {
                "actions": rng.uniform(-1, 1, (rows, 7)),
                "states": rng.normal(size=(rows, 32)),
                "rewards": sparse,
                "dones": np.eye(rows, dtype=np.int64)[-1],  # done_mode 2: at the end of each trajectory
            } | columns
            for key, value in written.items():
                if value is not None:
                    demo[key] = value
            if "obs" not in without:
                for key, value in obs(rows, number).items():
                    demo[f"obs/{key}"] = value
                    demo[f"next_obs/{key}"] = np.roll(value, -1, 0)
        data.attrs["total"] = sum(lengths)
        if env_args is not None:
            data.attrs["env_args"] = env_args if isinstance(env_args, str) else json.dumps(env_args, indent=4)
        file["mask/train"] = np.array([f"demo_{i}" for i in range(len(lengths) - 1)], dtype="S")
        file["mask/valid"] = np.array([f"demo_{len(lengths) - 1}"], dtype="S")
        file["mask/20_percent"] = np.array(["demo_0"], dtype="S")
    return path


class TestRobomimic(ReaderContract):
    format, episodes = "robomimic_hdf5", 2

    @pytest.fixture
    def dataset(self, tmp_path):
        return make(tmp_path / "in" / "image.hdf5")


class TestWrittenHere(ReaderContract):
    format, episodes = "robomimic_hdf5", 2

    @pytest.fixture
    def dataset(self, tmp_path):
        (tmp_path / "in").mkdir()
        write(tmp_path / "in" / "out.hdf5", Recorded(), "robomimic_hdf5")
        return tmp_path / "in" / "out.hdf5"


def test_rows_come_out_as_recorded(tmp_path):
    path = make(tmp_path / "ph" / "image.hdf5")
    reader = read(path)
    spec = reader.spec
    assert (spec.name, spec.action_mode, spec.rate_hz) == ("robomimic:Lift", "osc_pose_delta", 20.0)
    assert dict(spec.cameras) == {"agentview_image": (12, 16), "robot0_eye_in_hand_image": (8, 8)}
    assert list(spec.state) == ["object", "robot0_eef_pos", "robot0_eef_quat", "robot0_joint_pos", "robot0_gripper_qpos"]
    assert spec.state["robot0_eef_pos"].units == ("m",) * 3 and spec.state["object"].units == ("",) * 10
    assert spec.action.names == ("dx", "dy", "dz", "rx", "ry", "rz", "gripper") and spec.action.high == (1.0,) * 7
    with h5py.File(path) as raw:
        for index, rows in enumerate((5, 4)):
            episode, demo = reader[index], raw[f"data/demo_{index}"]
            check_episode(episode, spec)
            assert len(episode) == rows
            np.testing.assert_array_equal(episode.action, demo["actions"][:].astype(np.float32))
            np.testing.assert_array_equal(episode.images["agentview_image"], demo["obs/agentview_image"][:])
            np.testing.assert_array_equal(episode.state["object"], demo["obs/object"][:].astype(np.float32))
            quaternion = demo["obs/robot0_eef_quat"][:].astype(np.float32)
            np.testing.assert_array_equal(episode.state["robot0_eef_quat"], quaternion[:, [3, 0, 1, 2]])  # wxyz
            np.testing.assert_array_equal(episode.reward, demo["rewards"][:])
            np.testing.assert_allclose(episode.time, np.arange(rows) / 20)
            assert (episode.source == Source.HUMAN).all()
    first, second = reader[0], reader[1]
    assert (first.meta["success"], second.meta["success"]) == (True, False)
    assert first.terminal.tolist() == [False] * 4 + [True] and not second.terminal.any()  # done, but no success: the recording's end
    assert first.meta["splits"] == ["train", "20_percent"] and second.meta["splits"] == ["valid"]
    assert first.meta["origin"] == {"file": "image.hdf5", "demo": "demo_0"} and first.meta["operator"] == "unknown"
    assert any("agentview_depth" in note for note in reader.notes) and any("wxyz: robot0_eef_quat" in note for note in reader.notes)


def test_cameras_and_rate_are_options(tmp_path):
    reader = read(make(tmp_path / "image.hdf5"), options=Options(rate_hz=10.0, cameras=("robot0_eye_in_hand_image",)))
    assert dict(reader.spec.cameras) == {"robot0_eye_in_hand_image": (8, 8)} and reader.spec.rate_hz == 10.0
    np.testing.assert_allclose(reader[0].time, np.arange(5) / 10)


def test_demo_10_comes_after_demo_9(tmp_path):
    reader = read(make(tmp_path / "image.hdf5", lengths=tuple(range(2, 14))))
    assert [len(reader[i]) for i in range(len(reader))] == list(range(2, 14))


def test_machine_generated_is_a_policys(tmp_path):
    episode = read(make(tmp_path / "mg" / "low_dim.hdf5"))[0]
    assert (episode.source == Source.POLICY).all() and episode.meta["operator"] == "policy"


def test_other_environments_say_less(tmp_path):
    """A gym environment: no units, no rate, and success only where sparse rewards say it."""
    args = {"env_name": "Reach", "type": 2, "env_kwargs": {}}
    reader = read(make(tmp_path / "a.hdf5", env_args=args))
    assert reader.spec.action_mode == "unknown" and reader.spec.action.high == (np.inf,) * 7
    assert reader.spec.state["robot0_eef_quat"].names[0] == "robot0_eef_quat_0"
    assert [reader[i].meta["success"] for i in (0, 1)] == [True, None]
    assert any("20 Hz assumed" in note for note in reader.notes)
    assert read(make(tmp_path / "b.hdf5", lengths=(4,), env_args=args, rewards=np.array([0.2, 1, 3, 1])))[0].meta["success"] is None


def test_absolute_and_two_armed_actions(tmp_path):
    absolute = json.loads(json.dumps(ENV_ARGS))
    absolute["env_kwargs"]["controller_configs"]["control_delta"] = False
    assert read(make(tmp_path / "abs.hdf5", env_args=absolute)).spec.action_mode == "unknown"
    newer = {**ENV_ARGS, "env_kwargs": {"control_freq": 20, "controller_configs": {
        "type": "BASIC", "body_parts": {"right": {"type": "OSC_POSE", "input_type": "delta"}}}}}  # fmt: skip
    reader = read(make(tmp_path / "two.hdf5", lengths=(3,), env_args=newer, actions=np.zeros((3, 14))))
    assert reader.spec.action_mode == "osc_pose_delta" and reader.spec.action.names[7] == "robot1_dx"


def test_language_comes_from_ep_meta(tmp_path):
    path = make(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        file["data/demo_0"].attrs["ep_meta"] = json.dumps({"lang": "lift the cube"})
        file["data/demo_1"].attrs["ep_meta"] = "{"
        for demo in file["data"].values():
            demo["obs/lang_emb"] = np.zeros((len(demo["actions"]), 768))
    reader = read(path)
    assert reader[0].meta["instruction"] == "lift the cube" and reader[1].meta["instruction"] is None
    assert "lang_emb" not in reader.spec.state


def test_states_alone_are_refused_with_what_to_do(tmp_path):
    path = make(tmp_path / "demo.hdf5", without=("obs",))
    assert locate(path)[1] == "robomimic_hdf5"
    with pytest.raises(UserError, match=r"demo.hdf5: data/demo_0 has no obs, only simulator states; .*dataset_states_to_obs"):
        read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": np.zeros((4, 7))}, r"episode 0: rows differ .*action 4, state.object 5"),
        ({"actions": None}, r"/data/demo_0/actions: missing; /data/demo_0 holds obs, "),
        ({"actions": np.array([b"a"] * 5)}, r"/data/demo_0/actions: is \|S1; expected numbers"),
        ({"env_args": "{"}, "env_args is damaged"),
        ({"env_args": "[]"}, "env_args is damaged"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, change, message):
    path = make(tmp_path / "a.hdf5", lengths=(5,), **change)
    with pytest.raises(UserError, match=message) as caught:
        _ = read(path)[0]
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_nan_is_left_to_whoever_stores_it(tmp_path):
    reader = read(make(tmp_path / "a.hdf5", lengths=(5,), actions=np.full((5, 7), np.nan)))
    with pytest.raises(ValueError, match="action is not finite at row 0"):
        check_episode(reader[0], reader.spec)


def test_pictures_of_another_size_are_one_line(tmp_path):
    path = make(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        del file["data/demo_1/obs/agentview_image"]
        file["data/demo_1/obs/agentview_image"] = np.zeros((4, 10, 16, 3), np.uint8)
    with pytest.raises(UserError, match=r"episode 1: /data/demo_1/obs/agentview_image: is uint8 \(4, 10, 16, 3\); expected"):
        _ = read(path)[1]


SPEC = RobotSpec(
    "somebody's arm",
    {"front": (12, 16), "wrist_image": (8, 8)},
    {
        "joint_pos": ArraySpec(("a", "b"), ("rad", "rad"), (-3.0, -np.inf), (3.0, np.inf)),
        "grip": ArraySpec(("opening",), ("1",), (0.0,), (1.0,)),
    },
    ArraySpec(("x", "y", "z"), ("m", "", "1"), (-0.02, -np.inf, -1.0), (0.02, np.inf, 1.0)),
    "ee_delta",
    12.5,
    {"force": ArraySpec(("fz",), ("N",), (-np.inf,), (np.inf,))},
)


class Recorded:
    """Two episodes with everything an episode may hold."""

    spec = SPEC

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Episode:
        rows = 5 - index
        rng = np.random.default_rng(index)
        return Episode(
            time=np.cumsum(rng.uniform(0.07, 0.09, rows)),
            images={name: rng.integers(0, 256, (rows, *size, 3), np.uint8) for name, size in self.spec.cameras.items()},
            state={"joint_pos": rng.normal(size=(rows, 2)).astype(np.float32), "grip": rng.random((rows, 1), np.float32)},
            action=(rng.uniform(-1, 1, (rows, 3)) * (0.02, 40, 1)).astype(np.float32),
            requested_action=np.full((rows, 3), np.nan, np.float32),
            reward=rng.random(rows, np.float32),
            terminal=np.eye(rows, dtype=bool)[-1],
            source=rng.integers(0, 6, rows).astype(np.uint8),
            meta={"task": "push", "success": bool(index), "splits": ["train", "better"][: 2 - index], "seed": 7, "origin": {"file": "é"}},
            image_time={"front": np.arange(rows) * 0.08} if index == 0 else {},
            streams={"force": Stream(np.arange(20) * 0.01, rng.normal(size=(20, 1)).astype(np.float32))},
        )


def test_written_and_read_back_is_the_same(tmp_path):
    write(tmp_path / "out.hdf5", Recorded(), "robomimic_hdf5")
    reader = read(tmp_path / "out.hdf5")
    assert reader.spec == SPEC and reader.notes == ()
    for index in range(2):
        expected, episode = Recorded()[index], reader[index]
        check_episode(episode, SPEC)
        for field in ("time", "action", "requested_action", "reward", "terminal", "source"):
            np.testing.assert_array_equal(getattr(episode, field), getattr(expected, field))
            assert getattr(episode, field).dtype == getattr(expected, field).dtype
        for field in ("images", "state", "image_time"):
            assert getattr(episode, field).keys() == getattr(expected, field).keys()
            for name, value in getattr(expected, field).items():
                np.testing.assert_array_equal(getattr(episode, field)[name], value)
        assert dict(episode.meta) == dict(expected.meta)
        np.testing.assert_array_equal(episode.streams["force"].time, expected.streams["force"].time)
        np.testing.assert_array_equal(episode.streams["force"].values, expected.streams["force"].values)
    assert not list(tmp_path.glob(".*"))


def test_what_robomimic_finds_in_it(tmp_path):
    write(tmp_path / "out.hdf5", Recorded(), "robomimic_hdf5")
    with h5py.File(tmp_path / "out.hdf5") as file:
        data = file["data"]
        assert data.attrs["total"] == 9 and json.loads(data.attrs["env_args"]) == {"env_name": SPEC.name, "type": 2, "env_kwargs": {}}
        assert sorted(data["demo_0/obs"]) == ["front_image", "grip", "joint_pos", "wrist_image"]
        assert [data[f"demo_{i}"].attrs["num_samples"] for i in (0, 1)] == [5, 4]
        np.testing.assert_array_equal(file["mask/train"][:], [b"demo_0", b"demo_1"])
        np.testing.assert_array_equal(file["mask/better"][:], [b"demo_0"])
        every = np.concatenate([Recorded()[i].action for i in (0, 1)])
        scaled = np.concatenate([data[f"demo_{i}/actions"][:] for i in (0, 1)])
        assert scaled.dtype == np.float32 and np.abs(scaled).max() <= 1
        np.testing.assert_allclose(scaled[:, 0], every[:, 0] / 0.02, rtol=1e-6)  # by its limits
        assert scaled[:, 1].min() == -1 and scaled[:, 1].max() == 1  # it has none: by the range of the data
        np.testing.assert_array_equal(scaled[:, 2], every[:, 2])  # was in [-1, 1] already
        kept = json.loads(data.attrs["robolearn"])
        low, high = np.array(kept["action_low"]), np.array(kept["action_high"])
        np.testing.assert_allclose((scaled + 1) / 2 * (high - low) + low, every, rtol=1e-5, atol=1e-6)
        front = data["demo_0/obs/front_image"]
        np.testing.assert_array_equal(data["demo_0/next_obs/front_image"][:-1], front[1:])


def test_limits_that_the_data_leave_are_widened(tmp_path):
    class Beyond(Recorded):
        def __getitem__(self, index: int) -> Episode:
            one = super().__getitem__(index)
            return replace(one, action=one.action * np.float32(2))

    write(tmp_path / "out.hdf5", Beyond(), "robomimic_hdf5")
    with h5py.File(tmp_path / "out.hdf5") as file:
        scaled = np.concatenate([file[f"data/demo_{i}/actions"][:] for i in (0, 1)])
    assert np.abs(scaled).max() <= 1 and scaled[:, 2].max() > 0.9


def test_somebodys_new_split_counts(tmp_path):
    write(tmp_path / "out.hdf5", Recorded(), "robomimic_hdf5")
    with h5py.File(tmp_path / "out.hdf5", "a") as file:
        del file["mask"]
        file["mask/valid"] = np.array(["demo_1"], dtype="S")
    reader = read(tmp_path / "out.hdf5")
    assert reader[0].meta["splits"] == [] and reader[1].meta["splits"] == ["valid"] and reader[1].meta["seed"] == 7


def test_robosuites_bodies_are_named(tmp_path):
    class Lift(Recorded):
        spec = replace(SPEC, name="robosuite:Lift")

    write(tmp_path / "out.hdf5", Lift(), "robomimic_hdf5")
    with h5py.File(tmp_path / "out.hdf5") as file:
        args = json.loads(file["data"].attrs["env_args"])
    assert (args["env_name"], args["type"]) == ("Lift", 1)
    assert args["env_kwargs"]["control_freq"] == 12.5 and args["env_kwargs"]["camera_heights"] == [12, 8]


def test_a_foreign_dataset_can_be_written_again(tmp_path):
    """robomimic to robomimic: what was read is what is read."""
    first = read(make(tmp_path / "image.hdf5"))
    write(tmp_path / "again.hdf5", first, "robomimic_hdf5")
    second = read(tmp_path / "again.hdf5")
    assert second.spec == first.spec
    for index in range(2):
        np.testing.assert_array_equal(second[index].images["agentview_image"], first[index].images["agentview_image"])
        np.testing.assert_array_equal(second[index].action, first[index].action)
        assert dict(second[index].meta) == dict(first[index].meta)


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path):
    class Broken(Recorded):
        def __getitem__(self, index: int) -> Episode:
            one = super().__getitem__(index)
            return replace(one, action=one.action * np.nan) if index else one

    class Colliding(Recorded):
        spec = replace(SPEC, state=dict(SPEC.state) | {"front_image": ArraySpec(("x",), ("",), (0.0,), (1.0,))})

    class Empty(Recorded):
        def __len__(self) -> int:
            return 0

    for dataset, message in ((Broken(), "episode 1: episode: action is not finite"), (Colliding(), "front_image"), (Empty(), "no episode")):
        with pytest.raises(UserError, match=message):
            write(tmp_path / "out.hdf5", dataset, "robomimic_hdf5")
        assert list(tmp_path.iterdir()) == []


def test_a_damaged_spec_is_one_line(tmp_path):
    write(tmp_path / "out.hdf5", Recorded(), "robomimic_hdf5")
    for damaged in ("{", "[]", "{}", '{"spec": {"name": "x"}}'):
        with h5py.File(tmp_path / "out.hdf5", "a") as file:
            file["data"].attrs["robolearn"] = damaged
        with pytest.raises(UserError, match="data's attribute robolearn is damaged"):
            read(tmp_path / "out.hdf5")
