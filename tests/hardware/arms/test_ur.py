"""UR e-series: the driver, the vendor's own SDK, and a double of controller and gripper."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import mujoco
import numpy as np
import pytest

pytest.importorskip("rtde_control")

from dashboard_client import DashboardClient

from hardware.arms import drive, ur
from hardware.clock import WallClock
from hardware.doubles import Double, launch
from hardware.testing import ArmContract
from hardware.types import Arm, Clock, HardwareError
from tests.waiting import until


def refusal(call: Callable[[], Any]) -> str:
    """What call() says when it raises; "" where it does not."""
    try:
        call()
    except HardwareError as error:
        assert "\n" not in str(error)
        return str(error)
    return ""


class WithDouble:
    """One double for a class; a fresh driver for a test."""

    double: Double
    options: dict[str, object] = {}
    suffix = ""

    @classmethod
    def setup_class(cls) -> None:
        cls.double = launch("ur5e", **cls.options)

    @classmethod
    def teardown_class(cls) -> None:
        cls.double.close()

    def setup_method(self) -> None:
        self.arm = drive("ur5e", self.double.address + self.suffix)

    def teardown_method(self) -> None:
        self.arm.close()


class TestContract(WithDouble, ArmContract):
    def make(self) -> tuple[Arm, Clock]:
        return self.arm, WallClock()


class TestFaults(WithDouble):
    """Each fault on the wire or at the arm, seen through the SDK."""

    options = {"unlock_s": 0.3}

    def setup_method(self) -> None:
        super().setup_method()
        self.panel = self.double.panel
        self.arm.connect()

    def teardown_method(self) -> None:
        super().teardown_method()
        for fault in ("mute", "corrupt", "lose", "delay_s", "freeze", "cut", "estop", "fault", "jam", "push"):
            setattr(self.panel, fault, 0)

    def follow(self, seconds: float = 0.3) -> None:
        """Setpoints towards somewhere else, as long as they are taken."""
        q = self.arm.read().q
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            q = q + 0.0005
            if refusal(lambda q=q: self.arm.write(q, 0.0)):
                return
            time.sleep(0.002)

    def test_a_corrupt_measurement_raises_and_the_next_good_one_counts(self) -> None:
        self.panel.corrupt = 1e9
        assert "corrupt measurement" in until(lambda: refusal(self.arm.read))
        self.panel.corrupt = 0
        until(lambda: not refusal(self.arm.read))
        assert np.abs(self.arm.read().q - self.panel.q).max() < 0.01

    def test_lost_and_frozen_measurements_leave_seq_where_it_is(self) -> None:
        for fault, value in (("lose", 1e9), ("freeze", 1)):
            setattr(self.panel, fault, value)
            time.sleep(0.1)  # what was on its way arrives
            first = self.arm.read()
            assert [self.arm.read().seq for _ in range(3)] == [first.seq] * 3
            setattr(self.panel, fault, 0)
            assert until(lambda seq=first.seq: self.arm.read().seq > seq)

    def test_a_late_measurement_looks_as_old_as_it_is(self) -> None:
        for _ in range(20):
            self.arm.read()
        self.panel.delay_s = 0.4
        until(lambda: time.monotonic() - self.arm.read().time > 0.35)

    def test_a_mute_joint_is_named_and_nothing_moves(self) -> None:
        self.panel.mute = 3
        fault = until(lambda: self.arm.read().fault)
        assert "elbow_joint not responding" in fault
        assert "elbow_joint" in refusal(lambda: self.arm.write(self.arm.read().q, 0.0))

    def test_a_cut_connection_raises_within_three_reads_and_a_new_one_works(self) -> None:
        self.arm.write(self.arm.read().q, 0.0)
        self.panel.cut = 1
        time.sleep(0.2)
        assert any("lost" in refusal(self.arm.read) for _ in range(3))
        assert "lost" in refusal(lambda: self.arm.write(self.panel.q, 0.0))
        assert "lost" in refusal(self.arm.halt)
        until(lambda: self.panel.watchdog)  # the controller stops by itself
        assert refusal(self.arm.connect)
        self.panel.cut = 0
        self.arm.connect()
        assert self.arm.read().fault is None

    def test_a_protective_stop_is_a_fault_until_it_is_unlocked(self) -> None:
        self.panel.fault = 3
        assert until(lambda: self.arm.read().fault) == "protective stop (safety mode 3)"
        before, writes = self.arm.read().q, self.panel.writes
        self.follow()
        assert np.abs(self.arm.read().q - before).max() < 0.01
        assert self.panel.writes == writes
        self.panel.fault = 0
        self.arm.connect()
        assert self.arm.read().fault is None

    def test_a_jump_is_a_protective_stop(self) -> None:
        assert not refusal(lambda: self.arm.write(self.arm.read().q + 1.0, 0.0))
        assert "protective stop" in until(lambda: self.arm.read().fault)
        assert self.panel.refused == 1

    def test_an_emergency_stop_has_to_be_released_and_the_robot_powered_on(self) -> None:
        self.panel.estop = 1
        assert until(lambda: self.arm.read().fault) == "robot emergency stop (safety mode 7)"
        assert "release it" in refusal(self.arm.connect)
        self.panel.estop = 0
        until(lambda: "POWER_OFF" in refusal(self.arm.connect))
        dashboard = DashboardClient(self.double.address)
        dashboard.connect()
        dashboard.powerOn()
        dashboard.brakeRelease()
        dashboard.disconnect()
        self.arm.connect()
        assert self.arm.read().fault is None

    def test_silence_is_ended_by_the_controllers_watchdog(self) -> None:
        before = self.panel.watchdog
        self.arm.write(self.arm.read().q, 0.0)
        until(lambda: self.panel.watchdog == before + 1)
        assert "watchdog" in until(lambda: self.arm.read().fault)
        assert "watchdog" in refusal(lambda: self.arm.write(self.panel.q, 0.0))

    def test_nan_never_reaches_the_controller(self) -> None:
        writes = self.panel.writes
        for wrong in (np.full(6, np.nan), np.full(6, np.inf)):
            assert "expected 6 finite joints" in refusal(lambda q=wrong: self.arm.write(q, 0.0))
        assert refusal(lambda: self.arm.write(self.panel.q, float("nan")))
        time.sleep(0.02)
        assert self.panel.writes == writes

    def test_a_jammed_gripper_shows_where_it_is(self) -> None:
        self.panel.jam = 1
        before = self.arm.read().gripper
        for _ in range(100):
            self.arm.write(self.arm.read().q, 1.0 - round(before))
        assert abs(self.arm.read().gripper - before) < 0.01

    def test_a_late_gripper_delays_no_tick_and_no_answer_of_it_is_another_words(self) -> None:
        self.panel.delay_s = 0.3
        until(lambda: time.monotonic() - self.arm.read().time > 0.25)
        self.panel.delay_s = 0
        for _ in range(50):
            self.arm.write(self.panel.q, 1.0)
        until(lambda: self.arm.read().gripper > 0.9)
        assert self.arm.read().fault in (None, "control program stopped, as by its watchdog")

    def test_garbage_on_every_port_hurts_nobody(self) -> None:
        for port in (29999, 30003, 30004, 63352):
            with socket.create_connection((self.double.address, port)) as connection:
                connection.sendall(b"\x00\xff\x07GET\n\x00\x00\x00" * 20)
        self.follow(0.1)
        assert self.arm.read().fault is None


class TestNotReady:
    """A robot that cannot be used says why, in one line and in time."""

    @pytest.fixture
    def double(self, request: pytest.FixtureRequest) -> Iterator[Double]:
        with launch("ur5e", **request.param) as double:
            yield double

    @pytest.mark.parametrize(
        ("double", "why"),
        [({"remote": False}, "local control"), ({"slider": 0.5}, "speed slider at 50 %"), ({"gripper": False}, "gripper=none")],
        indirect=["double"],
    )
    def test_it_says_why(self, double: Double, why: str) -> None:
        arm = drive("ur5e", double.address)
        assert why in refusal(arm.connect)
        arm.close()
        if why == "gripper=none":
            arm, other = drive("ur5e", f"{double.address},gripper=none"), drive("ur3e", double.address)
            assert "is a UR5" in refusal(other.connect)
            arm.connect()
            arm.write(arm.read().q, 1.0)
            assert arm.read().gripper == 0.0
            double.kill()
            until(lambda: "lost" in refusal(arm.read))
            assert "lost" in refusal(arm.halt)
            arm.close()

    def test_nobody_there(self) -> None:
        began = time.monotonic()
        assert "expected the arm's controller" in refusal(drive("ur5e", "127.0.0.250").connect)
        assert "valid: 192.168.1.10" in refusal(lambda: drive("ur5e", "127.0.0.1,gripper=robotiq"))
        assert time.monotonic() - began < 20.0

    def test_no_sdk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "rtde_control", None)
        assert "pip install 'robolearn[ur]'" in refusal(drive("ur5e", "127.0.0.1").connect)


@pytest.mark.parametrize("name", ["ur3e", "ur5e", "ur10e"])
def test_the_models_reach_as_far_as_the_dh_parameters_say(name: str) -> None:
    d1, a2, a3, d4, d5, d6 = {
        "ur3e": (0.15185, -0.24355, -0.2132, 0.13105, 0.08535, 0.0921),
        "ur5e": (0.1625, -0.425, -0.3922, 0.1333, 0.0997, 0.0996),
        "ur10e": (0.1807, -0.6127, -0.57155, 0.17415, 0.11985, 0.11655),
    }[name]
    arm = ur.FAMILY.models[name]
    model = arm.compile()
    data = mujoco.MjData(model)
    for q in (arm.spec.home, np.array([0.3, -1.0, 1.2, 0.7, -0.4, 2.0])):
        expected = np.diag([-1.0, -1.0, 1.0, 1.0])
        lengths = zip(q, (d1, 0, 0, d4, d5, d6), (0, a2, a3, 0, 0, 0), (1, 0, 0, 1, -1, 0), strict=True)
        for angle, d, a, twist in lengths:
            c, s, ca, sa = np.cos(angle), np.sin(angle), 1 - abs(twist), twist
            expected = expected @ np.array([[c, -s * ca, s * sa, a * c], [s, c * ca, -c * sa, a * s], [0, sa, ca, d], [0, 0, 0, 1]])
        for joint, value in zip(arm.spec.joints, q, strict=True):
            data.joint(joint).qpos = value
        mujoco.mj_forward(model, data)
        np.testing.assert_allclose(data.body("right_hand").xpos, expected[:3, 3], atol=0.003)
