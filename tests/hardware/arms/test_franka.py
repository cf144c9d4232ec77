"""The Franka driver through pylibfranka, against a controller that speaks FCI over TCP and UDP."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("pylibfranka")

from hardware import arms
from hardware.arms.franka import Franka
from hardware.clock import WallClock
from hardware.doubles import Double, launch
from hardware.testing import ArmContract
from hardware.types import Arm, ArmState, Clock, HardwareError
from tests.waiting import until

SDK_TIMEOUT_S = 1.5  # libfranka waits for a state for a second; a lost connection it sees at the next target, unless it is waiting
REFLEX, COMMUNICATION = 7, 26  # numbers of error flags, from 1
FAULTS = ("mute", "corrupt", "lose", "delay_s", "freeze", "cut", "estop", "fault", "jam", "push", "hold")


PROGRAM = """
import sys, time, numpy as np
from hardware import arms
arm = arms.drive("fr3", sys.argv[1])
arm.connect()
arm.write(arm.read().q + np.array([0.8, 0, 0, 0, 0, 0, 0]), 0.0)
print("moving", flush=True)
time.sleep(60)
"""


def clear(double: Double) -> None:
    for fault in FAULTS:
        setattr(double.panel, fault, 0)


def drive(arm: Arm, goal: np.ndarray, double: Double) -> None:
    """Small steps to goal, then until the arm is there."""
    start = arm.read().q
    for k in range(25):
        arm.write(start + (k + 1) / 25 * (goal - start), 0.0)
        time.sleep(0.02)
    until(lambda: bool(np.abs(double.panel.q - goal).max() < 0.02))


def raises(arm: Arm, reads: int) -> str:
    for _ in range(reads):
        try:
            arm.read()
        except HardwareError as error:
            return str(error)
    raise AssertionError(f"{reads} reads without an error")


def fault(arm: Arm) -> ArmState:
    until(lambda: arm.read().fault is not None)
    return arm.read()


class TestFr3(ArmContract):
    double: Double
    arm: Arm | None = None

    @classmethod
    def setup_class(cls) -> None:
        cls.double = launch("fr3", rate_hz=500.0)

    @classmethod
    def teardown_class(cls) -> None:
        cls.double.close()

    def make(self) -> tuple[Arm, Clock]:
        self.arm = arms.drive("fr3", self.double.address)
        return self.arm, WallClock()

    def finish(self) -> None:
        if self.arm is not None:
            self.arm.close()
        clear(self.double)

    def test_a_jammed_gripper_shows_and_delays_nothing(self) -> None:
        arm, _ = self._connected()
        self.double.panel.jam = 1
        state, start = arm.read(), self.double.panel.gripper
        for _ in range(25):
            arm.write(state.q, 0.0 if start > 0.5 else 1.0)
            before = state.seq
            time.sleep(0.02)
            state = arm.read()
            assert state.seq > before
        assert abs(state.gripper - start) < 0.1


class TestFaults:
    double: Double
    arm: Arm

    @classmethod
    def setup_class(cls) -> None:
        cls.double = launch("fr3", rate_hz=500.0, hand=False)

    @classmethod
    def teardown_class(cls) -> None:
        cls.double.close()

    def setup_method(self) -> None:
        clear(self.double)
        self.arm = arms.drive("fr3", self.double.address)
        self.arm.connect()

    def teardown_method(self) -> None:
        self.arm.close()

    def test_a_corrupt_state_raises_once_and_is_not_used(self) -> None:
        self.arm.read()
        self.double.panel.corrupt = 1
        until(lambda: self.double.panel.corrupt == 0)
        time.sleep(0.1)
        assert "corrupt robot state" in raises(self.arm, 1)
        before = self.arm.read()
        until(lambda: self.arm.read().seq > before.seq)
        np.testing.assert_allclose(self.arm.read().q, self.double.panel.q, atol=0.01)

    def test_lost_states_are_missed_by_nobody(self) -> None:
        before = self.arm.read()
        self.double.panel.lose = 20
        until(lambda: self.double.panel.lose == 0)
        until(lambda: self.arm.read().seq > before.seq)

    def test_a_late_state_is_known_to_be_old(self) -> None:
        assert time.monotonic() - self.arm.read().time < 0.15
        self.double.panel.delay_s = 0.4
        until(lambda: 0.3 < time.monotonic() - self.arm.read().time < 1.0)
        self.double.panel.delay_s = 0.0
        until(lambda: time.monotonic() - self.arm.read().time < 0.15)

    def test_a_frozen_measurement_keeps_its_number(self) -> None:
        self.double.panel.freeze = 1
        time.sleep(0.2)
        assert len({self.arm.read().seq for _ in range(10)}) == 1
        self.double.panel.freeze = 0
        frozen = self.arm.read().seq
        until(lambda: self.arm.read().seq > frozen)

    def test_a_controller_frozen_for_long_is_an_error_and_no_hang(self) -> None:
        self.double.panel.freeze = 1
        messages: list[str] = []

        def dead() -> bool:
            try:
                self.arm.read()
            except HardwareError as error:
                messages.append(str(error))
            return bool(messages)

        until(dead)
        assert "frozen" in messages[0]
        clear(self.double)
        self.arm.connect()
        assert self.arm.read().fault is None

    def test_a_mute_controller_is_named(self) -> None:
        self.double.panel.mute = 1
        time.sleep(SDK_TIMEOUT_S)
        assert self.double.address.partition(",")[0] in raises(self.arm, 200)

    def test_a_cut_connection_is_an_error_and_can_be_made_again(self) -> None:
        self.double.panel.cut = 1
        time.sleep(SDK_TIMEOUT_S)
        assert self.double.address.partition(",")[0] in raises(self.arm, 3)
        with pytest.raises(HardwareError, match="fr3"):
            self.arm.connect()
        clear(self.double)
        time.sleep(0.2)
        self.arm.connect()
        assert self.arm.read().fault is None
        drive(self.arm, self.arm.read().q + 0.05, self.double)

    def test_a_reflex_is_named_and_ends_all_motion_until_connected_again(self) -> None:
        self.double.panel.fault = REFLEX
        state = fault(self.arm)
        assert state.fault == "reflex: joint_reflex"
        before = self.double.panel.q.copy()
        for _ in range(10):
            self.arm.write(before + 0.1, 0.0)
            time.sleep(0.02)
        np.testing.assert_allclose(self.double.panel.q, before, atol=0.01)
        self.double.panel.fault = 0
        assert self.arm.read().fault is not None
        self.arm.connect()
        assert self.arm.read().fault is None

    def test_error_flags_are_named_as_franka_names_them(self) -> None:
        self.double.panel.fault = COMMUNICATION
        assert fault(self.arm).fault == "reflex: communication_constraints_violation"

    def test_a_target_out_of_range_is_the_controllers_to_refuse(self) -> None:
        self.arm.write(np.full(7, 5.0), 0.0)
        assert fault(self.arm).fault == "reflex: joint_motion_generator_position_limits_violation"
        assert np.abs(self.double.panel.dq).max() < 0.5

    def test_a_user_stop_is_said_and_has_to_be_released(self) -> None:
        self.double.panel.estop = 1
        assert fault(self.arm).fault == "user stop pressed"
        with pytest.raises(HardwareError, match="release the external activation device"):
            self.arm.connect()
        self.double.panel.estop = 0
        time.sleep(0.1)
        self.arm.connect()
        assert self.arm.read().fault is None

    def test_nan_never_reaches_the_sdk(self) -> None:
        before = self.double.panel.refused
        for wrong in (np.full(7, np.nan), np.zeros(6)):
            with pytest.raises(HardwareError, match="expected 7 finite joints"):
                self.arm.write(wrong, 0.5)
        with pytest.raises(HardwareError, match="gripper nan"):
            self.arm.write(self.arm.read().q, float("nan"))
        assert self.double.panel.refused == before

    def test_a_halt_is_felt_at_once_and_lasts(self) -> None:
        self.arm.halt()
        with pytest.raises(HardwareError, match="halted; connect again"):
            self.arm.write(self.arm.read().q, 0.0)
        assert self.arm.read().fault is None

    def test_writes_are_fast_while_the_controller_is_mute(self) -> None:
        q = self.arm.read().q
        self.double.panel.mute = 1
        began = time.monotonic()
        for _ in range(20):
            self.arm.write(q, 0.0)
        assert time.monotonic() - began < 0.5  # the SDK itself would have blocked for a second

    def test_the_arm_stops_by_itself_when_nobody_speaks_to_it(self) -> None:
        assert isinstance(self.arm, Franka)
        link = self.arm._arm
        assert link is not None
        before = self.double.panel.watchdog
        self._far(self.arm)
        os.kill(link.pid, signal.SIGKILL)
        until(lambda: self.double.panel.watchdog == before + 1)
        self._still()
        assert self.double.address.partition(",")[0] in raises(self.arm, 3)

    def test_the_arm_stops_when_its_driver_is_killed(self) -> None:
        self.arm.close()
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, self.double.address], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline()
        process.kill()
        process.wait()
        process.stdout.close()
        self._still()
        self.arm.connect()

    def _far(self, arm: Arm) -> None:
        """On its way for a second."""
        arm.write(arm.read().q + np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.5]), 0.0)

    def _still(self) -> None:
        def moved() -> bool:
            before = self.double.panel.q.copy()
            time.sleep(0.1)
            return bool(np.abs(self.double.panel.q - before).max() > 1e-3)

        until(lambda: not moved())

    def test_a_killed_controller_is_an_error_and_no_hang(self) -> None:
        """The last one: it leaves no controller."""
        self.double.kill()
        time.sleep(SDK_TIMEOUT_S)
        raises(self.arm, 3)
        self.arm.close()
        with pytest.raises(HardwareError, match="fr3"):
            self.arm.connect()


def test_two_arms_have_addresses_of_their_own() -> None:
    with launch("fr3", hand=False) as one, launch("fr3") as other:
        assert one.address.partition(",")[0] != other.address.partition(",")[0]


def test_a_wrong_address_is_one_line() -> None:
    arm = arms.drive("fr3", "127.0.0.254,gripper=none")
    with pytest.raises(HardwareError, match="Connection to FCI refused") as raised:
        arm.connect()
    assert "\n" not in str(raised.value)
    with pytest.raises(HardwareError, match="valid: gripper=none"):
        arms.drive("fr3", "127.0.0.254,hand")
    with pytest.raises(HardwareError, match="not connected"):
        arm.read()


def test_without_the_sdk_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pylibfranka", None)
    with pytest.raises(HardwareError, match=r"pip install 'robolearn\[franka\]'"):
        arms.drive("fr3", "127.0.0.254").connect()
