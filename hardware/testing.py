"""What a new driver, body or pilot must keep: inherit a contract in a pytest class. And the independent check at the arm."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Self

import numpy as np

from hardware.kinematics import Box, Kinematics
from hardware.loop import ArmLoop
from hardware.robot import SafeRobot
from hardware.types import Arm, ArmSpec, ArmState, Clock, Command, HardwareError, Observation, Pilot, RobotSpec, Source


class LimitProbe:
    """Stands between SafeRobot and a driver and judges what was actually written, from positions and times alone.

    It shares no code with the governor: velocity, acceleration and jerk are finite differences of the positions written,
    one tick apart. Where nobody wrote for several ticks (a stalled loop, a pilot thinking), the arm is taken to have
    stopped. `violations` counts what KINDS names; `setpoints` counts those that the driver took.
    """

    KINDS = ("not_finite", "position", "velocity", "acceleration", "jerk", "workspace")
    TOLERANCE = 1e-6  # relative to each limit: rounding
    JERK_TOLERANCE = 0.01  # rounding divided by a tick's third power, and what little speed counts as rest

    def __init__(
        self,
        arm: Arm,
        clock: Clock,
        workspace: Box | None = None,
        kinematics: Kinematics | None = None,
        workspace_tolerance: float = 0.0,
        spec: ArmSpec | None = None,
    ) -> None:
        """spec: whose limits hold, where they are not the driver's own."""
        self.spec: ArmSpec = arm.spec if spec is None else spec
        self.violations: Counter[str] = Counter()
        self.setpoints = 0
        self._arm, self._clock = arm, clock
        self._workspace, self._kinematics, self._workspace_tolerance = workspace, kinematics, workspace_tolerance
        self._measured: np.ndarray | None = None
        self._q: np.ndarray | None = None
        self._asked = -np.inf
        self.forget()

    @classmethod
    def attach(cls, robot: SafeRobot, workspace_tolerance: float | None = None) -> Self:
        """Put a probe below `robot`'s governor. Limits, box, and how far outside counts [m] unless it is given, are the governor's."""
        limits = robot.governor.limits
        tolerance = limits.workspace_tolerance if workspace_tolerance is None else workspace_tolerance
        probe = cls(robot.arm, robot.clock, limits.workspace, robot.governor.kinematics, tolerance, robot.governor.arm)
        assert isinstance(robot.loop, ArmLoop), "its loop runs in a process of its own, where nothing can be put between"
        robot.loop.arm = probe
        robot.loop.on_reset.append(probe.anchored if robot.world is None else probe.forget)
        return probe

    def anchored(self) -> None:
        """A real arm goes on from what was written last, unless it was connected anew, or stopped by the vendor."""
        if self._found:
            self.forget()
        self._found = False

    def forget(self) -> None:
        """The arm was re-anchored, perhaps elsewhere: it is at rest where it was last measured."""
        rest = np.zeros(len(self.spec.joints))
        self._q, self._v, self._a = self._measured, rest, None if self._measured is None else rest
        self._planned = -np.inf, -np.inf

    _found = True  # whatever it is told next begins where it is measured

    def connect(self) -> None:
        self._found = True
        self._arm.connect()

    def close(self) -> None:
        self._arm.close()

    def halt(self) -> None:
        self._found = True  # the vendor's stop is not ours to judge
        self._arm.halt()

    def read(self) -> ArmState:
        try:
            state = self._arm.read()
        finally:
            self._asked = self._clock.now()
        self._measured = np.array(state.q)
        return state

    def write(self, q: np.ndarray, gripper: float) -> None:
        given = np.array(q, dtype=np.float64)
        finite = bool(np.isfinite(given).all() and 0.0 <= gripper <= 1.0)
        self.violations += Counter(not_finite=not finite)
        now, before = self._clock.now(), self._planned
        planned = (self._asked if self._asked > before[1] else now), now  # after the reading, before the writing
        self._arm.write(q, gripper)  # where it raises, the arm has not got it, and the loop tries the same again
        self.setpoints += 1
        if finite:
            self._judge(given, shortest=planned[0] - before[1], longest=planned[1] - before[0])
        self._planned = planned

    def _judge(self, q: np.ndarray, shortest: float, longest: float) -> None:
        outside = np.maximum(0.0, np.maximum(self.spec.q_min - q, q - self.spec.q_max))
        before = np.zeros_like(q) if self._q is None else np.maximum(0.0, np.maximum(self.spec.q_min - self._q, self._q - self.spec.q_max))
        # An arm switched on outside its limits may come in, or stay.
        self._expect("position", outside, before + self.TOLERANCE * (self.spec.q_max - self.spec.q_min))
        self._judge_workspace(q)
        if self._q is not None:
            self._judge_motion(self._q, q, shortest, longest)
        self._q = q

    def _judge_motion(self, before: np.ndarray, q: np.ndarray, shortest: float, longest: float) -> None:
        """After a pause of three ticks the arm stands. On a clock that runs on, only between which bounds a pause was is known;
        where they lie on both sides of three ticks, either will do."""
        step, near, spec = 1.0 / self.spec.rate_hz, 1 + self.TOLERANCE, self.spec
        rest = np.zeros_like(q)
        goes_on, stands = (self._v, self._a), (rest, rest)
        v = (q - before) / step
        outcomes = []
        for old_v, old_a in [goes_on] * (shortest < 3.001 * step) + [stands] * (longest > 2.999 * step):
            a = (v - old_v) / step
            jerk = 0.0 if old_a is None else np.abs(a - old_a) / step
            too_sudden = (np.abs(a) > spec.a_max * near).any(), (jerk > spec.j_max * (1 + self.JERK_TOLERANCE)).any()
            outcomes.append((sum(too_sudden), too_sudden, a))
        _, (acceleration, jerk), self._a = min(outcomes, key=lambda outcome: outcome[0])
        self._v = v
        self.violations += Counter(velocity=bool((np.abs(v) > spec.v_max * near).any()), acceleration=bool(acceleration), jerk=bool(jerk))

    def _judge_workspace(self, q: np.ndarray) -> None:
        if self._workspace is None or self._kinematics is None:
            return
        position = self._kinematics.position(q)
        if position is not None:
            before = None if self._q is None else self._kinematics.position(self._q)
            allowed = max(self._workspace_tolerance, 0.0 if before is None else self._workspace.distance(before))
            self._expect("workspace", np.array([self._workspace.distance(position)]), np.array([allowed + self.TOLERANCE]))

    def _expect(self, what: str, value: np.ndarray, limit: np.ndarray) -> None:
        if (value > limit).any():
            self.violations[what] += 1


