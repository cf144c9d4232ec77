"""SO-100 and SO-101 against Feetech servos on a pseudo-terminal, spoken to by the vendor's own SDK."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from hardware.arms import drive, find
from hardware.arms.feetech import FeetechArm, calibration
from hardware.doubles import launch
from hardware.types import HardwareError
from tests.hardware.arms.test_servo_bus import ServoBusCases, calm
from tests.waiting import until

sdk = pytest.importorskip("scservo_sdk", reason="robolearn[feetech] is not installed")


class TestSo101(ServoBusCases):
    name, sdk = "so101", "scservo_sdk"

    def test_the_vendors_error_is_a_fault_and_setpoints_are_not_followed(self) -> None:
        arm = self.connected()
        q = calm(arm).q
        self.double.panel.fault = 32 + 4
        state = until(lambda: (s := calm(arm)).fault and s)
        assert state.fault == "shoulder_lift (servo id 2): overheated, overload (error 36)"
        with pytest.raises(HardwareError, match="overload"):
            arm.write(q + 0.1, 0.0)
        with pytest.raises(HardwareError, match=r"shoulder_lift \(servo id 2\): overheated, overload"):
            arm.connect()
        self.double.panel.fault = 0
        until(lambda: self.tried_connect(arm))
        assert calm(arm).fault is None
        until(lambda: abs(self.double.panel.goal[1] - self.double.panel.q[1]) < 5e-3)

    def test_a_faulty_servo_itself_refuses_goals(self) -> None:
        arm = self.connected()
        q = calm(arm).q
        before, goal = self.double.panel.refused, self.double.panel.goal[1]
        self.double.panel.fault = 1
        time.sleep(0.1)
        arm.write(q + 0.1, 0.0)  # its driver has not looked yet
        until(lambda: self.double.panel.refused > before)
        assert self.double.panel.goal[1] == goal

    def test_silence_changes_nothing_since_there_is_no_watchdog(self) -> None:
        arm = self.connected()
        goal = calm(arm).q + 0.05
        arm.write(goal, 0.0)
        time.sleep(1.0)
        np.testing.assert_allclose(calm(arm).q, goal, atol=5e-3)
        assert self.double.panel.watchdog == 0

    def test_a_range_beyond_the_turn_is_refused(self) -> None:
        """Such a servo would go the long way round."""
        off = calibration("so101")
        with pytest.raises(HardwareError, match=r"elbow_flex would go from -102 to 2102; valid: 0\.\.4095"):
            drive("so101", self.double.address, replace(off, offset=(2048, 2048, 1000, 2048, 2048)))

    def test_a_blocked_arm_is_no_frozen_one(self) -> None:
        arm = self.connected()
        state = calm(arm)
        self.double.panel.hold = 1
        seqs = []
        for k in range(1, 9):
            arm.write(state.q - 0.02 * k, state.gripper)
            seqs.append(calm(arm).seq)
        assert seqs == list(range(seqs[0], seqs[0] + 8))


def test_a_hand_may_turn_a_joint_over_the_boundary() -> None:
    """Limp, read at 4095 and then at 0: a small step, not a turn."""
    with launch("so101", shift=700) as double:
        shifted = replace(calibration("so101"), offset=(2748,) * 5)
        model = find("so101")[1]
        low, high = np.maximum(model.spec.q_min, -2.0), np.minimum(model.spec.q_max, 2.0)  # what fits into a turn of such servos
        arm = FeetechArm(replace(model, spec=replace(model.spec, q_min=low, q_max=high)), double.address, shifted)
        arm.connect()
        arm.limp()
        double.panel.hold = 1
        roll = []
        for q in (2.0, 2.06, 2.07, 2.08, 2.1):
            double.place(np.array([0, 0, 0, 0, q]))
            roll.append(calm(arm).q[4])
        np.testing.assert_allclose(roll, (2.0, 2.06, 2.07, 2.08, 2.1), atol=2e-3)
        arm.close()


def test_signs_are_in_bit_fifteen() -> None:
    """Positions below zero and speeds backwards are sign and magnitude."""
    with launch("so101", multiturn=True, limp=True) as double:
        arm = drive("so101", double.address)
        double.panel.hold = 1
        arm.connect()
        assert isinstance(arm, FeetechArm)
        arm.limp()
        double.place(np.array([0, 0, 0, 0, -3.2]))  # raw -38
        assert calm(arm).q[4] == pytest.approx(2 * np.pi - 3.2, abs=2e-3)
        answers = arm._ask(0)
        assert arm._decode(answers[5])[0] == -38
        arm.close()


def test_speeds_have_signs() -> None:
    with launch("so101", latency_s=0.001, return_delay_s=0.0002) as double:
        arm = drive("so101", double.address)
        arm.connect()
        q = calm(arm).q
        arm.write(q - 0.5, 0.0)
        until(lambda: calm(arm).dq.min() < -0.2)
        arm.close()
