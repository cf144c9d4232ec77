"""A person takes the robot from a policy and gives it back: no jump, both labelled, and never back without a release."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.teleop.keyboard import Keyboard
from hardware.teleop.keys import NoKeys, PassedKeys
from hardware.testing import PilotContract
from hardware.types import Command, NoDecision, Observation, Source
from robolearn.runtime.async_pilot import AsyncPilot
from robolearn.runtime.policy_pilot import PolicyPilot
from robolearn.runtime.rollout import rollout
from robolearn.runtime.takeover import ANSWER_S, Takeover
from robolearn.runtime.watched import Watched
from robolearn.tasks import Task
from tests.runtime.taken import DEVICES, OPEN, Drift, Led, Smooth, Stick, move, robot_of
from tests.waiting import until

DECISIONS = 30
TASK = Task("drift", "go to and fro", DECISIONS / 10)
RNG = np.random.default_rng(0)


class Scene:
    """`hand(n)` is what the person does before decision n."""

    def __init__(self, name: str) -> None:
        actions, make = DEVICES[name]
        self.robot = robot_of(actions)
        self.robot.connect()
        self.smooth = Smooth(self.robot)
        self.policy, self.device = Drift(self.robot.spec), make(self.robot.spec)
        self.pilot = Takeover(PolicyPilot(self.policy, 4), self.device, self.robot)
        self.number, self.held, self.commands, self.rests = -1, [], [], []

    def reset(self) -> None:
        self.number = -1
        self.pilot.reset()

    verdict = None

    def feedback(self, executed: np.ndarray, reward: float) -> None:
        self.pilot.feedback(executed, reward)

    def hand(self, number: int) -> None: ...

    def decide(self, observation: Observation) -> Command:
        self.number += 1
        self.hand(self.number)
        self.rests.append(self.robot.hold())
        command = self.pilot.decide(observation)
        self.held.append(self.device.holds)
        self.commands.append(command)
        return command


@pytest.fixture(params=DEVICES)
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    scene = Scene(request.param)
    yield scene
    scene.robot.close()


class TestContract(PilotContract):
    def make(self):
        robot = robot_of("ee_delta")
        robot.connect()
        pilot = Takeover(PolicyPilot(Drift(robot.spec), 4), Stick(robot.spec), robot)
        return pilot, robot.spec, robot.observe()


def test_both_sides_are_labelled_and_the_policy_thinks_anew(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def hand(number: int) -> None:
        scene.device.down = 6 <= number < 13
        move(scene.device, np.array([0.5, -0.5, 0.2]))

    monkeypatch.setattr(scene, "hand", hand)
    episode = rollout(scene.robot, scene, TASK, RNG)
    assert episode.source.tolist() == [Source.POLICY] * 6 + [Source.HUMAN] * 7 + [Source.POLICY] * (DECISIONS - 13)
    assert episode.meta["stopped"] is None
    # Rows 0 to 5 are the first two answers, whose rest is forgotten; 17 rows from row 13 on are 5 answers of four.
    assert scene.policy.answers == 2 + 5
    assert episode.notes["chunk_position"][13] == 0
    scene.smooth.check()


def test_the_first_command_leaves_the_robot_where_it_is_told_to_be(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The person takes it in the middle of a motion, and does nothing."""
    told: list[np.ndarray] = []

    def hand(number: int) -> None:
        scene.device.down = number >= 7
        told.append(scene.robot.governor.commanded(scene.robot.clock.now()))

    monkeypatch.setattr(scene, "hand", hand)
    episode = rollout(scene.robot, scene, TASK, RNG)
    np.testing.assert_allclose(episode.requested_action[7], scene.rests[7], atol=1e-6)
    assert episode.action[7:, -1] == pytest.approx(OPEN), "the gripper stays, wherever the leader's is"
    ticks = round(scene.robot.governor.arm.rate_hz / scene.robot.spec.rate_hz)
    after = np.array(scene.smooth.path[7 * ticks :])
    moving = np.diff(after, axis=0)
    assert np.abs(moving[0]).max() > 1e-4, "it was moving"
    np.testing.assert_allclose(after[-1], told[7], atol=1e-9)
    assert (np.abs(after[-1] - after[0]) <= scene.robot.governor._reach).all(), "the target runs ahead by no more"
    assert np.abs(moving[-ticks:]).max() < 1e-7, "it came to rest"
    if scene.robot.spec.action_mode == "joint_pos":
        assert (moving * np.sign(moving[0]) > -1e-6).all(), "and did not come back"
    scene.smooth.check()


def test_a_leader_elsewhere_keeps_its_difference_until_it_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene("a leader by its joints")
    assert isinstance(scene.device, Led)
    puppet, by = scene.device.puppet, np.array([0.1, -0.05, 0.0, 0.08, 0.2])

    def hand(number: int) -> None:
        scene.device.down = 5 <= number < 20
        if number == 10:
            puppet.q = puppet.q + by
        if number == 12:
            puppet.gripper = 0.4
        if number == 14:
            puppet.gripper = 0.0

    monkeypatch.setattr(scene, "hand", hand)
    episode = rollout(scene.robot, scene, TASK, RNG)
    at = episode.requested_action
    np.testing.assert_allclose(at[10, :5] - at[9, :5], by, atol=1e-5)
    np.testing.assert_allclose(at[[11, 12, 14], -1], [OPEN, OPEN / 2, 0.0], atol=1e-6)
    scene.smooth.check()
    scene.robot.close()


