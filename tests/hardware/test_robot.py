"""SafeRobot on the fake arm: the loop, its ends, and the same arm as a real one (no world, time passes while one thinks)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

import hardware
from hardware import RobotConfig
from hardware.clock import SimClock, WallClock
from hardware.fake import ARM, LIMITS, FakeArm, tip
from hardware.governor import Governor
from hardware.kinematics import JointPosition
from hardware.loop import ArmLoop
from hardware.real import slowed
from hardware.robot import SafeRobot
from hardware.testing import LimitProbe, RobotContract
from hardware.types import ArmSpec, ArmState, ArraySpec, Command, HardwareError, RobotSpec, Source

JOINTS = ArraySpec(ARM.joints, ("rad", "rad"), tuple(ARM.q_min.tolist()), tuple(ARM.q_max.tolist()))
SPEC = RobotSpec("bare", {}, {"joint_pos": JOINTS}, JOINTS, "joint_pos", 10.0)


def bare(arm: FakeArm, clock: SimClock | None = None, spec: ArmSpec = ARM) -> SafeRobot:
    """The fake arm as a real one: no world, so reset drives it home. spec: the governor's."""
    governor = Governor(spec, LIMITS, JOINTS, JointPosition(2, position=tip), 0.1)
    loop = ArmLoop(arm, clock or SimClock(arm.advance), governor)
    return SafeRobot(SPEC, loop, {}, lambda state: {"joint_pos": state.q})


class TestBareRobot(RobotContract):
    def make(self) -> SafeRobot:
        return bare(FakeArm())


def test_reset_drives_a_real_arm_home_within_its_limits() -> None:
    arm = FakeArm()
    arm.place(np.array([0.5, 0.6]))
    with bare(arm) as robot:
        probe = LimitProbe.attach(robot)
        robot.reset(np.random.default_rng(0))
        np.testing.assert_allclose(arm.q, ARM.home, atol=1e-3)
        assert probe.setpoints > 50
        assert not probe.violations
        assert not robot.governor.interventions


def test_holding_in_motion_is_where_it_is_told_to_be_and_it_rests_there() -> None:
    with bare(FakeArm()) as robot:
        robot.reset(np.random.default_rng(0))
        robot.send(Command(robot.observe().time, (ARM.home + [0.1, -0.1]).astype(np.float32), Source.POLICY))
        robot.observe()
        np.testing.assert_allclose(robot.hold(), ARM.home + [0.1, -0.1], atol=1e-6)
        assert np.abs(robot.governor.setpoint.q - robot.hold()).max() > 0.01, "it trails"
        for _ in range(10):
            robot.send(Command(robot.clock.now(), robot.hold(), Source.HUMAN))
            robot.observe()
        np.testing.assert_allclose(robot.governor.setpoint.q, ARM.home + [0.1, -0.1], atol=1e-5)
        assert robot.governor.at_rest


@contextmanager
def in_motion(arm: FakeArm) -> Iterator[tuple[SafeRobot, LimitProbe]]:
    with bare(arm) as robot:
        probe = LimitProbe.attach(robot)
        robot.reset(np.random.default_rng(0))
        for _ in range(4):
            robot.send(Command(robot.observe().time, np.array([0.5, 1.2], np.float32), Source.POLICY))
        assert not robot.governor.at_rest
        yield robot, probe


def test_reset_while_moving_stops_first() -> None:
    arm = FakeArm()
    with in_motion(arm) as (robot, probe):
        robot.reset(np.random.default_rng(0))
        np.testing.assert_allclose(arm.q, ARM.home, atol=1e-3)
        assert not probe.violations
        assert robot.stopped is None


@pytest.mark.parametrize("share", [0.05, 0.3, 1.0])
def test_the_way_home_ends_at_home_and_at_rest_however_slow_the_arm_was_told_to_be(share: float) -> None:
    """By `arm.speed`, of which the driver knows nothing."""
    arm = FakeArm()
    arm.place(ARM.home + [1.2, -0.9])
    with bare(arm, spec=slowed(ARM, share)) as robot:
        probe = LimitProbe.attach(robot)
        robot.reset(np.random.default_rng(0))
        np.testing.assert_allclose(arm.q, ARM.home, atol=1e-3)
        assert not probe.violations


