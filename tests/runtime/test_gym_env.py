"""The same loop on Gymnasium environments: a point on a line, whose every step is known."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from hardware.types import Command, Source
from robolearn.core.errors import UserError
from robolearn.data.episode import check_episode
from robolearn.data.store import EpisodeStore
from robolearn.data.windows import Windows
from robolearn.runtime.gym_env import Repeated, rollout_gym, spec_of

RATE = 20.0


class Line(gymnasium.Env):
    """x moves by the action and earns what it moved; at `goal` it succeeds and terminates; after `limit` steps it is truncated."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float64)
    action_space = Box(-0.5, 0.25, (1,), np.float32)
    metadata = {"render_modes": [], "render_fps": 40}

    def __init__(self, goal=1.0, limit=6, told="success", until=None):
        self.goal, self.limit, self.told, self.until = goal, limit, told, until
        self.seen = np.zeros(2)  # one array for all steps, as some environments do

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seen[:] = self.np_random.uniform(-0.1, 0.1), 0.0
        return self.seen, {}

    def step(self, action):
        assert action.shape == (1,) and action.dtype == np.float32 and self.action_space.contains(action)
        self.seen += [action[0], 1.0]
        at_goal = bool(self.seen[0] >= self.goal)
        info = {self.told: at_goal if self.until is None else self.seen[1] < self.until} if self.told else {}
        return self.seen, action[0], at_goal and self.until is None, self.seen[1] >= self.limit, info


class Goals(Line):
    observation_space = Dict({"observation": Box(-1, 2, (2, 1), np.float32), "desired_goal": Box(-np.inf, 3.0, (1,), np.float64)})

    def reset(self, *, seed=None, options=None):
        return self._keyed(super().reset(seed=seed)[0]), {}

    def step(self, action):
        seen, *rest = super().step(action)
        return self._keyed(seen), *rest

    def _keyed(self, seen):
        return {"observation": seen[:, None], "desired_goal": np.array([self.goal])}


class Push:
    """Always the same action."""

    def __init__(self, *action):
        self.action, self.resets, self.heard = np.array(action), 0, []

    def reset(self):
        self.resets += 1

    def decide(self, observation):
        return Command(observation.time, self.action, Source.SCRIPTED, {"half": 0.5})

    def feedback(self, executed, reward):
        self.heard.append((executed.item(), reward))


def fly(env, *action, seed=0, **options):
    spec = spec_of(env, "line", RATE)
    episode = rollout_gym(env, Push(*action), spec, np.random.default_rng([5, seed]), **options)
    check_episode(episode, spec)
    return episode


def test_a_box_is_a_state_and_a_dict_of_boxes_several():
    spec = spec_of(Line(), "line", RATE)
    assert (spec.name, dict(spec.cameras), spec.action_mode, spec.rate_hz) == ("line", {}, "gym", RATE)
    assert (spec.action.names, spec.action.units, spec.action.low, spec.action.high) == (("action_0",), ("1",), (-0.5,), (0.25,))
    assert list(spec.state) == ["observation"]
    assert spec.state["observation"].names == ("obs_0", "obs_1") and spec.state["observation"].low == (-np.inf, -np.inf)
    spec = spec_of(Goals(), "goals", RATE)
    assert {key: part.names for key, part in spec.state.items()} == {"desired_goal": ("desired_goal_0",), "observation": ("obs_0", "obs_1")}
    assert spec.state["desired_goal"].high == (3.0,) and spec.state_dim == 3
    assert type(spec).from_dict(spec.to_dict()) == spec


def test_a_row_holds_what_was_seen_before_the_action_and_what_the_action_earned():
    env, pilot = Line(), Push(0.25)
    spec = spec_of(env, "line", RATE)
    episode = rollout_gym(env, pilot, spec, np.random.default_rng(1))
    check_episode(episode, spec)
    start = episode.state["observation"][0, 0]
    np.testing.assert_allclose(episode.state["observation"][:, 0], start + 0.25 * np.arange(len(episode)), rtol=1e-6)
    np.testing.assert_array_equal(episode.state["observation"][:, 1], np.arange(len(episode)))
    np.testing.assert_allclose(episode.time, np.arange(len(episode)) / RATE)
    np.testing.assert_array_equal(episode.reward, np.full(len(episode), 0.25))
    np.testing.assert_array_equal(episode.notes["half"], np.full(len(episode), 0.5))
    assert pilot.resets == 1 and pilot.heard == [(0.25, 0.25)] * len(episode)
    assert (episode.source == Source.SCRIPTED).all() and episode.meta["task"] == "line"
    assert episode.meta["return"] == pytest.approx(0.25 * len(episode)) and episode.meta["length"] == len(episode)


