"""The fault table: what is broken on purpose, and what must hold. Always: no limit broken at the actuator, the cause latched."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import numpy as np
import pytest

import hardware
from hardware import RobotConfig
from hardware.fake import ARM, LAG, LIMITS, FakeArm, tip
from hardware.governor import Setpoint
from hardware.robot import SafeRobot
from hardware.testing import LimitProbe
from hardware.types import ArmState, Command, Source


class Rig:
    """The fake body, its driver within reach, a probe at the actuator, an arm that is moving."""

    def __init__(self, robot: SafeRobot) -> None:
        assert isinstance(robot.arm, FakeArm)
        self.arm, self.robot = robot.arm, robot
        self.probe = LimitProbe.attach(robot)
        self.written: list[Setpoint] = []
        self.times: list[float] = []
        robot.loop.on_setpoint.append(self._note)

    def _note(self, now: float, setpoint: Setpoint) -> None:
        self.times.append(now)
        self.written.append(setpoint)

    def send(self, *action: float, time: float | None = None) -> np.ndarray:
        return self.robot.send(Command(self.robot.clock.now() if time is None else time, np.array(action, np.float32), Source.POLICY))

    def drive(self, *action: float, decisions: int = 3) -> None:
        for _ in range(decisions):
            self.send(*action)
            self.robot.observe()

    @property
    def speed(self) -> float:
        return float(np.abs(self.written[-1].v).max())

    def rest_time(self) -> float:
        """When the setpoints came to rest, seconds."""
        for time, setpoint in zip(reversed(self.times), reversed(self.written), strict=True):
            if np.abs(setpoint.v).max() > 1e-6:
                return time
        return self.times[0]


AWAY = (0.3, 1.2)  # far from home, inside the box


@pytest.fixture
def rig() -> Iterator[Rig]:
    with hardware.open(RobotConfig(body="fake")) as robot:
        rig = Rig(robot)
        robot.reset(np.random.default_rng(0))
        robot.observe()
        rig.drive(*AWAY)
        assert rig.speed > 0.5
        yield rig
    assert not rig.probe.violations, rig.probe.violations
    assert rig.probe.setpoints == len(rig.written)


@pytest.mark.parametrize("bad", [(np.nan, 1.2), (np.inf, -np.inf), (0.3,), (0.3, 1.2, 0.0), ()])
def test_1_a_broken_action_is_refused_and_the_arm_goes_on_as_told_before(rig: Rig, bad: tuple[float, ...]) -> None:
    np.testing.assert_allclose(rig.send(*bad), AWAY, atol=1e-6)
    assert rig.robot.governor.interventions["not_finite" if len(bad) == 2 else "shape"] == 1
    rig.robot.observe()
    rig.drive(*AWAY, decisions=12)
    np.testing.assert_allclose(rig.arm.q, AWAY, atol=1e-3)


def test_1_a_huge_action_is_clipped(rig: Rig) -> None:
    admitted = rig.send(1e6, -1e6)
    assert (admitted <= ARM.q_max).all()
    assert (admitted >= ARM.q_min - 1e-6).all()
    rig.robot.observe()
    assert rig.robot.governor.interventions["action_bounds"] == 1


def test_2_a_jump_there_and_back(rig: Rig) -> None:
    for k in range(20):
        rig.drive(-1.2 if k % 2 else 0.5, 2.4 if k % 2 else 0.5, decisions=1 + k % 3)
    assert rig.robot.governor.interventions["velocity"] > 10
    assert rig.robot.stopped is None


def test_3_a_pilot_that_falls_silent(rig: Rig) -> None:
    rig.send(*AWAY)
    last = rig.robot.clock.now()
    while rig.robot.stopped is None and rig.robot.clock.now() < last + 2.0:
        rig.robot.observe()
    assert rig.robot.stopped == "stale"
    began = next(time for time, reason in rig.robot.governor.events if reason == "stale")
    assert began - last <= LIMITS.stale_s + 1.5 / ARM.rate_hz
    for _ in range(8):
        rig.robot.observe()
    assert rig.rest_time() - last <= LIMITS.stale_s + rig.robot.governor.brake_s + 2 / ARM.rate_hz
    assert np.abs(rig.arm.dq).max() < 1e-3


def test_4_late_early_repeated_and_reordered_commands(rig: Rig) -> None:
    now = rig.robot.clock.now()
    rig.send(*AWAY)
    before = len(rig.written)
    for time in (now, now - 0.05, now - LIMITS.late_s - 0.1, now + LIMITS.early_s + 0.1):
        np.testing.assert_allclose(rig.send(-1.2, 2.4, time=time), AWAY, atol=1e-6)
    rig.robot.observe()
    counts = rig.robot.governor.interventions
    assert (counts["reordered"], counts["late"], counts["early"]) == (2, 1, 1)
    assert (np.diff([s.q[0] for s in rig.written[before:]]) > 0).all()  # still forward


def test_5_one_reply_lost_is_asked_for_again(rig: Rig) -> None:
    for _ in range(10):
        rig.arm.lose_replies = 1
        rig.drive(*AWAY, decisions=1)
    assert rig.robot.stopped is None


def test_5_replies_that_stay_away_stop_the_arm(rig: Rig) -> None:
    rig.arm.lose_replies = 10**6
    rig.robot.observe()
    assert rig.robot.stopped == "lost_reply: fake: no reply"
    for _ in range(5):
        rig.robot.observe()
    assert rig.robot.governor.at_rest
    rig.arm.lose_replies = 0


def test_6_a_corrupt_value_is_never_used(rig: Rig) -> None:
    rig.arm.nan = True
    for _ in range(5):
        rig.drive(*AWAY, decisions=1)
    assert all(np.isfinite(s.q).all() for s in rig.written)
    assert rig.robot.stopped == "stale_state"
    rig.arm.nan = False


def test_7_replies_that_come_ever_one_request_late(rig: Rig) -> None:
    rig.arm.delay = 1  # old by one tick: fresh enough, but each is newer than the one before
    rig.drive(*AWAY, decisions=3)
    assert rig.robot.stopped is None
    rig.arm.delay = 40  # older than the limit
    rig.drive(*AWAY, decisions=3)
    assert rig.robot.stopped == "stale_state"


def test_8_a_mute_servo_names_its_joint(rig: Rig) -> None:
    rig.arm.fault = "joint elbow: no reply"
    rig.robot.observe()
    assert rig.robot.stopped == "fault: joint elbow: no reply"


def test_9_a_frozen_state_is_noticed(rig: Rig) -> None:
    rig.arm.frozen = True
    began = rig.robot.clock.now()
    rig.drive(*AWAY, decisions=2)
    assert rig.robot.stopped == "stale_state"
    stopped = next(time for time, reason in rig.robot.governor.events if reason == "stale_state")
    assert stopped - began <= LIMITS.state_stale_s + 1.5 / ARM.rate_hz


def test_9_frozen_values_under_a_running_counter_bound_the_motion(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = rig.arm.q.copy()
    read = rig.arm.read
    monkeypatch.setattr(rig.arm, "read", lambda: ArmState(read().time, rig.arm.seq, frozen, np.zeros(2), 0.0))
    rig.drive(-1.5, 2.4, decisions=20)
    assert LIMITS.tracking_error is not None
    speed, room = ARM.v_max, LIMITS.tracking_error
    braking = speed**2 / (2 * ARM.a_max) + speed * ARM.a_max / (2 * ARM.j_max)
    assert (np.abs(rig.written[-1].q - frozen) <= room + 1e-6).all()
    assert all((np.abs(s.q - frozen) <= room + braking).all() for s in rig.written[-150:])
    assert rig.robot.governor.interventions["tracking"] > 0


@pytest.mark.parametrize("where", ["read", "write", "listener"])
@pytest.mark.parametrize("interrupt", ["ctrl_c", "bug"])
def test_12_ctrl_c_and_exceptions_stop_the_arm_within_its_limits(where: str, interrupt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fire(*_: object) -> None:
        if pending:
            pending.clear()
            if interrupt == "ctrl_c":
                signal.raise_signal(signal.SIGINT)
            raise SystemExit("bug")  # not an Exception: drivers' errors are retried, this is not

    pending: list[bool] = []
    robot = hardware.open(RobotConfig(body="fake"))
    rig = Rig(robot)
    with pytest.raises((KeyboardInterrupt, SystemExit)), robot:
        for name in ("read", "write"):
            if where == name:
                real = getattr(robot.arm, name)
                monkeypatch.setattr(robot.arm, name, lambda *args, real=real: (fire(), real(*args))[1])
        if where == "listener":
            robot.loop.on_setpoint.append(fire)
        robot.reset(np.random.default_rng(0))
        robot.observe()
        rig.drive(*AWAY, decisions=4)
        assert rig.speed > 0.5
        pending.append(True)
        robot.observe()
    assert robot.stopped == "closed"
    assert robot.governor.at_rest
    assert not rig.arm.connected
    assert not rig.arm.halted
    assert not rig.probe.violations, rig.probe.violations


def test_13_a_vendors_fault_stays_latched_when_it_goes_away(rig: Rig) -> None:
    rig.arm.fault = "servo 2 overload"
    rig.robot.observe()
    rig.arm.fault = None
    rig.drive(*AWAY, decisions=5)
    assert rig.robot.stopped == "fault: servo 2 overload"
    assert rig.robot.governor.at_rest
    rig.robot.reset(np.random.default_rng(1))
    rig.robot.observe()
    rig.drive(*AWAY, decisions=3)
    assert rig.speed > 0.5


def test_15_started_outside_its_limits_it_comes_in_slowly(rig: Rig) -> None:
    rig.arm.place(np.array([1.4, 1.0]))  # q_max is 1.2
    rig.robot.anchor()
    rig.robot.observe()
    index = len(rig.written)
    rig.drive(1.2, 1.0, decisions=10)
    path = np.array([s.q[0] for s in rig.written[index:]])
    assert (np.diff(path) <= 1e-9).all()
    assert path[-1] < 1.4


def test_17_the_edge_of_the_workspace(rig: Rig) -> None:
    assert LIMITS.workspace is not None
    rng = np.random.default_rng(0)
    for _ in range(100):  # reach for whatever lies outside
        goal = rng.choice([-1.7, 1.1]), rng.choice([0.15, 2.5])
        rig.drive(*goal, decisions=int(rng.integers(1, 6)))
    overshoot = max(LIMITS.workspace.distance(tip(s.q)) for s in rig.written)
    assert rig.robot.governor.interventions["workspace"] > 50
    assert overshoot <= LIMITS.workspace_tolerance, overshoot
    assert rig.robot.stopped is None


def test_18_a_contact_is_not_pushed_ever_harder(rig: Rig) -> None:
    rig.arm.blocked = True
    rig.drive(-1.5, 2.4, decisions=15)
    assert LIMITS.tracking_error is not None
    assert (np.abs(rig.written[-1].q - rig.arm.q) <= LIMITS.tracking_error + 1e-6).all()
    assert rig.robot.governor.interventions["tracking"] > 0
    rig.arm.blocked = False
    rig.robot.observe()


@pytest.mark.parametrize("pause", [0.1, 0.5])
def test_19_a_pause_of_the_loop_makes_no_jump(rig: Rig, pause: float) -> None:
    before = rig.written[-1].q
    index = len(rig.written)
    rig.send(*AWAY)
    rig.robot.clock.sleep_until(rig.robot.clock.now() + pause)
    rig.drive(*AWAY, decisions=2)
    after = [s.q for s in rig.written[index:]]
    assert np.abs(after[0] - before).max() < 1e-3
    assert np.abs(np.diff([before, *after], axis=0)).max() <= ARM.v_max.max() / ARM.rate_hz + 1e-9


def test_22_three_minutes_of_maximal_exploration() -> None:
    with hardware.open(RobotConfig(body="fake", cameras=())) as robot:
        probe = LimitProbe.attach(robot)
        robot.reset(np.random.default_rng(0))
        rng, observation = np.random.default_rng(1), robot.observe()
        while observation.time < 180.0 and robot.stopped is None:
            robot.send(Command(observation.time, rng.choice([ARM.q_min, ARM.q_max]) + rng.normal(0, 3, 2), Source.PLANNER))
            observation = robot.observe()
        assert robot.stopped is None, robot.stopped
        assert probe.setpoints > 17_500
        assert not probe.violations, probe.violations
        assert np.abs(robot.governor.setpoint.q - robot.arm.read().q).max() < 4 * LAG