class ArmContract:
    """For a driver. Override `make`, and `finish` where something has to be cleared away after each test."""

    gripper = True  # it has one

    def make(self) -> tuple[Arm, Clock]:
        raise NotImplementedError

    def finish(self) -> None:
        pass

    def teardown_method(self) -> None:
        self.finish()

    def test_spec_is_consistent(self) -> None:
        spec = self.make()[0].spec
        for name in ("q_min", "q_max", "v_max", "a_max", "j_max", "home"):
            value = getattr(spec, name)
            assert value.shape == (len(spec.joints),), name
            assert np.isfinite(value).all(), name
        assert (spec.q_min < spec.q_max).all()
        assert ((spec.q_min <= spec.home) & (spec.home <= spec.q_max)).all()
        assert all((getattr(spec, name) > 0).all() for name in ("v_max", "a_max", "j_max"))

    def test_measurements_are_fresh_and_finite(self) -> None:
        arm, clock = self._connected()
        dt = 1.0 / arm.spec.rate_hz
        first = second = arm.read()
        for _ in range(int(np.ceil(2.0 / dt))):  # a read waits for nothing: the same again is an answer, too
            clock.sleep_until(clock.now() + dt)
            second = arm.read()
            if second.seq > first.seq:
                break
        assert second.seq > first.seq
        assert second.time > first.time
        for state in (first, second):
            assert state.q.shape == state.dq.shape == arm.spec.home.shape
            assert np.isfinite(state.q).all()
            assert np.isfinite(state.dq).all()
            assert 0.0 <= state.gripper <= 1.0
            assert state.fault is None
        arm.close()

    def test_it_goes_where_it_is_told(self) -> None:
        arm, clock = self._connected()
        state = arm.read()
        start = state.q
        goal = start + 0.01 * np.where(start < 0.5 * (arm.spec.q_min + arm.spec.q_max), 1.0, -1.0) * (arm.spec.q_max - arm.spec.q_min)
        ticks = int(np.ceil(arm.spec.rate_hz))
        for k in range(2 * ticks):
            arm.write(start + min(1.0, (k + 1) / ticks) * (goal - start), state.gripper)
            clock.sleep_until(clock.now() + 1.0 / arm.spec.rate_hz)
        reached = arm.read().q
        assert np.linalg.norm(reached - goal) < 0.5 * np.linalg.norm(start - goal)
        arm.close()

    def test_the_gripper_opens_and_closes(self) -> None:
        arm, clock = self._connected()
        q = arm.read().q
        for goal in (1.0, 0.0) if self.gripper else ():
            for _ in range(int(np.ceil(1.5 * arm.spec.rate_hz))):
                arm.write(q, goal)
                clock.sleep_until(clock.now() + 1.0 / arm.spec.rate_hz)
            assert abs(arm.read().gripper - goal) < 0.1
        arm.close()

    def test_it_takes_no_setpoint_that_is_none(self) -> None:
        arm, _ = self._connected()
        q = arm.read().q
        for wrong in (np.full_like(q, np.nan), np.full_like(q, np.inf), q[:-1], np.append(q, 0.0)):
            self._refused(arm, wrong)
        arm.close()

    def test_a_halt_lasts_until_it_is_connected_again(self) -> None:
        arm, clock = self._connected()
        state = arm.read()
        arm.halt()
        far = state.q + 0.05 * (arm.spec.q_max - arm.spec.q_min) * np.where(state.q < 0.5 * (arm.spec.q_min + arm.spec.q_max), 1.0, -1.0)
        for _ in range(int(np.ceil(0.3 * arm.spec.rate_hz))):
            with contextlib.suppress(HardwareError):  # a driver may refuse, or ignore it
                arm.write(far, state.gripper)
            clock.sleep_until(clock.now() + 1.0 / arm.spec.rate_hz)
        assert np.linalg.norm(arm.read().q - state.q) < 0.25 * np.linalg.norm(far - state.q)
        arm.connect()
        assert arm.read().fault is None
        arm.write(arm.read().q, state.gripper)
        arm.close()

    def test_it_can_be_closed_twice_and_connected_again(self) -> None:
        arm, _ = self._connected()
        arm.close()
        arm.close()
        arm.connect()
        assert np.isfinite(arm.read().q).all()
        arm.close()

    def _refused(self, arm: Arm, q: np.ndarray) -> None:
        try:
            arm.write(q, 0.5)
        except HardwareError:
            return
        raise AssertionError(f"took the setpoint {q}")

    def _connected(self) -> tuple[Arm, Clock]:
        arm, clock = self.make()
        arm.connect()
        return arm, clock


