"""Damiao arms through python-can, against motors on a bus that a socketcand server carries."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("can")

from hardware import arms
from hardware.arms import damiao_bus
from hardware.arms import damiao_models as damiao
from hardware.clock import WallClock
from hardware.doubles import Double, launch
from hardware.testing import ArmContract
from hardware.types import Arm, Clock, HardwareError
from tests.waiting import until

FAULTS = ("mute", "corrupt", "lose", "delay_s", "freeze", "cut", "estop", "fault", "jam", "push", "hold")
UNDERVOLTAGE = 0x9
PROGRAM = """
import sys, time
from hardware import arms
arm = arms.drive("openarm", sys.argv[1])
arm.connect()
arm.write(arm.read().q, 0.0)
print("holding", flush=True)
time.sleep(60)
"""


def clear(double: Double) -> None:
    for fault in FAULTS:
        setattr(double.panel, fault, 0)


def error(arm: Arm, reads: int) -> str:
    for _ in range(reads):
        try:
            arm.read()
        except HardwareError as raised:
            return str(raised)
    raise AssertionError(f"{reads} reads without an error")


def healthy(arm: Arm) -> bool:
    try:
        return arm.read().fault is None
    except HardwareError:
        return False


class _Contract(ArmContract):
    name: str
    double: Double
    arm: Arm | None = None

    @classmethod
    def setup_class(cls) -> None:
        cls.double = launch(cls.name)

    @classmethod
    def teardown_class(cls) -> None:
        cls.double.close()

    def make(self) -> tuple[Arm, Clock]:
        self.double.place(self.double.model.spec.home)  # a closed arm is limp
        self.arm = arms.drive(self.name, self.double.address, damiao.calibration(self.name))
        return self.arm, WallClock()

    def finish(self) -> None:
        if self.arm is not None:
            self.arm.close()
        clear(self.double)


class TestOpenArm(_Contract):
    name = "openarm"


class TestYam(_Contract):
    name = "yam"


class TestFaults:
    double: Double
    arm: Arm

    @classmethod
    def setup_class(cls) -> None:
        cls.double = launch("openarm")

    @classmethod
    def teardown_class(cls) -> None:
        cls.double.close()

    def setup_method(self) -> None:
        clear(self.double)
        self.double.place(self.double.model.spec.home)
        self.arm = arms.drive("openarm", self.double.address)
        self.arm.connect()

    def teardown_method(self) -> None:
        self.arm.close()

    def test_corrupt_and_lost_answers_are_asked_for_again(self) -> None:
        for fault in ("corrupt", "lose"):
            for _ in range(3):
                setattr(self.double.panel, fault, 1)
                until(lambda fault=fault: getattr(self.double.panel, fault) == 0)
                until(lambda: healthy(self.arm))
                np.testing.assert_allclose(self.arm.read().q, self.double.panel.q, atol=0.01)

    def test_answers_that_stay_away_raise_and_are_not_made_up(self) -> None:
        self.double.panel.lose = 200
        until(lambda: not healthy(self.arm))
        self.double.panel.lose = 0
        until(lambda: healthy(self.arm))

    def test_a_late_answer_is_never_taken_for_a_new_one(self) -> None:
        start = self.arm.read().q
        self.double.panel.delay_s = 0.4
        until(lambda: not healthy(self.arm))
        goal = start.copy()
        for _ in range(60):  # it moves on, while nobody can see it
            goal[6] += 0.005
            self.arm.write(goal, 0.0)
            time.sleep(0.01)
            assert not healthy(self.arm)
        self.double.panel.delay_s = 0.0
        until(lambda: healthy(self.arm))
        np.testing.assert_allclose(self.arm.read().q, self.double.panel.q, atol=0.03)

    def test_a_mute_motor_is_named(self) -> None:
        self.double.panel.mute = 3
        until(lambda: not healthy(self.arm))
        assert "joint3 (motor 3)" in error(self.arm, 5)
        with pytest.raises(HardwareError, match=r"no answer from joint3 \(motor 3\); expected motors 1..8"):
            self.arm.connect()

    def test_a_frozen_measurement_keeps_its_number(self) -> None:
        q = self.arm.read().q
        self.double.panel.freeze = 1
        for _ in range(10):
            q = q + 0.004
            self.arm.write(q, 0.0)
            time.sleep(0.02)
        time.sleep(0.1)
        assert len({self.arm.read().seq for _ in range(10)}) == 1
        self.double.panel.freeze = 0
        frozen = self.arm.read().seq
        until(lambda: self.arm.read().seq > frozen)

    def test_a_cut_bus_is_an_error_and_can_be_opened_again(self) -> None:
        self.double.panel.cut = 1
        time.sleep(0.3)
        assert self.double.address in error(self.arm, 3)
        with pytest.raises(HardwareError, match="refused"):
            self.arm.connect()
        clear(self.double)
        time.sleep(0.2)
        self.arm.connect()
        assert self.arm.read().fault is None

    def test_an_error_of_a_motor_is_named_and_it_does_not_follow(self) -> None:
        self.double.panel.fault = UNDERVOLTAGE
        until(lambda: self.arm.read().fault is not None)
        assert self.arm.read().fault == "joint2: undervoltage (9)"
        before = self.double.panel.q[1]
        q = self.arm.read().q
        q[1] += 0.1
        for _ in range(20):
            self.arm.write(q, 0.0)
            time.sleep(0.01)
        assert abs(self.double.panel.q[1] - before) < 0.02
        assert self.double.panel.refused > 0
        with pytest.raises(HardwareError, match="joint2: undervoltage"):
            self.arm.connect()
        self.double.panel.fault = 0
        self.arm.connect()
        assert self.arm.read().fault is None

    def test_an_emergency_stop_is_felt_and_has_to_be_released(self) -> None:
        self.double.panel.estop = 1
        until(lambda: not healthy(self.arm))
        assert "joint1 (motor 1)" in error(self.arm, 5)
        assert self.double.panel.powered == 0
        with pytest.raises(HardwareError, match="emergency stop released"):
            self.arm.connect()
        self.double.panel.estop = 0
        self.arm.connect()
        until(lambda: self.double.panel.powered == 1)

    def test_motors_let_go_when_the_drivers_process_is_silent(self) -> None:
        self.arm.close()
        before = self.double.panel.watchdog
        with subprocess.Popen([sys.executable, "-c", PROGRAM, self.double.address], stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline()
                until(lambda: self.double.panel.powered == 1 or self.double.panel.watchdog > before)  # that, where this was held up
                os.kill(process.pid, signal.SIGSTOP)
                until(lambda: self.double.panel.watchdog > before)
                until(lambda: self.double.panel.powered == 0)
            finally:
                process.kill()

    def test_an_arm_that_nobody_writes_to_holds(self) -> None:
        before = self.double.panel.watchdog
        time.sleep(0.8)
        assert self.double.panel.watchdog == before
        assert self.double.panel.powered == 1
        np.testing.assert_allclose(self.arm.read().q, self.double.model.spec.home, atol=0.02)

    def test_nan_never_reaches_the_motors(self) -> None:
        for wrong in (np.full(7, np.nan), np.zeros(6)):
            with pytest.raises(HardwareError, match="expected 7 finite joints"):
                self.arm.write(wrong, 0.5)
        with pytest.raises(HardwareError, match="joint1: 13.000 rad at the motor; valid: -12.5..12.5"):
            self.arm.write(np.full(7, 13.0), 0.5)
        assert self.arm.read().fault is None

    def test_a_halted_arm_takes_nothing(self) -> None:
        self.arm.halt()
        with pytest.raises(HardwareError, match="halted; connect again"):
            self.arm.write(self.arm.read().q, 0.0)

    def test_a_closed_arm_is_limp(self) -> None:
        self.arm.close()
        until(lambda: self.double.panel.powered == 0)
        with pytest.raises(HardwareError, match="not connected"):
            self.arm.read()

    def test_a_jammed_gripper_shows(self) -> None:
        self.double.panel.jam = 1
        before = self.arm.read()
        for _ in range(20):
            self.arm.write(before.q, 1.0)
            time.sleep(0.01)
        assert abs(self.arm.read().gripper - before.gripper) < 0.05

    def test_the_bus_survives_garbage(self) -> None:
        self.arm.close()
        _, host, port = self.double.address.split(":")
        with socket.create_connection((host, int(port))) as intruder:
            intruder.sendall(b"\xff\x00<<< send >>> < send 123 9 1 2 > < send 1 8 ff >\n")
            time.sleep(0.1)
        self.arm.connect()
        assert self.arm.read().fault is None

    def test_a_motor_set_to_other_ranges_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.arm.close()  # one client at a time
        chain = damiao.CHAINS["openarm"]
        motors = (*chain.motors[:4], damiao_bus.DM4340, *chain.motors[5:])
        monkeypatch.setitem(damiao.CHAINS, "openarm", replace(chain, motors=motors))
        with pytest.raises(HardwareError, match=r"motor 5 \(DM4340\): VMAX is 30; expected 10"):
            arms.drive("openarm", self.double.address).connect()

    def test_killed_motors_are_an_error_and_no_hang(self) -> None:
        """The last one: it leaves no bus."""
        self.double.kill()
        time.sleep(0.3)
        error(self.arm, 3)
        with pytest.raises(HardwareError, match="openarm"):
            self.arm.connect()


def test_frames_are_what_damiao_says() -> None:
    """Middle of all ranges, ends, and a round trip within half a step."""
    motor = damiao_bus.DM4310
    assert damiao_bus.command(motor, -12.5, -30.0, 0.0, 0.0, -10.0) == bytes(8)
    assert damiao_bus.command(motor, 12.5, 30.0, 500.0, 5.0, 10.0) == b"\xff" * 8
    values = (1.234, -2.5, 120.0, 1.5, 0.7)
    steps = (25 / 65535, 60 / 4095, 500 / 4095, 5 / 4095, 20 / 4095)
    np.testing.assert_array_less(
        np.abs(np.array(damiao_bus.parse(motor, damiao_bus.command(motor, *values))) - values), 0.51 * np.array(steps)
    )
    seen = damiao_bus.feedback(motor, damiao_bus.answer(motor, 4, 0xB, 1.0, -2.0, 3.0))
    np.testing.assert_allclose((seen.q, seen.dq, seen.tau), (1.0, -2.0, 3.0), atol=0.01)
    assert seen.error == 0xB
    with pytest.raises(OverflowError, match=r"valid: -12.5..12.5"):
        damiao_bus.command(motor, 13.0, 0.0, 1.0, 1.0)


def test_a_gripper_without_a_fixed_zero_needs_a_calibration() -> None:
    with launch("yam") as double:
        arm = arms.drive("yam", double.address)
        arm.connect()  # it may be read, so that it can be calibrated
        with pytest.raises(HardwareError, match="no fixed zero; make one with `robolearn calibrate`"):
            arm.write(arm.read().q, 0.0)
        arm.close()
    wrong = replace(damiao.calibration("yam"), channel=(1, 2, 3, 4, 5, 9))
    with pytest.raises(HardwareError, match=r"calibration.channel: .* valid: 1..7"):
        arms.drive("yam", "socketcan:can0", wrong)


@pytest.mark.parametrize("address", ["socketcan:can99", "socketcand:127.0.0.1:1", "nonsense:can0", "can0"])
def test_a_wrong_address_is_one_line(address: str) -> None:
    with pytest.raises(HardwareError, match="an address looks like socketcan:can0") as raised:
        arms.drive("openarm", address).connect()
    assert "\n" not in str(raised.value)


def test_without_the_sdk_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "can", None)
    with pytest.raises(HardwareError, match=r"pip install 'robolearn\[can\]'"):
        arms.drive("openarm", "socketcan:can0").connect()