def test_an_arm_that_does_not_get_home_is_stopped_and_says_so() -> None:
    arm = FakeArm()
    arm.place(ARM.home + [1.2, -0.9])
    with bare(arm) as robot:
        probe = LimitProbe.attach(robot)
        robot.governor.move = lambda *_: None
        with pytest.raises(HardwareError, match=r"fake: did not get home: \w+ is 1.20 rad away"):
            robot.reset(np.random.default_rng(0))
        assert robot.stopped == "way_home" and not probe.violations


def test_a_real_arm_in_motion_is_stopped_before_it_is_anchored() -> None:
    with in_motion(FakeArm()) as (robot, probe):
        robot.anchor()
        assert robot.stopped == "anchored" and not probe.violations
        robot.loop.anchor()  # at rest


class Sagging(FakeArm):
    """Under a load its servos give way by so much [rad]."""

    sag = 0.03

    def read(self) -> ArmState:
        state = super().read()
        return replace(state, q=state.q - self.sag)


def test_resets_of_an_arm_that_sags_are_no_steps_and_do_not_add_up() -> None:
    arm = Sagging()
    with bare(arm) as robot:
        probe = LimitProbe.attach(robot)
        for _ in range(3):
            robot.reset(np.random.default_rng(0))
            np.testing.assert_allclose(arm.goal, ARM.home, atol=1e-9)
        assert not probe.violations


@pytest.mark.parametrize("late", ["frozen", "delayed"])
def test_no_arm_is_anchored_on_an_old_measurement(late: str) -> None:
    arm = FakeArm()
    with bare(arm) as robot:
        probe = LimitProbe.attach(robot)
        robot.reset(np.random.default_rng(0))
        for k in range(8):
            if k == 4:
                arm.frozen, arm.delay = late == "frozen", 40 * (late == "delayed")
            robot.send(Command(robot.observe().time, np.array([0.9, 1.2], np.float32), Source.POLICY))
        robot.stop("operator")
        with pytest.raises(HardwareError, match="fake: no reply to two reads, or none but old ones"):
            robot.reset(np.random.default_rng(0))
        assert robot.stopped == "operator" or robot.stopped == "stale_state"
        arm.frozen, arm.delay = False, 0
        robot.reset(np.random.default_rng(0))
        np.testing.assert_allclose(arm.q, ARM.home, atol=1e-3)
        assert robot.stopped is None and not probe.violations


class Stuck(FakeArm):
    """Its bus repeats an old place, and stamps it anew once it is connected again."""

    old: np.ndarray | None = None

    def connect(self) -> None:
        super().connect()
        self.frozen = False

    def read(self) -> ArmState:
        state = super().read()
        return state if self.old is None else replace(state, q=self.old)


def test_an_arm_that_says_it_is_elsewhere_after_old_readings_is_looked_at_first() -> None:
    arm = Stuck()
    with bare(arm) as robot:
        probe = LimitProbe.attach(robot)
        robot.reset(np.random.default_rng(0))
        arm.old, arm.frozen = ARM.home + 0.3, True
        for _ in range(4):
            robot.observe()
        with pytest.raises(HardwareError, match="fake: says that it is 0.30 rad from where it was told to be"):
            robot.reset(np.random.default_rng(0))
        assert robot.stopped == "stale_state" and not probe.violations


@pytest.mark.parametrize("away", [0.2, 0.6])
def test_an_arm_that_is_held_on_its_way_home_is_not_home(away: float) -> None:
    arm = FakeArm()
    with bare(arm) as robot:
        probe = LimitProbe.attach(robot)
        robot.reset(np.random.default_rng(0))
        for _ in range(30):
            robot.send(Command(robot.observe().time, (ARM.home + [away, 0.0]).astype(np.float32), Source.POLICY))
        arm.blocked = True
        with pytest.raises(HardwareError, match=rf"fake: did not get home: \w+ is {away:.2f} rad away"):
            robot.reset(np.random.default_rng(0))
        arm.blocked = False
        assert robot.stopped == "way_home"
        robot.reset(np.random.default_rng(0))
        assert not probe.violations