def test_keys_hold_it_half_a_second_longer_and_others_go_to_the_watcher() -> None:
    robot = robot_of("ee_delta")
    others, typed = PassedKeys(), PassedKeys()
    with robot:
        smooth = Smooth(robot)
        takeover = Takeover(PolicyPilot(Drift(robot.spec), 4), Keyboard(robot.spec, others), robot)
        pilot = Watched(takeover, robot, typed, others=others)

        def on_step(step) -> None:
            if step.index in (4, 5, 6):
                typed.put("u")
            if step.index == 20:
                typed.put("g")

        episode = rollout(robot, pilot, TASK, RNG, on_step)
        # Decision 7 sees the last key, which moves for 0.12 s; 0.5 s after that it is let go of.
        assert np.flatnonzero(episode.source == Source.HUMAN).tolist() == [*range(5, 13), *range(21, 26)]
        assert (episode.requested_action[5:8, 2] > 0).all() and not episode.requested_action[9:13, :3].any()
        assert episode.action[21, -1] == 1.0  # its gripper, which was closed to less than a half, opens
        typed.put(" ")
        stopped = rollout(robot, pilot, TASK, RNG, lambda step: typed.put(" ") if step.index == 3 else None)
        assert stopped.meta["stopped"] == "operator" and len(stopped) == 5
    smooth.check()


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("name", DEVICES)
def test_a_device_that_dies_stops_the_robot(name: str, held: bool) -> None:
    scene = Scene(name)

    def hand(number: int) -> None:
        scene.device.down = held and number >= 4
        if number == 10:
            (scene.device if isinstance(scene.device, Stick) else scene.device.puppet).dead = True

    scene.hand = hand  # type: ignore[method-assign]
    episode = rollout(scene.robot, scene, TASK, RNG)
    assert str(episode.meta["stopped"]).startswith("takeover: ")
    assert len(episode) == 11 and episode.source[-1] == Source.NONE
    assert episode.source[9] == (Source.HUMAN if held else Source.POLICY)
    assert scene.robot.governor.at_rest
    scene.smooth.check()
    scene.robot.close()


@settings(max_examples=12)
@given(
    name=st.sampled_from(list(DEVICES)),
    runs=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    seed=st.integers(0, 1000),
    starts_held=st.booleans(),
)
def test_at_whatever_moments(name: str, runs: list[int], seed: int, starts_held: bool) -> None:
    scene, rng = Scene(name), np.random.default_rng(seed)
    changes = list(accumulate(runs))
    down = [(sum(at <= number for at in changes) + starts_held) % 2 == 1 for number in range(DECISIONS)]

    def hand(number: int) -> None:
        scene.device.down = down[number]
        move(scene.device, rng.uniform(-1, 1, 3))

    scene.hand = hand  # type: ignore[method-assign]
    try:
        episode = rollout(scene.robot, scene, TASK, np.random.default_rng(0))
        assert scene.held == down
        assert (episode.source == np.where(down, Source.HUMAN, Source.POLICY)).all()
        assert episode.meta["stopped"] is None
        for number in np.flatnonzero(np.diff([0, *map(int, down)]) > 0):
            if name == "a leader by its joints":
                np.testing.assert_allclose(episode.requested_action[number], scene.rests[number], atol=1e-6)
        scene.smooth.check()
    finally:
        scene.robot.close()


# A policy that answers late ---------------------------------------------------------------------------------------------


def test_given_back_the_robot_rests_until_the_policy_answered_but_not_for_ever() -> None:
    robot = robot_of("joint_pos")
    with robot:
        robot.reset(RNG)
        policy, device = Drift(robot.spec), Led(robot.spec)
        asynchronous = AsyncPilot(policy, 4)
        pilot = Takeover(asynchronous, device, robot)
        pilot.reset()
        pilot.decide(robot.observe())
        device.down = True
        assert pilot.decide(robot.observe()).source is Source.HUMAN
        mute = lambda observation: _raise(NoDecision("policy: no answer"))  # noqa: E731
        answer, asynchronous.decide = asynchronous.decide, mute  # type: ignore[method-assign]
        device.down = False
        rests = [pilot.decide(robot.observe()) for _ in range(round(10 * ANSWER_S) + 1)]
        assert {rest.source for rest in rests} == {Source.NONE}
        assert (np.ptp([rest.action for rest in rests], axis=0) == 0).all()
        with pytest.raises(NoDecision):
            pilot.decide(robot.observe())
        asynchronous.decide = answer  # type: ignore[method-assign]

        def source() -> Source | None:
            with suppress(NoDecision):  # its thinking takes a few milliseconds, once
                return pilot.decide(robot.observe()).source
            return None

        assert until(source) is Source.POLICY
        asynchronous.close()


def _raise(error: Exception) -> Command:
    raise error


def test_what_is_typed_for_nobody_is_dropped() -> None:
    robot = robot_of("ee_delta")
    with robot:
        pilot = Watched(PolicyPilot(Drift(robot.spec), 4), robot, NoKeys())
        pilot.reset()
        assert pilot.verdict is None
        assert pilot.decide(robot.observe()).source is Source.POLICY
