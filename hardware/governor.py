"""The safety path: nothing reaches an arm but through here. Pure: no I/O, the time is passed in, nothing learned.

Not a safety-rated function: the controller's own limits and a hardware emergency stop remain mandatory. The aim is
never to make things worse and always to stop in bounded time.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from ruckig import ControlInterface, InputParameter, OutputParameter, Result, Ruckig, RuckigError, Synchronization, Trajectory

from hardware.clearance import UNKNOWN, Clearance, Inside, Surroundings
from hardware.kinematics import Box, Kinematics
from hardware.types import ArmSpec, ArmState, ArraySpec, Command, HardwareError

_SHARES = (1.0, 0.6, 0.35, 0.15, 0.0)  # of the time to rest: most of the way is gone early


@dataclass(frozen=True)
class Limits:
    """What the governor enforces on top of ArmSpec. Lengths in the body's unit (metres for real arms), times in seconds."""

    workspace: Box | None = None  # for the end effector
    workspace_tolerance: float = 0.01  # the most a setpoint may lie outside: the arm brakes at half of it
    position_margin: float = 0.0  # targets stay this far inside q_min..q_max, joint units
    tracking_error: np.ndarray | None = None  # largest |commanded target - measured| per joint (J,): bounds contact force
    stale_s: float = 0.5  # without an admitted command for this long: stop
    state_stale_s: float = 0.1  # without a fresh arm state for this long: stop
    late_s: float = 0.5  # a command older than this is refused
    early_s: float = 0.1  # a command further in the future than this is refused


@dataclass(frozen=True)
class Setpoint:
    """What the arm is told this tick: position, velocity, acceleration (J,), gripper 0..1."""

    q: np.ndarray
    gripper: float
    v: np.ndarray
    a: np.ndarray


