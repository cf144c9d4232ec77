"""Each suite as it is: made by name, seeded, flown for some steps. What is not installed is skipped."""

import importlib.util

import numpy as np
import pytest

from hardware.types import Command, Source
from robolearn.core.errors import UserError
from robolearn.data.episode import check_episode
from robolearn.runtime.gym_env import rollout_gym, spec_of
from robolearn.runtime.suites import make, scripted

pytestmark = pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")  # dm_control does, and NumPy 2.5 minds


def needs(package):
    absent = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(absent, reason=f"{package} is not installed: pip install 'robolearn[suites]'")


class Swing:
    """The same waves each time, of each number of the action another one."""

    def __init__(self, dim, size=1.0):
        self.phases, self.size = np.arange(dim), size

    def reset(self):
        pass

    def decide(self, observation):
        action = self.size * np.sin(7 * observation.time + self.phases)
        return Command(observation.time, action.astype(np.float32), Source.PLANNER)


def fly(env, pilot=None, seed=0):
    spec = spec_of(env, "suite", env.metadata["render_fps"])
    episode = rollout_gym(env, pilot or Swing(spec.action.dim), spec, np.random.default_rng([9, seed]))
    check_episode(episode, spec)
    return episode


def state(episode):
    return np.concatenate(list(episode.state.values()), axis=1)


def reproducible(env):
    """The same start gives the same episode, whatever was flown in between; another start another one."""
    first, other, again = fly(env), fly(env, seed=1), fly(env)
    np.testing.assert_array_equal(state(first), state(again))
    np.testing.assert_array_equal(first.reward, again.reward)
    assert not np.array_equal(state(first)[0], state(other)[0])
    return first


@needs("dm_control")
@pytest.mark.parametrize(("task", "observed", "acted"), [("cartpole-swingup", 5, 1), ("finger-spin", 9, 2), ("reacher-easy", 6, 2)])
def test_dm_control_takes_500_decisions_and_is_never_terminal(task, observed, acted):
    env = make(f"dmc:{task}")
    episode = reproducible(env)
    assert state(episode).shape == (500, observed) and episode.action.shape == (500, acted)
    assert not episode.terminal.any() and episode.meta["truncated"] and episode.success is None
    assert env.metadata["render_fps"] == pytest.approx(50 if task == "cartpole-swingup" else 25)


@needs("dm_control")
def test_rewards_of_repeated_actions_are_summed():
    once, twice = (fly(make("dmc:cartpole-balance", action_repeat=n), Swing(1, size=0.0)) for n in (1, 2))
    assert once.reward[0] > 0.5
    np.testing.assert_allclose(twice.reward, once.reward.reshape(500, 2).sum(axis=1), rtol=1e-6)


@pytest.fixture(scope="module")
def reach():
    return make("metaworld:reach-v3", steps=60)


@needs("metaworld")
def test_metaworld_shows_its_goal_and_pays_densely(reach):
    episode = reproducible(reach)
    assert state(episode).shape == (60, 39) and not episode.terminal.any() and episode.meta["truncated"]
    assert 0 < episode.reward.max() <= 10
    goal = spec_of(reach, "reach", 80.0).state["observation"].high[-3:]
    assert np.all(state(episode)[0, -3:] != 0) and np.all(state(episode)[0, -3:] <= goal)


@needs("metaworld")
def test_a_sparse_task_ends_with_its_one_reward_or_with_its_steps(reach):
    env, pilot = make("metaworld:reach-v3", seed=1, sparse=True), scripted("metaworld:reach-v3")
    starts = []
    for seed in range(5):
        episode = fly(env, pilot, seed)
        assert episode.success and episode.terminal[-1] and episode.meta["return"] == episode.reward[-1] == 1
        assert (episode.source == Source.SCRIPTED).all() and episode.meta["interventions"] == {}
        starts.append(tuple(state(episode)[0, -3:]))
    assert len(set(starts)) > 1
    missed = fly(env, Swing(4, size=0.0))
    assert len(missed) == 200 and missed.meta["return"] == 0 and missed.meta["truncated"] and missed.success is False
    assert not np.array_equal(state(missed)[0], state(fly(reach))[0])  # another seed, other situations


@needs("gymnasium_robotics")
def test_the_maze_is_told_its_goal_beside_the_state():
    episode = reproducible(make("gym:PointMaze_UMaze-v3", continuing_task=False))
    assert {name: part.shape for name, part in episode.state.items()} == {
        "achieved_goal": (len(episode), 2),
        "desired_goal": (len(episode), 2),
        "observation": (len(episode), 4),
    }
    assert episode.success is not None and len(episode) <= 300


def test_any_other_environment_of_gymnasium():
    env = make("gym:Pendulum-v1", seed=3)
    start = env.reset()[0]
    np.testing.assert_array_equal(start, make("gym:Pendulum-v1", seed=3).reset()[0])
    assert len(reproducible(env)) == 200


@pytest.mark.parametrize("name", ["atari:Pong", "dmc", "dmc:", ""])
def test_the_valid_kinds_are_named(name):
    with pytest.raises(UserError, match=r"valid: dmc:<domain>-<task>, metaworld:<task>-v3, gym:<id>"):
        make(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("dmc:cartpole-fly", "valid: .*cartpole-swingup", marks=needs("dm_control")),
        pytest.param("metaworld:fly-v3", "valid: .*reach-v3", marks=needs("metaworld")),
        ("gym:Fly-v0", r"robolearn\[suites\]"),
        ("gym:no_such_module:Fly-v0", "no_such_module"),
        ("gym:a b/c!", "^environment: 'gym:a b/c!': Malformed environment ID.*; valid: dmc:"),
    ],
)
def test_an_unknown_task_is_an_error_of_the_user(name, message):
    with pytest.raises(UserError, match=message):
        make(name)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gym:Pendulum-v1", {"foo": 1}, "^environment: 'gym:Pendulum-v1' with foo=1: .*unexpected keyword argument 'foo'"),
        ("dmc:cartpole-swingup", {"foo": 1}, "^environment: 'dmc:cartpole-swingup' with foo=1: .*unexpected keyword argument 'foo'"),
        ("gym:Pendulum-v1", {"seed": -1}, "^seed: -1; valid 0 to 4294967295$"),
    ],
)
def test_an_option_or_a_seed_that_does_not_exist_is_an_error_of_the_user(name, options, message):
    with pytest.raises(UserError, match=message):
        make(name, **options)


@needs("metaworld")
def test_an_unknown_script_names_the_known():
    with pytest.raises(UserError, match="valid: .*pick-place-v3"):
        scripted("fly-v3")


@pytest.mark.parametrize("ask", [make, scripted])
def test_a_missing_package_names_the_extra(monkeypatch, ask):
    def absent(name, *args, **kwargs):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("robolearn.runtime.suites.importlib.import_module", absent)
    with pytest.raises(UserError, match=r"metaworld.*pip install 'robolearn\[suites\]'"):
        ask("metaworld:reach-v3")