def test_only_what_the_environment_terminates_is_terminal():
    ended = fly(Line(), 0.25)
    assert ended.terminal[-1] and not ended.terminal[:-1].any() and not ended.meta["truncated"]
    assert ended.success and ended.meta["success_step"] == len(ended) - 1 and ended.meta["success_last"]
    late = fly(Line(), 0.1)
    assert len(late) == 6 and not late.terminal.any() and late.meta["truncated"]
    assert late.success is False and late.meta["success_step"] is None
    both = fly(Line(goal=0.625, limit=3), 0.25)  # at the goal with its last step
    assert len(both) == 3 and both.terminal[-1] and not both.meta["truncated"]


def test_success_is_that_of_any_step_and_of_the_last_and_unknown_where_nobody_tells():
    passing = fly(Line(until=3), 0.25)  # a success that is lost again
    assert passing.success and not passing.meta["success_last"] and passing.meta["success_step"] == 0 and passing.meta["truncated"]
    assert fly(Line(told="is_success"), 0.25).success
    unknown = fly(Line(told=None), 0.25)
    assert unknown.success is None and unknown.meta["success_last"] is None and unknown.meta["success_step"] is None


def test_what_is_asked_for_is_clipped_to_the_range_and_kept_beside_what_was_done():
    episode = fly(Line(), -3.0)
    np.testing.assert_array_equal(episode.action, np.full((6, 1), -0.5))
    np.testing.assert_array_equal(episode.requested_action, np.full((6, 1), -3.0))
    assert episode.meta["interventions"] == {"action_bounds": 6}
    assert fly(Line(), 0.1).meta["interventions"] == {}  # 0.1 is another number in float32, and no intervention


@pytest.mark.parametrize("action", [(np.nan,), (0.1, 0.1), (np.inf,)])
def test_an_action_that_is_none_is_refused(action):
    with pytest.raises(ValueError, match="expected 1 finite"):
        fly(Line(), *action)


def test_the_generator_decides_how_it_starts():
    first, again, other = fly(Line(), 0.1), fly(Line(), 0.1), fly(Line(), 0.1, seed=1)
    np.testing.assert_array_equal(first.state["observation"], again.state["observation"])
    assert first.meta["seed"] == again.meta["seed"] != other.meta["seed"]
    assert first.state["observation"][0, 0] != other.state["observation"][0, 0]
    rng, env = np.random.default_rng(3), Line()
    spec = spec_of(env, "line", RATE)
    starts = [rollout_gym(env, Push(0.1), spec, rng).state["observation"][0, 0] for _ in range(3)]
    assert len(set(starts)) == 3


def test_a_repeated_action_earns_its_sum_and_stops_at_the_end():
    episode = fly(Line(), 0.25, action_repeat=2)
    steps = fly(Line(), 0.25)
    assert len(steps) in (4, 5) and len(episode) == -(-len(steps) // 2) and episode.terminal[-1]
    np.testing.assert_array_equal(episode.state["observation"], steps.state["observation"][::2])
    assert episode.reward.sum() == steps.reward.sum() and episode.reward[0] == 0.5
    assert Repeated(Line(), 2).metadata["render_fps"] == 20 and Line.metadata["render_fps"] == 40
    for rate in (0.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match=f"^rate_hz: {rate} decisions a second; valid: above 0"):
            spec_of(Line(), "line", rate)
    with pytest.raises(UserError, match="action_repeat: 0"):
        fly(Line(), 0.25, action_repeat=0)


def test_its_episodes_are_stored_and_read_as_samples(tmp_path):
    env = Goals()
    spec = spec_of(env, "goals", RATE)
    episodes = [rollout_gym(env, Push(step), spec, np.random.default_rng(0)) for step in (0.25, 0.1)]  # terminal, truncated
    with EpisodeStore.create(tmp_path / "store", spec) as store:
        for episode in episodes:
            store.append(episode)
    store = EpisodeStore.open(tmp_path / "store")
    assert store.spec == spec and store.spec.state["desired_goal"].low == (-np.inf,)
    for stored, episode in zip(store, episodes, strict=True):
        np.testing.assert_array_equal(stored.state["observation"], episode.state["observation"])
        assert dict(stored.meta) == dict(episode.meta)
    windows = Windows(store, history=1, horizon=1, future=True)
    window = windows.read(np.arange(len(windows)))
    last = np.cumsum([len(e) for e in episodes]) - 1
    assert window.future_mask is not None and window.terminal is not None
    np.testing.assert_array_equal(np.flatnonzero(~window.future_mask[:, 0]), last)  # nothing follows a last row: no bootstrap there
    assert window.terminal[last, 0].tolist() == [True, False]


class Pictures(Line):
    observation_space = Box(0, 255, (8, 8, 3), np.uint8)


class Buttons(Line):
    action_space = Discrete(2)


class Nested(Line):
    observation_space = Dict({"inner": Dict({"x": Box(-1, 1, (1,))})})


@pytest.mark.parametrize(("env", "where"), [(Pictures, "observation_space"), (Buttons, "action_space"), (Nested, "observation_space")])
def test_other_spaces_are_refused(env, where):
    with pytest.raises(UserError, match=f"{where} of line: .*valid: a Box"):
        spec_of(env(), "line", RATE)