def test_a_reset_that_is_interrupted_leaves_the_arm_stopped() -> None:
    arm = FakeArm()
    arm.place(np.array([0.5, 0.6]))
    with bare(arm) as robot:
        robot.loop.on_setpoint.append(lambda now, setpoint: 1 / 0 if now > 0.3 else None)
        with pytest.raises(ZeroDivisionError):
            robot.reset(np.random.default_rng(0))
        robot.loop.on_setpoint.pop()
        for _ in range(11):
            robot.observe()
        assert robot.stopped == "reset failed" and robot.governor.at_rest
        robot.reset(np.random.default_rng(0))
        assert robot.stopped is None


def test_a_pose_that_cannot_be_leaves_a_stop_latched() -> None:
    with bare(FakeArm()) as robot:
        robot.stop("operator")
        with pytest.raises(HardwareError, match="measured pose"):
            robot.governor.reset(robot.clock.now(), np.full(2, np.nan), 0.5)
        assert robot.stopped == "operator"


def test_an_arm_that_connects_and_then_says_nothing_is_let_go_of() -> None:
    arm = FakeArm()
    arm.lose_replies = 100
    with pytest.raises(HardwareError, match="no reply to two reads"):
        bare(arm).connect()
    assert not arm.connected


def test_the_probe_sees_an_arm_that_is_anchored_in_motion() -> None:
    with in_motion(FakeArm()) as (robot, probe):
        robot.loop.anchor(found=True)
        robot.observe()
        assert probe.violations["acceleration"]


def test_a_fault_on_the_way_home_is_said() -> None:
    arm = FakeArm()
    arm.place(np.array([0.5, 0.6]))
    with bare(arm) as robot:
        robot.loop.on_setpoint.append(lambda now, setpoint: setattr(arm, "fault", "overtemperature" if now > 0.2 else None))
        with pytest.raises(HardwareError, match="on the way home: fault: overtemperature"):
            robot.reset(np.random.default_rng(0))


def test_the_first_look_after_a_reset_is_at_once() -> None:
    with hardware.open(RobotConfig(body="fake")) as robot:
        for seed in range(3):
            robot.reset(np.random.default_rng(seed))
            now = robot.clock.now()
            assert robot.observe().time == now
            assert robot.observe().time == pytest.approx(now + 0.1)


def test_thinking_on_a_wall_clock_is_neither_silence_nor_a_jump() -> None:
    arm = FakeArm()
    clock = SimClock(arm.advance)
    with bare(arm, clock) as robot:
        probe = LimitProbe.attach(robot)
        robot.reset(np.random.default_rng(0))
        for k in range(30):
            observation = robot.observe()
            clock.sleep_until(clock.now() + 0.3)  # the policy thinks, three periods long, nobody writes
            robot.send(Command(observation.time, (ARM.home + [0.02 * k, 0.0]).astype(np.float32), Source.POLICY))
        assert robot.stopped is None
        assert not probe.violations
        assert arm.q[0] > ARM.home[0] + 0.4


def test_a_decision_made_too_long_after_its_observation_is_refused() -> None:
    arm = FakeArm()
    clock = SimClock(arm.advance)
    with bare(arm, clock) as robot:
        observation = robot.observe()
        clock.sleep_until(clock.now() + LIMITS.late_s + 0.01)
        robot.send(Command(observation.time, ARM.home.astype(np.float32), Source.POLICY))
        assert robot.governor.interventions == {"late": 1}


def test_closing_a_moving_arm_brakes_first() -> None:
    arm = FakeArm()
    robot = bare(arm)
    with robot:
        probe = LimitProbe.attach(robot)
        for _ in range(3):
            robot.send(Command(robot.observe().time, np.array([0.5, 1.2], np.float32), Source.POLICY))
        assert np.abs(robot.governor.setpoint.v).max() > 0.5
    assert robot.governor.at_rest
    assert robot.stopped == "closed"
    assert not arm.connected
    assert not arm.halted  # the vendor's stop was not needed
    assert not probe.violations


