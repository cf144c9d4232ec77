"""The governor under everything at once: jumps, NaN, huge values, wrong shapes, wrong times, jitter, pauses, then silence.

Checked on every setpoint from the positions alone (and the planned acceleration for jerk): no limit is ever broken, and
after the last command the arm is at rest within stale_s + braking time + two ticks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.fake import ARM as PLANAR
from hardware.fake import LIMITS as PLANAR_LIMITS
from hardware.fake import tip
from hardware.governor import Governor, Limits
from hardware.kinematics import JointPosition
from hardware.types import ArmSpec, ArmState, ArraySpec, Command, Source

SEVEN = ArmSpec(
    name="seven",
    joints=tuple("abcdefg"),
    units="rad",
    q_min=np.linspace(-2.8, -0.2, 7),
    q_max=np.linspace(0.2, 2.9, 7),
    v_max=np.array([1.5, 1.5, 1.5, 1.5, 1.8, 1.8, 1.8]),
    a_max=np.array([10.0, 5.0, 7.0, 8.0, 10.0, 14.0, 14.0]),
    j_max=np.array([500.0, 200.0, 300.0, 400.0, 500.0, 600.0, 600.0]),
    home=np.linspace(-1.0, 1.0, 7),
    rate_hz=100.0,
)
PERIOD, STALE = 0.1, 0.25


@dataclass
class Run:
    """One governed arm with a servo lag and noisy measurements; everything it was told, tick by tick."""

    governor: Governor
    q: np.ndarray
    rng: np.random.Generator
    now: float = 0.0
    last: float = 0.0  # when a command was last accepted
    times: list[float] = field(default_factory=list)
    told: list[np.ndarray] = field(default_factory=list)
    v: list[np.ndarray] = field(default_factory=list)
    a: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.governor.reset(0.0, self.q, 0.0)

    def send(self, action: np.ndarray, time: float) -> None:
        alive = self.governor._alive_until
        admitted = self.governor.admit(Command(time, action, Source.POLICY), self.now)
        assert admitted.shape == (self.governor.action.dim,)
        assert admitted.dtype == np.float32
        assert np.isfinite(admitted).all()
        if self.governor._alive_until != alive:
            self.last = self.now

    def tick(self, late: float = 0.0, state: bool = True) -> None:
        arm = self.governor.arm
        noise = self.rng.normal(0, 1e-4, len(self.q))
        measured = ArmState(self.now + late, len(self.told) + 1, self.q + noise, np.zeros_like(self.q), 0.0) if state else None
        setpoint = self.governor.step(self.now + late, measured)
        self.times.append(self.now + late)
        for log, value in ((self.told, setpoint.q), (self.v, setpoint.v), (self.a, setpoint.a)):
            log.append(value)
        self.q = self.q + (setpoint.q - self.q) * 0.4
        self.now += 1.0 / arm.rate_hz

    def pause(self, seconds: float) -> None:
        self.now += seconds
        self.q = self.told[-1].copy() if self.told else self.q

    def check(self, start: np.ndarray) -> None:
        arm, dt = self.governor.arm, 1.0 / self.governor.arm.rate_hz
        told, a = np.array([start, *self.told]), np.array(self.a)
        assert np.isfinite(told).all()
        assert (told >= arm.q_min - 1e-6).all()
        assert (told <= arm.q_max + 1e-6).all()
        v = np.diff(told, axis=0) / dt
        assert (np.abs(v) <= arm.v_max * (1 + 1e-6)).all()
        assert (np.abs(np.array(self.v)) <= arm.v_max * (1 + 1e-6)).all()
        assert (np.abs(a) <= arm.a_max * (1 + 1e-6)).all()
        unbroken = np.diff(self.times) <= 3 * dt  # where nobody wrote for longer, the arm stood still in between
        assert (np.abs(np.diff(v, axis=0))[unbroken] / dt <= arm.a_max * (1 + 1e-6)).all()
        assert (np.abs(np.diff(a, axis=0))[unbroken] / dt <= arm.j_max * (1 + 1e-6)).all()

    def silence(self) -> float:
        """No more commands: until the stop has ended, seconds since the last accepted one."""
        for _ in range(150):
            self.tick()
        assert self.governor.stopped
        moving = np.flatnonzero(np.abs(np.array(self.v)).max(axis=1) > 1e-6)
        return (self.times[int(moving[-1])] if len(moving) else self.last) - self.last


def seven(seed: int) -> Run:
    rng = np.random.default_rng(seed)
    low, high = (*SEVEN.q_min.tolist(), 0.0), (*SEVEN.q_max.tolist(), 1.0)
    action = ArraySpec((*SEVEN.joints, "gripper"), ("rad",) * 7 + ("1",), low, high)
    limits = Limits(stale_s=STALE, tracking_error=np.full(7, 0.3) if seed % 2 else None, position_margin=0.01 * (seed % 3))
    return Run(Governor(SEVEN, limits, action, JointPosition(7, gripper=True), PERIOD), rng.uniform(SEVEN.q_min, SEVEN.q_max), rng)


def fuzz(run: Run) -> None:
    """A pilot gone wild, for one to two and a half seconds."""
    rng, aim = run.rng, run.q.copy()
    quiet, next_command = rng.uniform(1.0, 2.5), 0.0
    while run.now < quiet:
        if run.now >= next_command:
            next_command = run.now + PERIOD * rng.uniform(0.5, 1.5)
            aim = np.clip(aim + rng.normal(0, 0.1, 7), SEVEN.q_min, SEVEN.q_max)
            action, time, kind = np.append(aim, rng.random()), run.now, int(rng.integers(9))
            if kind == 1:
                action[:7] += rng.normal(0, 2.0, 7)
            elif kind == 2:
                action[rng.integers(8)] = rng.choice([np.nan, np.inf, -np.inf])
            elif kind == 3:
                action *= rng.choice([1e6, -1e6, 1e300])
            elif kind == 4:
                action = action[: rng.integers(8)]
            elif kind == 5:
                time -= rng.uniform(0.0, 1.0)
            elif kind == 6:
                time += rng.uniform(0.0, 1.0)
            elif kind == 7 and rng.random() < 0.3:
                run.pause(rng.uniform(0.04, 0.2))
                time = run.now
            run.send(action, time)
        run.tick(late=0.009 * rng.random() * (rng.random() < 0.2), state=rng.random() > 0.05)


def test_200_episodes_of_everything_that_can_go_wrong() -> None:
    reasons, slowest = set(), 0.0
    for seed in range(200):
        run = seven(seed)
        start = run.q.copy()
        fuzz(run)
        took = run.silence()
        run.check(start)
        assert took <= STALE + run.governor.brake_s + 2 / SEVEN.rate_hz, (seed, took)
        slowest = max(slowest, took)
        reasons |= set(run.governor.interventions)
    assert slowest > STALE  # the arm was moving when it fell silent
    assert {"not_finite", "shape", "late", "early", "reordered", "action_bounds", "velocity", "acceleration", "stale"} <= reasons
    assert "planner" not in reasons


FLOATS = st.floats(allow_nan=True, allow_infinity=True, width=32)
NEAR = st.floats(-3.0, 3.0, width=32)
COMMANDS = st.tuples(st.lists(st.one_of(NEAR, NEAR, FLOATS), min_size=0, max_size=3), st.floats(-1.0, 1.0), st.integers(0, 12))


@settings(max_examples=100)
@given(st.lists(COMMANDS, max_size=25), st.integers(0, 2**32 - 1))
def test_any_sequence_of_commands_keeps_every_limit_and_the_workspace(commands: list, seed: int) -> None:
    """On the planar arm: also the box. Each command: any numbers, any age, then any number of ticks."""
    action = ArraySpec(PLANAR.joints, ("rad",) * 2, tuple(PLANAR.q_min.tolist()), tuple(PLANAR.q_max.tolist()))
    governor = Governor(PLANAR, PLANAR_LIMITS, action, JointPosition(2, position=tip), PERIOD)
    run = Run(governor, PLANAR.home.copy(), np.random.default_rng(seed))
    for values, age, ticks in commands:
        run.send(np.array(values, dtype=np.float32), run.now - (age if abs(age) > 0.5 else 0.0))
        for _ in range(ticks):
            run.tick()
    for _ in range(60 + round(governor.brake_s * PLANAR.rate_hz)):
        run.tick()
    run.check(PLANAR.home)
    box = PLANAR_LIMITS.workspace
    assert box is not None
    assert max(box.distance(tip(q)) for q in run.told) <= PLANAR_LIMITS.workspace_tolerance
    assert governor.at_rest
