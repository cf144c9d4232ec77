"""Koch, ViperX, WidowX and GELLO against Dynamixel servos on a pseudo-terminal, spoken to by the vendor's own SDK."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from hardware.arms import drive
from hardware.arms.dynamixel import BUSES
from hardware.doubles import launch
from hardware.doubles.dynamixel import crc
from hardware.types import HardwareError
from tests.hardware.arms.test_servo_bus import ServoBusCases, calm
from tests.waiting import until

sdk = pytest.importorskip("dynamixel_sdk", reason="robolearn[dynamixel] is not installed")


def test_a_joint_pushed_half_a_turn_from_its_middle_keeps_its_turn() -> None:
    """Else the next goal would lead once around."""
    with launch("koch") as double:
        arm = drive("koch", double.address)
        arm.connect()
        double.panel.hold = 1
        for roll in (3.0, 3.2, 3.5):
            double.place(np.array([0, 0, 0, 1.2, roll]))
            assert calm(arm).q[4] == pytest.approx(roll, abs=5e-3)
        arm.write(np.array([0, 0, 0, 1.2, 3.0]), 0.0)
        until(lambda: abs(double.panel.goal[4] - 3.0) < 5e-3)
        arm.close()


class TestKoch(ServoBusCases):
    name, sdk = "koch", "dynamixel_sdk"

    @pytest.mark.parametrize("code", [32, 1])
    def test_a_hardware_error_is_a_fault_until_its_cause_is_gone(self, code: int) -> None:
        cause = {32: "overload", 1: "input voltage"}[code]
        arm = self.connected()
        q = calm(arm).q
        self.double.panel.hold = 1
        self.double.panel.fault = code
        state = until(lambda: (s := calm(arm)).fault and s)
        assert state.fault == f"shoulder_lift (servo id 2): {cause} (hardware error {code})"
        until(lambda: not self.double.panel.powered)
        with pytest.raises(HardwareError, match=cause):
            arm.write(q + 0.1, 0.0)
        with pytest.raises(HardwareError, match=rf"shoulder_lift \(servo id 2\): {cause} .*let it cool"):
            arm.connect()
        self.double.panel.fault = 0
        until(lambda: self.tried_connect(arm))  # reboots that servo
        assert calm(arm).fault is None
        until(lambda: self.double.panel.powered)
        np.testing.assert_allclose(self.double.panel.goal.copy(), q, atol=5e-3)

    def test_a_shut_down_servo_follows_no_goal(self) -> None:
        arm = self.connected()
        q, goal = calm(arm).q, self.double.panel.goal[1]
        self.double.panel.hold = 1
        self.double.panel.fault = 32
        until(lambda: not self.double.panel.powered)
        before = self.double.panel.refused
        arm.write(q + 0.1, 0.0)  # its driver has not looked yet
        until(lambda: self.double.panel.refused > before)
        assert abs(self.double.panel.goal[1] - goal) < 0.05

    def test_the_servos_stop_when_nobody_speaks(self) -> None:
        arm = self.connected()
        q, stops = calm(arm).q, self.double.panel.watchdog
        self.double.panel.hold = 1  # on the way
        arm.write(q + 0.5, 0.0)
        until(lambda: self.double.panel.watchdog > stops)
        self.double.panel.hold = 0
        until(lambda: np.abs(self.double.panel.goal - q).max() < 0.1)
        fault = calm(arm).fault
        assert fault is not None
        assert "bus watchdog" in fault
        with pytest.raises(HardwareError, match="bus watchdog.*connect again"):
            arm.write(q, 0.0)
        arm.connect()
        arm.write(calm(arm).q + 0.05, 0.0)
        assert calm(arm).fault is None

    def test_a_closed_arm_is_not_watched(self) -> None:
        arm = self.connected()
        stops = self.double.panel.watchdog
        arm.close()
        time.sleep(2.2)
        assert self.double.panel.watchdog == stops
        assert self.double.panel.powered


def test_a_joint_crosses_the_boundary_of_a_turn() -> None:
    shift = 1800
    with launch("koch", shift=shift) as double:
        own = BUSES["koch"].calibration
        offset = tuple(zero + shift for zero in own.offset)
        shifted = replace(own, offset=offset, gripper_closed=own.gripper_closed + shift, gripper_open=own.gripper_open + shift)
        arm = drive("koch", double.address, shifted)
        start = np.array([0, 0, 0, 1.2, 0.0])
        double.panel.hold = 1  # its first setting up lets go of it
        arm.connect()
        arm.write(start, 0.5)  # before anything was read
        time.sleep(0.1)
        np.testing.assert_allclose(double.panel.goal.copy(), start, atol=5e-3)
        double.panel.hold = 0
        np.testing.assert_allclose(calm(arm).q, start, atol=5e-3)
        for target in (-1.5, 1.5):
            first = calm(arm).q[0]
            seen = []
            for k in range(1, 41):
                arm.write(np.array([first + (target - first) * k / 40, 0, 0, 1.2, 0]), 0.5)
                seen.append(calm(arm).q[0])
                time.sleep(0.01)
            assert np.abs(np.diff(seen)).max() < 1.0, "went round"
            until(lambda target=target: abs(calm(arm).q[0] - target) < 0.02)
            np.testing.assert_allclose(double.panel.q[0], target, atol=0.02)
        arm.close()


@pytest.mark.parametrize("name", ["vx300s", "wx250s", "gello"])
def test_the_other_arms_connect_and_move(name: str) -> None:
    with launch(name) as double:
        arm = drive(name, double.address)
        arm.connect()  # for the first time: it is let go of, and falls
        double.place(arm.spec.home - 0.1)
        q = calm(arm).q
        np.testing.assert_allclose(q, arm.spec.home - 0.1, atol=0.01)
        goal = q + 0.05 * np.sign(arm.spec.home - q + 1e-9)
        for _ in range(10):
            arm.write(goal, 1.0)
            time.sleep(0.03)
        np.testing.assert_allclose(calm(arm).q, goal, atol=0.01)
        until(lambda: calm(arm).gripper > 0.5)
        arm.close()


def test_a_gripper_that_measures_no_current_is_borne_too() -> None:
    with launch("wx250s") as double:
        arm = drive("wx250s", double.address)
        arm.connect()
        double.panel.jam = 1
        q, ends = calm(arm).q, time.monotonic() + 1.5
        while time.monotonic() < ends:
            arm.write(q, 1.0)
            assert calm(arm).fault is None
            time.sleep(0.02)
        arm.close()


def test_another_arm_on_the_bus_is_named() -> None:
    with launch("wx250s") as double, pytest.raises(HardwareError, match=r"waist \(servo id 1\) is of model 1020, expected 1120; shoulder"):
        drive("vx300s", double.address).connect()


def test_a_shadow_that_follows_nobody_is_refused() -> None:
    with (
        launch("wx250s", secondary=False) as double,
        pytest.raises(HardwareError, match=r"shoulder_shadow \(servo id 3\): register 12 holds 255, expected 2"),
    ):
        drive("wx250s", double.address).connect()


def test_the_checksum_is_robotis() -> None:
    """Their manual's example: a ping of servo 1."""
    assert crc(bytes.fromhex("fffffd0001030001")).to_bytes(2, "little") == bytes.fromhex("194e")
