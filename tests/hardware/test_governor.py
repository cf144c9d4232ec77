"""The governor alone: one command, one rule at a time. A perfect arm measures exactly what it was told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hardware.fake import tip
from hardware.governor import Governor, Limits, Setpoint
from hardware.kinematics import Box, JointPosition
from hardware.types import ArmSpec, ArmState, ArraySpec, Command, HardwareError, Source

PERIOD = 0.1
ARM = ArmSpec(
    name="arm",
    joints=("a", "b"),
    units="rad",
    q_min=np.array([-2.0, -2.0]),
    q_max=np.array([2.0, 2.0]),
    v_max=np.array([1.0, 1.0]),
    a_max=np.array([5.0, 5.0]),
    j_max=np.array([100.0, 100.0]),
    home=np.zeros(2),
    rate_hz=100.0,
)
ACTION = ArraySpec(("a", "b"), ("rad", "rad"), (-2.0, -2.0), (2.0, 2.0))


class Loop:
    """A governor on a perfect arm, with its time."""

    def __init__(self, limits: Limits | None = None, q: tuple[float, float] = (0.0, 0.0), position=None, gripper: bool = False) -> None:
        action = ArraySpec((*ACTION.names, "grip"), ("rad", "rad", "1"), (-2.0, -2.0, 0.0), (2.0, 2.0, 1.0)) if gripper else ACTION
        self.governor = Governor(ARM, limits or Limits(), action, JointPosition(2, gripper, position), PERIOD)
        self.governor.restart(0.0, np.array(q), 0.0)
        self.tick, self.q = 0, np.array(q)
        self.setpoints: list[Setpoint] = []

    @property
    def now(self) -> float:
        return self.tick / ARM.rate_hz

    def send(self, *action: float, time: float | None = None) -> np.ndarray:
        return self.governor.admit(Command(self.now if time is None else time, np.array(action, np.float32), Source.POLICY), self.now)

    def run(self, ticks: int) -> Setpoint:
        for _ in range(ticks):
            setpoint = self.governor.step(self.now, ArmState(self.now, self.tick, self.q, np.zeros(2), 0.0))
            self.setpoints.append(setpoint)
            self.q, self.tick = setpoint.q, self.tick + 1
        return self.setpoints[-1]

    def follow(self, *action: float, seconds: float) -> Setpoint:
        """The same command at every decision."""
        for _ in range(round(seconds / PERIOD)):
            self.send(*action)
            self.run(10)
        return self.setpoints[-1]


def test_it_goes_where_commanded_and_rests_there() -> None:
    loop = Loop()
    end = loop.follow(0.3, -0.2, seconds=1.5)
    np.testing.assert_allclose(end.q, [0.3, -0.2], atol=1e-6)
    assert loop.governor.at_rest
    assert loop.governor.stopped is None


def test_a_feasible_command_is_no_intervention_and_comes_back_unchanged() -> None:
    loop = Loop()
    for k in range(20):
        action = np.array([0.03 * np.sin(0.2 * k), 0.0], np.float32)
        np.testing.assert_array_equal(loop.send(*action), action)
        loop.run(10)
    assert not loop.governor.interventions


def test_it_trails_by_no_more_than_its_braking_distance() -> None:
    loop = Loop()
    for k in range(1, 16):
        loop.send(0.05 * k, 0.0)
        loop.run(10)
    speed = 0.5
    braking = speed**2 / (2 * 5.0) + speed * 5.0 / (2 * 100.0)
    assert 0 < 0.05 * 15 - loop.q[0] < braking + 0.01
    assert loop.setpoints[-1].v[0] == pytest.approx(speed, abs=0.1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_refuses_the_whole_command(bad: float) -> None:
    loop = Loop()
    loop.send(0.2, 0.1)
    loop.run(3)
    np.testing.assert_allclose(loop.send(0.5, bad), [0.2, 0.1], atol=1e-7)  # hold: go on to the last waypoint
    assert loop.governor.interventions["not_finite"] == 1
    np.testing.assert_allclose(loop.run(45).q, [0.2, 0.1], atol=1e-4)


@pytest.mark.parametrize("action", [np.zeros(3), np.zeros((1, 2)), np.zeros(0), np.float32(1), ["a", None], None])
def test_a_wrong_shape_is_refused(action: object) -> None:
    loop = Loop()
    admitted = loop.governor.admit(Command(0.0, action, Source.POLICY), 0.0)  # type: ignore[arg-type]
    assert admitted.shape == (2,)
    assert loop.governor.interventions == {"shape": 1}


def test_times_too_old_too_new_repeated_or_out_of_order_are_refused() -> None:
    loop = Loop(Limits(late_s=0.2, early_s=0.05, stale_s=10.0))
    loop.tick = 100
    loop.send(0.01, 0.0, time=0.79)
    loop.send(0.01, 0.0, time=1.06)
    loop.send(0.01, 0.0, time=np.nan)
    assert loop.governor.interventions == {"late": 1, "early": 1, "not_finite": 1}
    loop.send(0.01, 0.0, time=0.95)
    loop.send(0.01, 0.0, time=0.95)
    loop.send(0.01, 0.0, time=0.90)
    assert loop.governor.interventions["reordered"] == 2
    loop.send(0.01, 0.0, time=0.96)
    assert loop.governor.interventions.total() == 5


def test_bounds_clip_and_count() -> None:
    loop = Loop()
    np.testing.assert_array_equal(loop.send(1e6, -1e30), [2.0, -2.0])
    assert loop.governor.interventions["action_bounds"] == 1
    assert loop.governor.interventions["velocity"] == 1


def test_targets_keep_a_margin_inside_the_joint_limits() -> None:
    loop = Loop(Limits(position_margin=0.05))
    end = loop.follow(2.0, -2.0, seconds=4.0)
    np.testing.assert_allclose(end.q, [1.95, -1.95], atol=1e-6)
    assert loop.governor.interventions["position"] == 40


def test_a_jump_is_followed_within_velocity_acceleration_and_jerk() -> None:
    loop = Loop()
    loop.follow(1.5, -1.5, seconds=0.5)
    loop.follow(-1.5, 1.5, seconds=4.0)
    v, a = np.array([s.v for s in loop.setpoints]), np.array([s.a for s in loop.setpoints])
    assert np.abs(v).max() == pytest.approx(1.0)
    assert np.abs(a).max() == pytest.approx(5.0)
    assert np.abs(np.diff(a, axis=0)).max() * 100 <= 100 * (1 + 1e-6)
    assert np.abs(np.diff([s.q for s in loop.setpoints], axis=0)).max() <= 0.01 + 1e-9
    assert loop.governor.interventions["velocity"] > 0
    np.testing.assert_allclose(loop.q, [-1.5, 1.5], atol=1e-6)


def test_what_cannot_be_followed_counts_once_per_command() -> None:
    loop = Loop()
    loop.send(1.0, 0.0)  # 10 rad/s
    loop.run(10)
    assert loop.governor.interventions == {"velocity": 1, "acceleration": 1}
    loop = Loop()
    loop.send(0.08, 0.0)  # 0.8 rad/s on average, but from rest: 8 rad/s2
    loop.run(10)
    assert loop.governor.interventions == {"acceleration": 1}


def test_silence_stops_within_the_bound_and_stays_stopped() -> None:
    loop = Loop(Limits(stale_s=0.3))
    loop.follow(2.0, 0.0, seconds=0.5)
    last = loop.now - PERIOD
    while loop.governor.stopped is None and loop.now < 3.0:
        loop.run(1)
    assert loop.governor.stopped == "stale"
    assert loop.now - last <= 0.3 + 2 * 0.01 + 1e-9
    while not loop.governor.at_rest and loop.now < 3.0:
        loop.run(1)
    assert loop.now - last <= 0.3 + loop.governor.brake_s + 2 * 0.01
    rest = loop.q
    np.testing.assert_array_equal(loop.send(-1.0, -1.0), rest.astype(np.float32))
    np.testing.assert_allclose(loop.run(50).q, rest, atol=1e-9)
    assert loop.governor.interventions["stopped"] == 1
    loop.governor.restart(loop.now, loop.q, 0.0)
    assert loop.governor.stopped == "stale"
    loop.governor.reset(loop.now, loop.q, 0.0)
    assert loop.governor.stopped is None
    loop.follow(0.0, 0.0, seconds=3.0)
    np.testing.assert_allclose(loop.q, 0.0, atol=1e-5)


def test_silence_before_the_first_command_is_not_a_fault() -> None:
    loop = Loop(Limits(stale_s=0.3))
    np.testing.assert_allclose(loop.run(200).q, 0.0)
    assert loop.governor.stopped is None


def test_refused_commands_do_not_keep_the_arm_alive() -> None:
    loop = Loop(Limits(stale_s=0.3))
    loop.follow(0.5, 0.0, seconds=0.2)
    loop.follow(np.nan, 0.0, seconds=0.5)
    assert loop.governor.stopped == "stale"


def test_a_latched_stop_keeps_its_first_reason() -> None:
    loop = Loop()
    loop.governor.stop("operator", "red button")
    loop.governor.stop("fault")
    assert loop.governor.stopped == "operator: red button"
    assert loop.governor.interventions == {"operator": 1}
    assert [reason for _, reason in loop.governor.events] == ["operator"]


def test_an_arm_that_no_longer_measures_is_stopped() -> None:
    loop = Loop(Limits(state_stale_s=0.05))
    loop.follow(1.0, 0.0, seconds=0.3)
    same = ArmState(loop.now, loop.tick, loop.q, np.zeros(2), 0.0)
    for _ in range(8):
        loop.governor.step(loop.now, same)
        loop.tick += 1
    assert loop.governor.stopped == "stale_state"


def test_a_measurement_that_is_not_finite_is_never_used() -> None:
    loop = Loop(Limits(state_stale_s=0.05, tracking_error=np.array([0.1, 0.1])))
    loop.send(0.5, 0.0)
    for _ in range(8):
        state = ArmState(loop.now, loop.tick + 1, np.array([np.nan, 0.0]), np.zeros(2), 0.0)
        assert np.isfinite(loop.governor.step(loop.now, state).q).all()
        loop.tick += 1
    assert loop.governor.stopped == "stale_state"


def test_tracking_bounds_how_far_the_command_runs_ahead_of_a_blocked_arm() -> None:
    loop = Loop(Limits(tracking_error=np.array([0.1, 0.1]), stale_s=1.0))
    for k in range(40):
        if k % 10 == 0:
            loop.send(1.0, 0.0)
        setpoint = loop.governor.step(loop.now, ArmState(loop.now, k + 1, np.zeros(2), np.zeros(2), 0.0))
        assert abs(setpoint.q[0]) <= 0.1 + 1e-6
        loop.tick += 1
    assert loop.governor.interventions["tracking"] == 3  # once per command; the first only just gets there
    assert loop.governor.stopped is None


def test_an_arm_pushed_out_of_its_limits_is_not_followed_there() -> None:
    """Tracking pulls the target towards the measurement, but never beyond q_max."""
    loop = Loop(Limits(tracking_error=np.array([0.1, 0.1]), stale_s=9.0), q=(1.9, 0.0))
    loop.send(1.95, 0.0)
    for _ in range(100):
        setpoint = loop.governor.step(loop.now, ArmState(loop.now, loop.tick + 1, np.array([2.5, 0.0]), np.zeros(2), 0.0))
        assert setpoint.q[0] <= 2.0 + 1e-9
        loop.tick += 1


@pytest.mark.parametrize(("seq", "time"), [(5, 0.02), (50, 0.0), (5, 0.0)])
def test_a_reply_older_than_the_last_one_is_not_used(seq: int, time: float) -> None:
    loop = Loop(Limits(tracking_error=np.array([0.1, 0.1]), state_stale_s=1.0))
    loop.send(0.0, 0.0)
    loop.governor.step(0.01, ArmState(0.01, 10, np.zeros(2), np.zeros(2), 0.0))
    loop.governor.step(0.02, ArmState(time, seq, np.array([1.0, 1.0]), np.zeros(2), 0.0))
    assert "tracking" not in loop.governor.interventions
    loop.governor.step(0.03, ArmState(0.03, 11, np.array([1.0, 1.0]), np.zeros(2), 0.0))
    assert loop.governor.interventions["tracking"] == 1


def test_relative_commands_against_a_contact_do_not_wind_up() -> None:
    class Delta(JointPosition):
        def target(self, action: np.ndarray, q_commanded: np.ndarray, gripper_commanded: float) -> tuple[np.ndarray, float]:
            return q_commanded + action, gripper_commanded

    loop = Loop(Limits(tracking_error=np.array([0.05, 0.05])))
    loop.governor.kinematics = Delta(2)

    def push(delta: float, decisions: int) -> None:
        for _ in range(decisions):
            loop.send(delta, 0.0)
            for _ in range(10):  # a wall at 0: the arm cannot go further
                setpoint = loop.governor.step(loop.now, ArmState(loop.now, loop.tick + 1, np.minimum(loop.q, 0.0), np.zeros(2), 0.0))
                loop.q, loop.tick = setpoint.q, loop.tick + 1

    push(0.05, 40)  # 2 m in all, had nothing been in the way
    assert loop.q[0] == pytest.approx(0.05, abs=1e-3)
    push(-0.05, 12)
    assert loop.q[0] < 0.0


def test_an_arm_found_outside_its_limits_only_comes_in() -> None:
    loop = Loop(q=(2.3, 0.0))
    np.testing.assert_allclose(loop.run(20).q, [2.3, 0.0])  # nobody asked for anything
    loop.follow(2.0, 0.0, seconds=2.0)
    path = np.array([s.q[0] for s in loop.setpoints])
    assert (np.diff(path) <= 1e-9).all()
    assert path[-1] == pytest.approx(2.0, abs=1e-6)
    assert max(abs(s.v).max() for s in loop.setpoints) <= 1.0 + 1e-6


def test_the_workspace_clips_the_action_that_is_logged() -> None:
    box = Box(np.array([-1.0, -1.0, -1.0]), np.array([0.3, 0.1, 1.0]))
    loop = Loop(Limits(workspace=box), q=(-0.6, 1.8), position=tip)
    admitted = loop.send(0.5, 0.5)
    assert loop.governor.interventions["workspace"] == 1
    assert box.distance(tip(admitted)) < 1e-6
    for _ in range(15):
        admitted = loop.send(0.5, 0.5)
        loop.run(10)
    np.testing.assert_allclose(loop.q, admitted, atol=1e-3)
    assert max(box.distance(tip(s.q)) for s in loop.setpoints) < 0.01
    assert loop.governor.stopped is None


def test_on_the_way_to_an_allowed_waypoint_the_arm_brakes_before_it_leaves_the_workspace() -> None:
    """The line between two waypoints inside may bulge out: joints are not metres."""
    box = Box(np.array([-1.0, -1.0, -1.0]), np.array([0.36, 1.0, 1.0]))
    start, goal = (-1.4, 1.3), (0.1, 1.3)  # the same stretch, swung across: it bulges 4 cm out of the box
    loop = Loop(Limits(workspace=box, workspace_tolerance=0.01, stale_s=9.0), q=start, position=tip)
    assert box.distance(tip(np.array(start))) == box.distance(tip(np.array(goal))) == 0.0
    loop.governor.kinematics.clip = lambda action, q, box: (action, False)  # type: ignore[method-assign]
    loop.send(*goal)
    loop.run(300)
    assert loop.governor.interventions["workspace_brake"] == 1  # once per command
    assert 0.003 < max(box.distance(tip(s.q)) for s in loop.setpoints) < 0.01
    assert max(np.abs(s.a).max() for s in loop.setpoints) <= 5.0 + 1e-6
    assert np.abs(loop.setpoints[-1].v).max() < 0.01
    assert loop.governor.stopped is None
    loop.follow(*start, seconds=3.0)  # back inside is allowed
    np.testing.assert_allclose(loop.q, start, atol=1e-4)


def test_all_joints_arrive_together_where_one_is_the_slowest() -> None:
    loop = Loop(Limits(stale_s=9.0))
    loop.send(1.0, 0.1)
    loop.run(130)
    off_line = [abs(s.q[1] - 0.1 * s.q[0]) for s in loop.setpoints]
    assert max(off_line) < 0.02
    np.testing.assert_allclose(loop.q, [1.0, 0.1], atol=1e-3)


def test_ticks_that_were_missed_make_no_jump() -> None:
    loop = Loop(Limits(stale_s=9.0))
    loop.follow(1.5, 0.0, seconds=0.5)
    before = loop.setpoints[-1]
    loop.tick += 50  # nobody wrote for half a second: the arm stands
    after = loop.run(1)
    assert abs(after.q - before.q).max() < 100 * 0.01**3 + 1e-9  # the first tick from rest: bounded by jerk
    assert abs(after.v).max() <= 0.5 * 100 * 0.01**2 + 1e-9
    loop.run(5)
    assert np.abs(np.diff([s.q for s in loop.setpoints], axis=0)).max() <= 0.01 + 1e-9


def test_the_gripper_goes_with_the_command() -> None:
    loop = Loop(gripper=True)
    admitted = loop.send(0.0, 0.0, 0.7)
    assert admitted[2] == pytest.approx(0.7)
    assert loop.run(1).gripper == pytest.approx(0.7)
    assert loop.send(np.nan, 0.0, 0.1)[2] == pytest.approx(0.7)
    assert loop.run(1).gripper == pytest.approx(0.7)


def test_an_unreachable_target_holds_but_the_pilot_counts_as_alive() -> None:
    class Short(JointPosition):
        def target(self, action: np.ndarray, q_commanded: np.ndarray, gripper_commanded: float) -> tuple[np.ndarray, float]:
            raise HardwareError("out of reach")

    loop = Loop(Limits(stale_s=0.3))
    loop.follow(0.1, 0.1, seconds=1.0)
    loop.governor.kinematics = Short(2)
    loop.follow(0.5, 0.5, seconds=1.0)
    assert loop.governor.stopped is None
    assert loop.governor.interventions["unreachable"] == 10
    np.testing.assert_allclose(loop.q, 0.1, atol=1e-4)


def test_pixels_work_as_well_as_radians() -> None:
    """Ruckig's tolerances are absolute; planning in pixels made it fail after a few jumps."""
    arm = replace(
        ARM, units="px", q_min=np.zeros(2), q_max=np.full(2, 512.0), v_max=np.full(2, 2e4), a_max=np.full(2, 1e6), j_max=np.full(2, 1e8)
    )
    arm = replace(arm, home=np.full(2, 256.0), rate_hz=10.0)
    governor = Governor(arm, Limits(state_stale_s=1.0), replace(ACTION, low=(0.0, 0.0), high=(512.0, 512.0)), JointPosition(2), PERIOD)
    governor.restart(0.0, arm.home, 0.0)
    rng, q = np.random.default_rng(0), arm.home
    for k in range(500):
        action = rng.uniform(0, 512, 2).astype(np.float32)
        governor.admit(Command(0.1 * k, action, Source.POLICY), 0.1 * k)
        q = governor.step(0.1 * k, ArmState(0.1 * k, k, q, np.zeros(2), 0.0)).q
        np.testing.assert_allclose(q, action, atol=1e-6)
    assert not governor.interventions


def test_a_pose_that_is_not_finite_cannot_be_an_anchor() -> None:
    with pytest.raises(HardwareError, match="expected 2 finite joints"):
        Loop().governor.restart(0.0, np.array([np.nan, 0.0]), 0.0)


def test_where_it_is_said_to_come_to_rest_within_it_does() -> None:
    """Whatever it is doing, reversals included: `_swept` holds every pose of the way that Ruckig brakes along."""
    governor, rng = Loop().governor, np.random.default_rng(0)
    governor._brake()
    given = governor._input
    for _ in range(500):
        moving = np.array([rng.uniform(-1, 1, 2), rng.uniform(-1, 1, 2) * rng.choice([0.05, 1.0]), rng.uniform(-5, 5, 2)])
        given.current_position, given.current_velocity, given.current_acceleration = (moving / governor.arm.v_max).tolist()
        now = governor._plan()
        assert governor._way_to_rest()
        middle, half = governor._swept(now.q)
        assert all((np.abs(governor._pose(share) - middle) <= half + 1e-9).all() for share in np.linspace(0, 1, 60))
