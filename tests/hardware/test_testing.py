"""The probe must see what a governor would have prevented: here nobody prevents it."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from hardware.clock import SimClock
from hardware.fake import ARM, LIMITS, FakeArm, tip
from hardware.kinematics import JointPosition
from hardware.testing import LimitProbe
from hardware.types import HardwareError

DT = 1.0 / ARM.rate_hz


def probe_at(q: np.ndarray) -> LimitProbe:
    arm = FakeArm()
    arm.place(q)
    probe = LimitProbe(arm, SimClock(arm.advance), LIMITS.workspace, JointPosition(2, position=tip), LIMITS.workspace_tolerance)
    probe.connect()
    probe.read()
    probe.forget()
    return probe


def write(probe: LimitProbe, path: np.ndarray, pause: float = 0.0) -> None:
    for q in path:
        probe.write(q, 0.0)
        probe._clock.sleep_until(probe._clock.now() + DT + pause)


def ramp(speed: float, acceleration: float, ticks: int, start: np.ndarray = ARM.home) -> np.ndarray:
    """Joint 0 accelerates evenly, but for five ticks at either end, then goes on at `speed`."""
    v = np.convolve(np.minimum(acceleration * DT * np.arange(1, ticks + 1), speed), np.full(5, 0.2))[:ticks]
    return start + np.outer(np.cumsum(v) * DT, [1.0, 0.0])


def test_motion_within_the_limits_is_no_violation() -> None:
    probe = probe_at(ARM.home)
    write(probe, ramp(1.9, 9.9, 40))
    assert probe.setpoints == 40
    assert not probe.violations


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (ramp(2.1, 9.9, 40), "velocity"),
        (ramp(1.0, 10.1, 20), "acceleration"),
        (np.array([ARM.home] * 3 + [ARM.home + [0.0, 0.0003]] * 3), "jerk"),
        (ramp(1.0, 9.9, 20)[::4], "acceleration"),
        (np.array([[np.nan, 0.0]]), "not_finite"),
        (np.array([ARM.home + [9.0, 0.0]]), "position"),
        (np.array([[0.0, 0.1]]), "workspace"),
    ],
)
def test_each_kind_of_violation_is_counted(path: np.ndarray, reason: str) -> None:
    probe = probe_at(ARM.home)
    with contextlib.suppress(HardwareError):  # the driver takes no NaN
        write(probe, path)
    assert probe.violations[reason] > 0


def test_a_jump_after_a_reset_is_seen_but_a_new_place_is_not_one() -> None:
    probe = probe_at(ARM.home)
    write(probe, ramp(1.0, 9.0, 20))
    arm = probe._arm
    assert isinstance(arm, FakeArm)
    arm.place(np.array([0.3, 1.5]))
    probe.read()
    probe.forget()
    write(probe, np.array([[0.3, 1.5]] * 3))
    assert not probe.violations
    write(probe, np.array([[0.4, 1.5]]))
    assert probe.violations["velocity"] == 1


def test_after_a_pause_the_arm_is_taken_to_stand() -> None:
    probe = probe_at(ARM.home)
    path = ramp(1.0, 9.0, 30)
    write(probe, path)
    probe._clock.sleep_until(probe._clock.now() + 0.2)
    write(probe, path[-1] + (ramp(1.0, 9.0, 30) - ARM.home))
    assert not probe.violations
    probe._clock.sleep_until(probe._clock.now() + 0.2)
    write(probe, probe._q + np.array([[0.01, 0.0]]))  # 1 m/s at once
    assert probe.violations == {"acceleration": 1, "jerk": 1}


def test_what_a_driver_did_not_take_was_not_written() -> None:
    """The loop tries the same setpoint again; the arm has not stood still for that."""
    probe = probe_at(ARM.home)
    write(probe, ramp(1.0, 9.0, 20))
    arm, following = probe._arm, ramp(1.0, 9.0, 22)[20:]
    assert isinstance(arm, FakeArm)
    arm.connected = False
    with pytest.raises(HardwareError):
        write(probe, following[:1])
    arm.connected = True
    write(probe, following)
    assert probe.setpoints == 22
    assert not probe.violations
