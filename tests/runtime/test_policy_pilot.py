"""A policy at the controls, and the pilot contract every pilot keeps."""

import numpy as np
import pytest
import torch

import hardware
from hardware import RobotConfig
from hardware.testing import PilotContract
from hardware.types import ArraySpec, Observation, RobotSpec, Source
from robolearn.core.types import Obs, Policy
from robolearn.data.store import EpisodeStore
from robolearn.data.tensors import observation_window, to_batch
from robolearn.data.windows import Windows
from robolearn.policies.bc import BcConfig
from robolearn.policies.chunk import ChunkConfig, ChunkPolicy
from robolearn.runtime.policy_pilot import PolicyPilot
from robolearn.runtime.rollout import rollout
from robolearn.tasks import Outcome, Task

JOINTS = ArraySpec(("a", "b"), ("rad", "rad"), (-1.0, -1.0), (1.0, 1.0))
SPEC = RobotSpec("toy", {"top": (4, 6)}, {"joint_pos": JOINTS}, JOINTS, "joint_pos", 10.0)


class Echo(Policy):
    """Remembers what it was shown; row k of its n-th plan is (n + k / 10, noise)."""

    def __init__(self):
        super().__init__()
        self.spec, self.history, self.horizon = SPEC, 3, 5
        self.seen, self.notes = [], {}
        self.seed(0)

    def seed(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def act(self, obs):
        self.seen.append(obs)
        self.notes = {"uncertainty": 0.5 * len(self.seen)}
        first = len(self.seen) + torch.arange(self.horizon) / 10
        return torch.stack([first, torch.rand(self.horizon, generator=self.generator)], dim=1)[None]


def look(step):
    return Observation(0.1 * step, {"top": np.full((4, 6, 3), step, np.uint8)}, {"joint_pos": np.full(2, step, np.float32)})


class TestContract(PilotContract):
    def make(self):
        return PolicyPilot(Echo(), chunk=2), SPEC, look(0)


def test_it_executes_a_chunk_then_plans_again_and_notes_say_so():
    policy = Echo()
    pilot = PolicyPilot(policy, chunk=3)
    commands = [pilot.decide(look(i)) for i in range(7)]
    np.testing.assert_allclose([c.action[0] for c in commands], [1, 1.1, 1.2, 2, 2.1, 2.2, 3], atol=1e-6)
    assert [c.notes["chunk_position"] for c in commands] == [0, 1, 2, 0, 1, 2, 0]
    assert [c.notes["uncertainty"] for c in commands] == [0.5, 0.5, 0.5, 1.0, 1.0, 1.0, 1.5]
    assert all(c.notes["inference_ms"] >= 0 and c.source == Source.POLICY for c in commands)
    assert [c.time for c in commands] == [look(i).time for i in range(7)]
    assert commands[0].action.dtype == np.float32


def test_the_policy_sees_every_observation_through_the_training_transform():
    policy = Echo()
    pilot = PolicyPilot(policy, chunk=2)
    looks = [look(i) for i in range(5)]
    for observation in looks:
        pilot.decide(observation)
    for seen, upto in zip(policy.seen, (1, 3, 5), strict=True):
        wanted = observation_window(looks[:upto], SPEC, 3)
        assert torch.equal(seen.state, wanted.state)
        assert torch.equal(seen.images["top"], wanted.images["top"])
    assert policy.seen[0].state[0, :, 0].tolist() == [0, 0, 0]
    assert policy.seen[2].state[0, :, 0].tolist() == [2, 3, 4], "between two plans it looks too"


def test_reset_forgets_the_last_episode():
    policy = Echo()
    pilot = PolicyPilot(policy, chunk=4)
    pilot.decide(look(1)), pilot.decide(look(2))
    pilot.reset()
    command = pilot.decide(look(9))
    assert command.notes["chunk_position"] == 0
    assert policy.seen[-1].state[0, :, 0].tolist() == [9, 9, 9]


def test_a_seed_repeats_the_policys_noise():
    pilot = PolicyPilot(Echo(), chunk=1, seed=3)

    def fly():
        pilot.seed(3)
        pilot.reset()
        return [pilot.decide(look(i)).action[1] for i in range(4)]

    first = fly()
    assert first == fly()
    pilot.seed(4)
    assert first != [pilot.decide(look(i)).action[1] for i in range(4)]


def test_what_the_policy_cannot_answer_is_refused():
    with pytest.raises(ValueError, match="8 actions per inference; the policy predicts 5"):
        PolicyPilot(Echo(), chunk=8)
    with pytest.raises(ValueError, match="prefix: 1 actions; Echo was trained for at most 0"):
        PolicyPilot(Echo(), chunk=2, prefix=1)
    with pytest.raises(ValueError, match="4 actions per inference after a prefix of 2; the policy predicts 5"):
        PolicyPilot(Continues(), chunk=4, prefix=2)
    with pytest.raises(ValueError, match="ensemble: 0.1 with a prefix of 2"):
        PolicyPilot(Continues(), chunk=2, prefix=2, ensemble=0.1)


def test_with_an_ensemble_it_asks_at_every_step_and_averages():
    policy = Echo()
    pilot = PolicyPilot(policy, chunk=99, ensemble=0.5)  # chunk: without effect then
    commands = [pilot.decide(look(i)) for i in range(4)]
    assert len(policy.seen) == 4 and [c.notes["chunk_position"] for c in commands] == [0] * 4
    weight = np.exp(-0.5 * np.arange(4))
    about_now = [1.3, 2.2, 3.1, 4.0]  # row 3 of plan 1, row 2 of plan 2, ...
    assert commands[3].action[0] == pytest.approx(weight @ about_now / weight.sum(), rel=1e-5)
    pilot.reset()
    assert pilot.decide(look(0)).action[0] == 5, "nothing of the last episode is averaged in"


def test_rotations_are_ensembled_as_rotations():
    names, units = ("rx", "ry", "rz"), ("rad",) * 3
    spec = RobotSpec(
        "arm", {}, {"pose": ArraySpec(("x",), ("m",), (-1,), (1,))}, ArraySpec(names, units, (-4,) * 3, (4,) * 3), "ee_pose", 10
    )
    policy = BcConfig(history=1, horizon=2, hidden=(8,)).build(spec)
    answers = iter(torch.tensor([[[3.13, 0, 0]] * 2, [[-3.13, 0, 0]] * 2]))
    policy.act = lambda obs: next(answers)[None]
    pilot = PolicyPilot(policy, ensemble=0.0)
    for time in (0.0, 0.1):
        command = pilot.decide(Observation(time, {}, {"pose": np.zeros(1, np.float32)}))
    assert np.linalg.norm(command.action) == pytest.approx(np.pi, abs=1e-3)


class Continues(ChunkPolicy):
    """Says the prefix again and counts on from its last action."""

    prefix = 2

    def __init__(self):
        super().__init__(ChunkConfig(history=1, horizon=5), SPEC)
        self.told, self.plain = [], 0
        ends = np.array([[-1.0, -1.0], [1.0, 1.0]])
        self.fit_normalizers(ends, ends)  # leaves numbers as they are

    def act(self, obs):
        self.plain += 1
        return super().act(obs)

    def draw(self, cond, n, generator, prefix=None):
        self.told.append(None if prefix is None else prefix[0, :, 0].tolist())
        first = torch.zeros(1, 0, 2) if prefix is None else prefix
        last = first[:, -1:, :] if first.shape[1] else torch.zeros(1, 1, 2)
        more = last + torch.arange(1, self.horizon - first.shape[1] + 1)[:, None] / 100
        return torch.cat([first, more], dim=1).unsqueeze(1).expand(-1, n, -1, -1)

    def errors(self, cond, action):
        raise NotImplementedError


def test_with_a_prefix_the_policy_is_told_what_will_be_flown_while_it_thinks():
    policy = Continues()
    pilot = PolicyPilot(policy, chunk=2, prefix=2)
    actions = [float(pilot.decide(look(i)).action[0]) for i in range(8)]
    np.testing.assert_allclose(actions, np.arange(1, 9) / 100, atol=1e-6)
    assert policy.told[0] is None and policy.plain == 1, "in the beginning nothing was decided: a plain call"
    np.testing.assert_allclose(policy.told[1:], [[0.03, 0.04], [0.05, 0.06], [0.07, 0.08]], atol=1e-6)


def test_without_a_prefix_a_policy_that_knows_of_them_is_asked_plainly():
    policy = Continues()
    pilot = PolicyPilot(policy, chunk=2)
    [pilot.decide(look(i)) for i in range(4)]
    assert policy.plain == 2 and policy.told == [None, None]


def test_the_goal_is_in_every_observation():
    policy, goal = Echo(), Obs({}, torch.full((1, 1, 2), 0.5))
    pilot = PolicyPilot(policy, chunk=1, goal=goal)
    [pilot.decide(look(i)) for i in range(2)]
    assert all(torch.equal(seen.goal.state, goal.state) for seen in policy.seen)
    assert PolicyPilot(Echo(), chunk=1).decide(look(0)) is not None


class Looks(Echo):
    sees_past = True


def test_only_a_policy_that_looks_back_is_shown_the_past():
    for policy in (Echo(), Looks()):
        pilot = PolicyPilot(policy, chunk=1)
        pilot.decide(look(0))
        pilot.feedback(np.zeros(2, np.float32), 1.0)
        assert (policy.seen[-1].past is not None) == isinstance(policy, Looks)


def test_the_rewards_wanted_are_the_ones_said_or_the_policys_own_target():
    policy = Looks()
    assert _wanted(PolicyPilot(policy, chunk=1), policy) == 0
    policy.target = 3.0
    assert _wanted(PolicyPilot(policy, chunk=1), policy) == 3
    assert _wanted(PolicyPilot(policy, chunk=1, target=0.0), policy) == 0


def _wanted(pilot, policy):
    pilot.decide(look(0))
    return float(policy.seen[-1].past.to_go[0, -1])


def test_untold_it_takes_its_own_command_for_the_action():
    policy = Looks()
    pilot = PolicyPilot(policy, chunk=2, target=1.0)
    commands = [pilot.decide(look(i)) for i in range(3)]
    past = policy.seen[-1].past
    np.testing.assert_array_equal(past.action[0, :2], [c.action for c in commands[:2]])
    assert past.to_go.tolist() == [[1.0, 1.0, 1.0]] and past.step.tolist() == [[0, 1, 2]]


class Random(Looks):
    """Asks for more than the arm may do, so that what is executed is not what was asked for."""

    def __init__(self, spec, history):
        super().__init__()
        self.spec, self.history = spec, history

    def act(self, obs):
        self.seen.append(obs)
        return 3 * torch.randn(1, self.horizon, self.spec.action.dim, generator=self.generator)


@pytest.mark.parametrize(("history", "chunk"), [(1, 1), (3, 1), (4, 3), (30, 2)])
def test_the_past_in_flight_is_the_past_in_training(tmp_path, history, chunk):
    """Bit for bit: what the policy was shown while it flew, and what Windows reads of the stored episode."""
    with hardware.open(RobotConfig(body="fake", image_size=8)) as robot:
        policy = Random(robot.spec, history)
        task = Eighths("reach", "touch the target", 1.0)
        flown = []
        for index in (1, 2):
            # Once to learn what an episode earns, and again with that as the target.
            first = rollout(robot, PolicyPilot(policy, chunk, index), task, np.random.default_rng(index))
            pilot = PolicyPilot(policy, chunk, index, target=float(first.reward.astype(np.float64).sum()))
            for _ in range(2):  # of the first episode nothing may be left in the second
                policy.seen.clear()
                pilot.seed(index)
                episode = rollout(robot, pilot, task, np.random.default_rng(index))
            flown.append((episode, list(policy.seen)))
            assert first.reward.sum() > 0 and np.abs(episode.action - episode.requested_action).max() > 0.1
    with EpisodeStore.create(tmp_path / "d.zarr", robot.spec) as store:
        for episode, _ in flown:
            store.append(episode)
    windows, start = Windows(EpisodeStore.open(store.path), history, 5, past=True), 0
    for episode, seen in flown:
        assert len(seen) == -(-len(episode) // chunk)
        for plan, obs in enumerate(seen):
            logged = to_batch(windows.read(np.array([start + plan * chunk]))).obs
            for name in ("action", "to_go", "step", "real"):
                one, other = getattr(logged.past, name), getattr(obs.past, name)
                assert one.dtype == other.dtype and torch.equal(one, other), (name, plan)
            assert torch.equal(logged.state, obs.state)
        start += len(episode)


class Eighths(Task):
    """Another reward for every step, in eighths, so that sums in any order have the same last bit."""

    def judge(self, robot, observation):
        return Outcome(round(8 * float(np.abs(observation.state["joint_pos"]).sum())) / 8, False, False)