class Governor:
    """Commands in, setpoints out; every limit holds on every setpoint.

    A command becomes a waypoint to reach one decision period later, or as soon as v_max allows. Each tick the target
    moves along the straight joint line to it, and Ruckig (Berscheid & Kroeger, RSS 2021) follows within velocity,
    acceleration and jerk limits. It plans to be at rest at the target, so it trails by its own braking distance:
    whatever happens next, it can stop in time.
    """

    def __init__(
        self,
        arm: ArmSpec,
        limits: Limits,
        action: ArraySpec,
        kinematics: Kinematics,
        period_s: float,
        clearances: Iterable[Clearance] = (),
    ) -> None:
        """period_s: between two commands. clearances: what to keep away from, beside the workspace's walls."""
        self.arm, self.limits, self.action, self.kinematics, self.period_s = arm, limits, action, kinematics, period_s
        keep = list(clearances)
        if limits.workspace is not None:
            reach = getattr(kinematics, "reach", np.full(len(arm.joints), UNKNOWN))
            keep.insert(0, Inside("workspace", limits.workspace, kinematics.position, limits.workspace_tolerance, reach))
        self._surroundings = Surroundings(keep, len(arm.joints)) if keep else None
        self.interventions: Counter[str] = Counter()  # reason -> how often; commands count once, not once per tick
        self.events: deque[tuple[float, str]] = deque(maxlen=10_000)  # the newest (time [s], reason)
        self.stopped: str | None = None  # why; latched until reset
        self.dt = 1.0 / arm.rate_hz
        self.brake_s = float(np.max(arm.v_max / arm.a_max + 2.0 * arm.a_max / arm.j_max))  # longest jerk-limited stop
        self._ramp_s = arm.a_max / arm.j_max
        self._swing = arm.a_max * self._ramp_s**2 / 6  # how far a joint that is about to turn round may go on first
        # The target may run ahead of the arm by one period and one braking distance; beyond that, in a contact, it is wound up.
        self._reach = arm.v_max * period_s + self._braking_distance(arm.v_max, np.zeros_like(arm.v_max))
        self._action_low = np.asarray(action.low, dtype=np.float32)
        self._action_high = np.asarray(action.high, dtype=np.float32)
        self._low, self._high = arm.q_min + limits.position_margin, arm.q_max - limits.position_margin
        joints = len(arm.joints)
        self._ruckig, self._out = Ruckig(joints, self.dt), OutputParameter(joints)
        self._ruckig_offline, self._brake_input, self._brake_way = Ruckig(joints), self._plain_input(), Trajectory(joints)
        _to_rest(self._brake_input)
        self.restart(0.0, arm.home, 0.0)

    def restart(self, now: float, q: np.ndarray, gripper: float) -> None:
        """Re-anchor at rest at a pose. A latched stop stays latched."""
        q = np.array(q, dtype=np.float64)
        if q.shape != self.arm.home.shape or not np.isfinite(q).all() or not np.isfinite(gripper):
            raise HardwareError(f"{self.arm.name}: measured pose {q} {self.arm.units}; expected {len(self.arm.home)} finite joints")
        self._now, self._ticked, self._admitted_time = now, None, -np.inf
        self._alive_until = np.inf  # the silence timer starts with the first command: until then the arm is at rest
        self._fresh: ArmState | None = None
        self._fresh_until = now + self.limits.state_stale_s
        self._from, self._to, self._t0, self._t1 = q, q, now, now
        self._demand = np.zeros_like(q)  # mean velocity the last waypoint asked for
        # An arm found outside its limits may stay where it is or come in, never go further out.
        self._hull_low, self._hull_high = np.minimum(self._low, q), np.maximum(self._high, q)
        self._gripper = float(np.clip(gripper, 0.0, 1.0))
        self._tracking_counted = False
        self._input = self._plain_input()
        self._input.current_position = self._input.target_position = (q / self.arm.v_max).tolist()
        self._setpoint = Setpoint(q, self._gripper, np.zeros_like(q), np.zeros_like(q))
        self._blocked = False
        self._entry: np.ndarray | float = np.inf  # (R,) how far in danger it may be for having been found there [m]
        self._pursue()
        if self.stopped:
            self._brake()

    def _plain_input(self) -> InputParameter:
        """The limits. Each joint is planned in units of its own v_max: Ruckig's tolerances are absolute, and in pixels it failed."""
        plain = InputParameter(len(self.arm.joints))
        plain.max_velocity = [1.0] * len(self.arm.joints)
        plain.max_acceleration = (self.arm.a_max / self.arm.v_max).tolist()
        plain.max_jerk = (self.arm.j_max / self.arm.v_max).tolist()
        return plain

    def reset(self, now: float, q: np.ndarray, gripper: float) -> None:
        """Clear a latched stop and re-anchor at rest at a pose. Raises HardwareError for one that cannot be: then it stays latched."""
        latched, self.stopped = self.stopped, None
        try:
            self.restart(now, q, gripper)
        except HardwareError:
            self.stopped = latched
            raise

    @property
    def setpoint(self) -> Setpoint:
        """The newest one."""
        return self._setpoint

    def commanded(self, now: float) -> np.ndarray:
        """Joints (J,) that the arm is told to be at: relative actions start here."""
        return np.clip(self._line(now), self._setpoint.q - self._reach, self._setpoint.q + self._reach)

    @property
    def newest(self) -> ArmState | None:
        """The last measurement that was newer than the one before it."""
        return self._fresh

    @property
    def at_rest(self) -> bool:
        scale = np.maximum(self.arm.v_max, 1.0)
        return bool((np.abs(self._setpoint.v) < 1e-6 * scale).all() and (np.abs(self._setpoint.a) < 1e-4 * self.arm.a_max).all())

    @property
    def blocked(self) -> bool:
        """It braked before something that it would have run into; the next command goes on from there."""
        return self._blocked

    def stop(self, reason: str, detail: str = "") -> None:
        """Begin a jerk-limited stop at the next step; latched until reset. A second reason changes nothing."""
        if self.stopped is None:
            self._count(reason)
            self.stopped = f"{reason}: {detail}" if detail else reason
            self._brake()
            self._from = self._to = self._setpoint.q

    # Commands -----------------------------------------------------------------------------------------------------

    def admit(self, command: Command, now: float) -> np.ndarray:
        """Judge a command at `now` [s]. Returns the action admitted, float32 (A,): clipped, or hold where refused."""
        self._now = max(self._now, now)
        try:
            action = np.asarray(command.action, dtype=np.float64)
        except (TypeError, ValueError):
            action = np.empty(0)
        refusal = self._refusal(action, command.time, now)
        if refusal is None:
            q_base = self.commanded(now)
            action = self._clip_action(action, q_base)
            waypoint = self._waypoint(action, q_base)
            # The pilot is alive, even where it reaches for too much.
            self._admitted_time, self._alive_until = command.time, now + self.limits.stale_s
            if waypoint is not None:
                self._set_waypoint(*waypoint, q_base, now)
                return action
            refusal = "unreachable"
        self._count(refusal)
        return self.kinematics.hold(self._to, self._gripper).astype(np.float32)

    def _refusal(self, action: np.ndarray, time: float, now: float) -> str | None:
        if self.stopped is not None:
            return "stopped"
        if action.shape != self._action_low.shape:
            return "shape"
        if not (np.isfinite(action).all() and np.isfinite(time)):
            return "not_finite"
        if time < now - self.limits.late_s:
            return "late"
        if time > now + self.limits.early_s:
            return "early"
        if time <= self._admitted_time:  # a relative action must not be done twice, nor an old one after a new one
            return "reordered"
        return None

    def _clip_action(self, action: np.ndarray, q_base: np.ndarray) -> np.ndarray:
        bounded = np.clip(action, self._action_low, self._action_high)
        if (np.abs(bounded - action) > 1e-6 * (1.0 + np.abs(bounded))).any():  # float32 rounding is not an intervention
            self._count("action_bounds")
        if self.limits.workspace is not None:
            bounded, clipped = self.kinematics.clip(bounded, q_base, self.limits.workspace)
            if clipped:
                self._count("workspace")
        return np.clip(bounded, self._action_low, self._action_high).astype(np.float32)

    def _waypoint(self, action: np.ndarray, q_base: np.ndarray) -> tuple[np.ndarray, float] | None:
        """Computed from the float32 action that is logged, so that a replay moves the arm alike; None where there is none."""
        try:
            q, gripper = self.kinematics.target(action.astype(np.float64), q_base, self._gripper)
        except HardwareError:
            return None
        return (q, gripper) if np.isfinite(q).all() and np.isfinite(gripper) else None

    def _set_waypoint(self, q: np.ndarray, gripper: float, q_base: np.ndarray, now: float) -> None:
        inside = np.clip(q, self._low, self._high)
        if (np.abs(inside - q) > 1e-6 * (1.0 + np.abs(q))).any():
            self._count("position")
        demand = (inside - q_base) / self.period_s
        if (np.abs(demand) > self.arm.v_max * (1 + 1e-6)).any():
            self._count("velocity")
        if (np.abs(demand - self._demand) > self.arm.a_max * self.period_s * (1 + 1e-6)).any():
            self._count("acceleration")
        self._demand = np.clip(demand, -self.arm.v_max, self.arm.v_max)
        # All joints take the time that the slowest one needs, so that the way there stays the straight line looked at.
        seconds = max(self.period_s, float(np.max(np.abs(inside - q_base) / self.arm.v_max)))
        self._from, self._t0, self._to, self._t1 = q_base, now, inside, now + seconds
        self._gripper, self._tracking_counted = float(np.clip(gripper, 0.0, 1.0)), False
        self._pursue()

    def move(self, q: np.ndarray, gripper: float, now: float, seconds: float) -> None:
        """Go to joints q (J,) within `seconds`, without a command: the way home. Same limits; not counted as silence."""
        self._now = max(self._now, now)
        if self.stopped is None:
            self._from, self._t0 = self._line(now), now
            self._to, self._t1 = np.clip(q, self._low, self._high), now + seconds
            self._gripper, self._alive_until = float(np.clip(gripper, 0.0, 1.0)), np.inf
            self._pursue()

    def _line(self, time: float) -> np.ndarray:
        """Where the target is at `time`: on the straight line to the waypoint, then at the waypoint."""
        span = self._t1 - self._t0
        fraction = 1.0 if span <= 0 else min(max((time - self._t0) / span, 0.0), 1.0)
        return self._from + fraction * (self._to - self._from)

    # Setpoints ----------------------------------------------------------------------------------------------------

    def step(self, now: float, state: ArmState | None) -> Setpoint:
        """The setpoint for the tick that begins at `now`; state None = no reply. Raises HardwareError only if it cannot
        even brake: then only the vendor's own stop is left."""
        self._now = max(self._now, now)
        if self._ticked is not None and now - self._ticked > 3 * self.dt:  # nobody wrote: a servo holds its last setpoint
            self._come_to_rest()
        self._ticked = now
        self._watch(now, state)
        if self.stopped is None and not self._blocked:
            self._input.target_position = (self._track(self._to if self._direct else self._line(now + self.dt)) / self.arm.v_max).tolist()
        setpoint = self._plan()
        if self.stopped is None and not self._blocked and (danger := self._runs_into(setpoint)):
            self._count(f"{danger}_brake")
            self._blocked = True  # comes to rest; the next command starts from there
            self._brake()
            setpoint = self._plan()
            self._from = self._to = setpoint.q + self._braking_distance(setpoint.v, setpoint.a)
        self._out.pass_to_input(self._input)
        self._setpoint = setpoint
        if self.stopped is not None:
            self._from = self._to = setpoint.q
        return setpoint

    def _come_to_rest(self) -> None:
        """The arm stands at the last setpoint; the plan starts again from there."""
        q = self._setpoint.q
        self._input.current_velocity = self._input.current_acceleration = np.zeros_like(q).tolist()

    def _watch(self, now: float, state: ArmState | None) -> None:
        """Latch a stop on silence, on an arm that no longer measures, on a fault."""
        if now > self._alive_until:
            self.stop("stale")
        if state is not None:
            if state.fault is not None:
                self.stop("fault", state.fault)
            newer = self._fresh is None or (state.seq > self._fresh.seq and state.time > self._fresh.time)
            if newer and np.shape(state.q) == self.arm.home.shape and _finite(state.q):
                self._fresh, self._fresh_until = state, min(state.time, now) + self.limits.state_stale_s
        if now > self._fresh_until:
            self.stop("stale_state")

    def _track(self, target: np.ndarray) -> np.ndarray:
        """Keep the target near what was measured: an arm held by a contact is not pushed ever harder."""
        if self.limits.tracking_error is not None and self._fresh is not None:
            q, error = self._fresh.q, self.limits.tracking_error
            near = np.minimum(np.maximum(target, q - error), q + error)
            if not self._tracking_counted and near.tolist() != target.tolist():
                self._tracking_counted = True
                self._count("tracking")
            target = near
        return np.minimum(np.maximum(target, self._hull_low), self._hull_high)

    def _plan(self) -> Setpoint:
        try:
            result = self._ruckig.update(self._input, self._out)
            failed = result not in (Result.Working, Result.Finished)
        except RuckigError:
            failed = True
        out, scale = self._out, self.arm.v_max
        q, v, a = scale * np.array(out.new_position), scale * np.array(out.new_velocity), scale * np.array(out.new_acceleration)
        if not failed and _finite(q):
            return Setpoint(q, self._gripper, v, a)
        if self.stopped is not None:
            raise HardwareError(f"{self.arm.name}: no jerk-limited stop from {self._setpoint}; use the arm's own stop")
        self.stop("planner")
        return self._plan()

    def _runs_into(self, setpoint: Setpoint) -> str | None:
        """What the arm, braking from here on, would get into, or further into than it already is.

        Looks at some points of the way to rest; half the tolerance is left for what lies between them.
        """
        around = self._surroundings
        if around is None:
            return None
        known = self._way_to_rest()
        if known and around.clear(*self._swept(setpoint.q)):
            self._entry = 0.0
            return None
        depth = np.maximum(0.0, -around.rooms(self._setpoint.q))
        slack = 0.1 * around.tolerance  # leaving a wall along a straight joint line may lead a little deeper first
        # Where it was switched on in danger, it may be as deep as that; what was won is not given back.
        self._entry = np.minimum(self._entry, depth + slack)
        usual = (0.6 if self._direct else 0.5) * around.tolerance
        allowed = np.maximum(np.maximum(usual, self._entry), depth + 1e-9)
        for q in [self._pose(share) for share in _SHARES] if known else [setpoint.q]:
            if (around.least(q) < -allowed).any() and (around.rooms(q) < -allowed).any():
                return around.names[int(np.argmin(around.rooms(q) + allowed))]
        return None

    def _way_to_rest(self) -> bool:
        """Plan the way that `_brake` would take from the setpoint just planned; False where Ruckig finds none."""
        self._out.pass_to_input(self._brake_input)
        return self._ruckig_offline.calculate(self._brake_input, self._brake_way) in (Result.Working, Result.Finished)

    def _swept(self, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(middle, half) of the box (J,) in which the way to rest lies. (Ruckig's own extrema are wrong for its velocity interface.)"""
        middle = 0.5 * (start + self._pose(1.0))
        return middle, np.abs(start - middle) + self._swing

    def _pose(self, share: float) -> np.ndarray:
        """On the way to rest (J,), at this share of its time."""
        way = self._brake_way
        return self.arm.v_max * np.array(way.at_time(share * way.duration)[0])

    def _braking_distance(self, v: np.ndarray, a: np.ndarray) -> np.ndarray:
        """How far each joint still travels when it brakes from v, a within its limits; never less than it will be."""
        sign = np.sign(v)
        speed, push = np.abs(v), np.maximum(0.0, a * sign)  # push: acceleration that has yet to be taken back
        lag = push / self.arm.j_max
        peak = speed + 0.5 * push * lag
        return sign * (0.5 * peak * (peak / self.arm.a_max + self._ramp_s) + lag * (speed + push * lag / 3))

    def _pursue(self) -> None:
        """Ruckig's position interface: the soonest way to rest at the target, each joint on its own (synchronised by
        time it fails now and then when the target moves every tick)."""
        # Blocked at the edge and at rest, it starts along the exact straight line, all joints in proportion: joints that
        # start one by one may first swing the end effector further out, and the arm would never get away.
        self._direct = self._blocked and self.at_rest
        if self._direct:
            self._come_to_rest()  # exactly: a rest of 1e-12 would already bend the line
        self._input.synchronization = Synchronization.Phase if self._direct else Synchronization.No
        self._blocked = False
        self._input.control_interface = ControlInterface.Position
        self._input.target_velocity = self._input.target_acceleration = [0.0] * len(self.arm.joints)

    def _brake(self) -> None:
        _to_rest(self._input)

    def _count(self, reason: str) -> None:
        self.interventions[reason] += 1
        self.events.append((self._now, reason))


def _finite(values: np.ndarray) -> bool:
    return math.isfinite(sum(values.tolist()))  # plain numbers: numpy takes five times as long for so few


def _to_rest(given: InputParameter) -> None:
    """Ruckig's velocity interface to zero: the soonest jerk-limited stop, each joint on its own."""
    given.control_interface, given.synchronization = ControlInterface.Velocity, Synchronization.No
    given.target_velocity = given.target_acceleration = [0.0] * given.degrees_of_freedom
