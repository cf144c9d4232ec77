"""DAPG's demonstrations. The small pickles are made here from the real file's keys and the environments' documented widths."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from hardware.types import Source
from robolearn.core.errors import UserError
from robolearn.data.episode import check_episode
from robolearn.data.formats import Options, locate, read
from robolearn.data.testing import ReaderContract

# (what tells the task, width of an observation, of an action, of qpos)
TASKS = {
    "door": ("door_body_pos", 39, 28, 30),
    "hammer": ("board_pos", 46, 26, 33),
    "pen": ("desired_orien", 45, 24, 30),
    "relocate": ("obj_pos", 39, 30, 36),
}


def one(task: str = "door", number: int = 0, steps: int = 4, **changed) -> dict:
    key, observations, actions, qpos = TASKS[task]
    rng = np.random.default_rng(number)
    return {
        "actions": rng.uniform(-1.3, 1.3, (steps, actions)),
        "rewards": rng.uniform(0, 1, steps),
        "observations": rng.normal(size=(steps, observations)),
        "init_state_dict": {"qpos": np.arange(qpos, dtype=float), "qvel": np.zeros(qpos), key: np.array([0.1, 0.2, 0.3])},
    } | changed


def write(path: Path, found: list, protocol: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(found, protocol))
    return path


class TestDapg(ReaderContract):
    format, episodes = "dapg_pickle", 2

    @pytest.fixture
    def dataset(self, tmp_path: Path) -> Path:
        return write(tmp_path / "in" / "door-v0_demos.pickle", [one(), one(number=1, steps=3)])


def test_rows_are_what_was_recorded(tmp_path):
    found = [one(), one(number=1, rewards=np.array([1.0, 9.9, 19.9, 9.9]))]
    path = write(tmp_path / "any name.pickle", found)
    reader = read(path)
    spec, (opened_not, opened) = reader.spec, (reader[0], reader[1])
    check_episode(opened_not, spec)
    assert (spec.name, spec.rate_hz, spec.action_mode, dict(spec.cameras)) == ("adroit:door", 100.0, "joint_pos_normalized", {})
    observation = spec.state["observation"]
    assert observation.names[:4] == ("ARRx", "ARRy", "ARRz", "WRJ1") and observation.names[27:29] == ("latch", "door_hinge")
    assert observation.names[35:] == ("palm_from_handle_x", "palm_from_handle_y", "palm_from_handle_z", "door_open")
    assert observation.units[28:30] == ("rad", "m") and spec.action.names[0] == "A_ARTz" and spec.action.high == (1.0,) * 28
    np.testing.assert_array_equal(opened_not.state["observation"], found[0]["observations"].astype(np.float32))
    np.testing.assert_array_equal(opened_not.requested_action, found[0]["actions"].astype(np.float32))
    np.testing.assert_array_equal(opened_not.action, np.clip(found[0]["actions"], -1, 1).astype(np.float32))
    np.testing.assert_array_equal(opened_not.reward, found[0]["rewards"].astype(np.float32))
    np.testing.assert_allclose(opened_not.time, [0, 0.01, 0.02, 0.03])
    assert not opened.terminal.any() and (opened.source == Source.HUMAN).all()
    assert (opened_not.meta["success"], opened.meta["success"]) == (False, True)
    assert opened.meta["max_hinge"] == pytest.approx(found[1]["observations"][:, 28].max())
    assert opened.meta["initial_state"]["qpos"] == list(range(30)) and opened.meta["initial_state"]["door_body_pos"] == [0.1, 0.2, 0.3]
    assert opened.meta["origin"] == {"file": "any name.pickle", "trajectory": 1} and opened.meta["operator"] == "human"
    json.dumps(dict(opened.meta))
    assert read(path, options=Options(rate_hz=50)).spec.rate_hz == 50


@pytest.mark.parametrize("task", TASKS)
def test_the_task_is_told_by_its_initial_state(tmp_path, task):
    reader = read(write(tmp_path / "demos.pickle", [one(task)], protocol=2))
    _, observations, actions, _ = TASKS[task]
    assert reader.spec.name == f"adroit:{task}"
    assert (reader.spec.state["observation"].dim, reader.spec.action.dim) == (observations, actions)
    assert len(set(reader.spec.state["observation"].names)) == observations
    check_episode(reader[0], reader.spec)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"init_state_dict": {"qpos": np.zeros(3)}},
            "init_state_dict tells no task; one of door_body_pos, board_pos, desired_orien, obj_pos",
        ),
        ({"init_state_dict": None}, "init_state_dict tells no task"),
        ({"actions": np.zeros((4, 27))}, r"actions has shape \(4, 27\); expected \(T, 28\), adroit:door's"),
        ({"observations": np.zeros((3, 39))}, "rows differ or there are none: action 4, state.observation 3"),
        ({"observations": np.zeros(39)}, r"observations has shape \(39,\)"),
        ({"rewards": np.zeros((4, 1))}, r"rewards has shape \(4, 1\); expected \(4,\)"),
        ({"rewards": ["good"] * 4}, "rewards is a list; expected numbers"),
        ({"init_state_dict": {"door_body_pos": np.zeros(2000)}}, "init_state_dict has more than 1000 numbers"),
        ({"actions": np.full((4, 28), 1e300)}, "float32 ends at 3.4e38"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, change, message):
    path = write(tmp_path / "demos.pickle", [one() | change])
    with pytest.raises(UserError, match=message) as error:
        read(path)[0]
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_other_pickles_are_not_taken_for_demonstrations(tmp_path):
    others = {
        "policy": {"weights": np.zeros(3)},
        "paths": [{"observations": np.zeros(2), "actions": np.zeros(2), "rewards": np.zeros(2)}],
        "names": ["observations", "actions"],
    }
    for name, value in others.items():
        path = write(tmp_path / f"{name}.pickle", value)
        with pytest.raises(UserError, match="not in a format that is read here"):
            locate(path)


class Gadget:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_a_pickle_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "demos.pickle", [one() | {"env_infos": Gadget()}])
    assert locate(path) == (path, "dapg_pickle")
    with pytest.raises(UserError, match=r"demos\.pickle: names posix\.system; only numbers"):
        read(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.peer
def test_the_real_door_demonstrations():
    """25 human demonstrations (datasets/adroit-door-human.md)."""
    if not (root := os.environ.get("ROBOLEARN_DATA")):
        pytest.skip("ROBOLEARN_DATA is not set: the folder that holds adroit-door-human")
    reader = read(Path(root) / "adroit-door-human")
    every = [reader[index] for index in range(len(reader))]
    for episode in every:
        check_episode(episode, reader.spec)
        seen = episode.state["observation"]
        np.testing.assert_allclose(seen[:, 29:32] - seen[:, 32:35], seen[:, 35:38], atol=1e-6)  # the columns are what they are called
        assert set(np.unique(seen[:, 38])) <= {-1.0, 1.0} and ((seen[:, 28] > 1.0) == (seen[:, 38] > 0)).all()
    assert len(every) == 25 and sum(map(len, every)) == 6729 and (min(map(len, every)), max(map(len, every))) == (223, 300)
    assert sum(episode.success for episode in every) == 7 == sum(episode.meta["max_hinge"] > 1.35 for episode in every)
    assert min(episode.meta["max_hinge"] for episode in every) > 1.0
    assert 1.2 < max(np.abs(episode.requested_action).max() for episode in every) < 1.4