def test_closing_survives_a_dead_arm() -> None:
    arm = FakeArm()
    robot = bare(arm)
    with robot:
        for _ in range(3):
            robot.send(Command(robot.observe().time, np.array([0.5, 1.2], np.float32), Source.POLICY))
        arm.lose_replies = arm.fail_writes = 10**6
    assert arm.halted


def test_an_arm_that_never_answers_cannot_be_connected() -> None:
    arm = FakeArm()
    arm.lose_replies = 10
    with pytest.raises(HardwareError, match="no reply to two reads"):
        bare(arm).connect()


def test_after_the_vendors_stop_a_reset_starts_again() -> None:
    arm = FakeArm()
    with bare(arm) as robot:
        robot.send(Command(robot.observe().time, (ARM.home + 0.2).astype(np.float32), Source.POLICY))
        arm.fail_writes = 2
        robot.observe()
        assert robot.stopped is not None
        assert robot.stopped.startswith("write_error")
        assert arm.halted
        robot.reset(np.random.default_rng(0))
        assert robot.stopped is None
        assert not arm.halted


def test_a_late_tick_is_not_made_up_for_in_a_burst() -> None:
    arm = FakeArm()
    clock = SimClock(arm.advance)
    with bare(arm, clock) as robot:
        times: list[float] = []
        robot.loop.on_setpoint.append(lambda now, setpoint: times.append(now))
        robot.observe()
        pause = iter([0, 0, 0.05])
        robot.loop.on_setpoint.append(lambda now, setpoint: clock.sleep_until(clock.now() + next(pause, 0)))
        robot.observe()
        assert len(times) == 10
        assert np.diff(times).min() > 0.0099


def test_setting_the_date_does_not_move_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = WallClock()
    before = clock.now()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    clock.sleep_until(before + 0.005)
    assert before + 0.005 <= clock.now() < before + 5.0
    clock.sleep_until(before)  # a deadline in the past is no error


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (RobotConfig("fake", rate_hz=0.0), r"rate_hz: 0\.0 Hz; valid: 0\.1 to 1000"),
        (RobotConfig("fake", rate_hz=float("nan")), "rate_hz: nan Hz"),
        (RobotConfig("fake", image_size=0), "image_size: 0 px; valid: 8 to 2048"),
        (RobotConfig("pusht", image_size=-3), "image_size: -3 px"),
        (RobotConfig("fake", stale_s=-1.0), "stale_s: -1.0 s"),
        (RobotConfig("fake", stale_s=float("nan")), "stale_s: nan s"),  # would switch the silence stop off
        (RobotConfig("fake", stale_s=float("inf")), "stale_s: inf s"),
    ],
)
def test_impossible_numbers_are_refused_before_a_body_is_built(config: RobotConfig, line: str) -> None:
    with pytest.raises(HardwareError, match=line):
        hardware.open(config)
    with pytest.raises(HardwareError, match=line):
        hardware.spec_of(config)


def test_what_was_stopped_for_good_is_not_driven_home_and_no_later_reason_hides_why() -> None:
    arm = FakeArm()
    arm.place(np.array([0.5, 0.6]))
    with bare(arm) as robot:
        robot.final_stop = "operator"
        robot.brake("operator")
        robot.observe()
        robot.stop("camera: too old")
        at = arm.q.copy()
        for _ in range(2):
            with pytest.raises(HardwareError, match=r"bare: stopped \(operator\) and left where it is"):
                robot.reset(np.random.default_rng(0))
        np.testing.assert_array_equal(arm.q, at)
        assert robot.stop_asked == "operator" and robot.stopped is not None
    with bare(FakeArm()) as robot:  # any other stop is the governor's to clear
        robot.final_stop = "operator"
        robot.stop("camera: too old")
        robot.reset(np.random.default_rng(0))
        assert robot.stop_asked is None and robot.stopped is None