class RobotContract:
    """For a body behind SafeRobot. Override `make`."""

    def make(self) -> SafeRobot:
        raise NotImplementedError

    def test_observations_fit_the_spec(self) -> None:
        with self.make() as robot:
            robot.reset(np.random.default_rng(0))
            self._check(robot.observe(), robot.spec)

    def test_time_runs_at_the_declared_rate(self) -> None:
        with self.make() as robot:
            robot.reset(np.random.default_rng(0))
            times = []
            for _ in range(4):
                observation = robot.observe()
                times.append(observation.time)
                robot.send(self._hold(robot, observation))
            np.testing.assert_allclose(np.diff(times), 1.0 / robot.spec.rate_hz, rtol=1e-6)

    def test_what_is_admitted_is_float32_and_within_the_spec(self) -> None:
        with self.make() as robot:
            robot.reset(np.random.default_rng(0))
            rng, low, high = np.random.default_rng(1), np.array(robot.spec.action.low), np.array(robot.spec.action.high)
            for _ in range(5):
                observation = robot.observe()
                wild = rng.uniform(low - (high - low), high + (high - low)).astype(np.float32)
                admitted = robot.send(Command(observation.time, wild, Source.SCRIPTED))
                assert admitted.shape == (robot.spec.action.dim,)
                assert admitted.dtype == np.float32
                assert (admitted >= low.astype(np.float32)).all()
                assert (admitted <= high.astype(np.float32)).all()

    def test_nan_holds_the_arm_and_is_counted(self) -> None:
        with self.make() as robot:
            robot.reset(np.random.default_rng(0))
            observation = robot.observe()
            before = robot.governor.setpoint.q
            admitted = robot.send(Command(observation.time, np.full(robot.spec.action.dim, np.nan, np.float32), Source.POLICY))
            assert np.isfinite(admitted).all()
            assert robot.governor.interventions["not_finite"] == 1
            robot.observe()
            np.testing.assert_allclose(robot.governor.setpoint.q, before, atol=1e-9)

    def test_a_stop_is_latched_until_reset(self) -> None:
        with self.make() as robot:
            robot.reset(np.random.default_rng(0))
            observation = robot.observe()
            robot.stop("operator")
            assert robot.stopped == "operator"
            assert robot.governor.at_rest
            robot.send(self._hold(robot, observation))
            assert robot.governor.interventions["stopped"] == 1
            robot.reset(np.random.default_rng(0))
            assert robot.stopped is None

    def test_the_same_seed_gives_the_same_start(self) -> None:
        with self.make() as robot:
            starts = []
            for seed in (3, 4, 3):
                robot.reset(np.random.default_rng(seed))
                starts.append(robot.observe())
            for name in robot.spec.state:
                np.testing.assert_allclose(starts[0].state[name], starts[2].state[name], atol=1e-6)
            for name in robot.spec.cameras:
                np.testing.assert_array_equal(starts[0].images[name], starts[2].images[name])
            seen = [{**start.state, **start.images} for start in starts]  # a goal may be seen only
            assert any(not np.array_equal(seen[0][name], seen[1][name]) for name in seen[0]) or robot.world is None

    def test_limits_hold_at_the_actuator_under_noise(self) -> None:
        with self.make() as robot:
            probe = LimitProbe.attach(robot)
            robot.reset(np.random.default_rng(0))
            rng, low, high = np.random.default_rng(2), np.array(robot.spec.action.low), np.array(robot.spec.action.high)
            for _ in range(20):
                robot.send(Command(robot.observe().time, rng.uniform(low, high).astype(np.float32), Source.POLICY))
            assert probe.setpoints > 0
            assert not probe.violations, probe.violations

    def test_closing_twice_is_fine_and_using_it_closed_is_not(self) -> None:
        robot = self.make()
        robot.connect()
        robot.close()
        robot.close()
        try:
            robot.observe()
        except HardwareError as error:
            assert "not connected" in str(error)
        else:
            raise AssertionError("observe() worked on a closed robot")

    def _hold(self, robot: SafeRobot, observation: Observation) -> Command:
        return Command(observation.time, robot.hold(), Source.SCRIPTED)

    def _check(self, observation: Observation, spec: RobotSpec) -> None:
        assert set(observation.images) == set(spec.cameras)
        assert set(observation.state) == set(spec.state)
        for name, size in spec.cameras.items():
            assert observation.images[name].shape == (*size, 3)
            assert observation.images[name].dtype == np.uint8
        for name, array in spec.state.items():
            assert observation.state[name].shape == (array.dim,)
            assert observation.state[name].dtype == np.float32
            assert np.isfinite(observation.state[name]).all()


class PilotContract:
    """For a pilot. Override `make`, which also says for which robot, and with what to look at."""

    def make(self) -> tuple[Pilot, RobotSpec, Observation]:
        raise NotImplementedError

    def test_a_decision_is_a_command_for_this_robot(self) -> None:
        pilot, spec, observation = self.make()
        pilot.reset()
        command = pilot.decide(observation)
        assert isinstance(command.source, Source)
        assert np.shape(command.action) == (spec.action.dim,)
        assert np.isfinite(command.action).all()
        assert command.time >= observation.time
        assert all(np.isfinite(value) for value in command.notes.values())

    def test_it_can_start_over(self) -> None:
        pilot, spec, observation = self.make()
        for _ in range(2):
            pilot.reset()
            assert np.shape(pilot.decide(observation).action) == (spec.action.dim,)
