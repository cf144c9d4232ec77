"""UFACTORY arms: the driver, the vendor's own SDK, and a double of controller and gripper."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import mujoco
import numpy as np
import pytest

if find_spec("xarm") is None:  # not imported: at its first import the SDK makes a folder, which two workers do not do at once
    pytest.skip("xarm-python-sdk is not installed", allow_module_level=True)

from hardware.arms import drive, xarm
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

    name = "xarm7"
    double: Double

    @classmethod
    def setup_class(cls) -> None:
        cls.double = launch(cls.name)

    @classmethod
    def teardown_class(cls) -> None:
        cls.double.close()

    def setup_method(self) -> None:
        self.arm = drive(self.name, self.double.address)

    def teardown_method(self) -> None:
        self.arm.close()


class TestContract(WithDouble, ArmContract):
    def make(self) -> tuple[Arm, Clock]:
        return self.arm, WallClock()


class TestFaults(WithDouble):
    """Each fault on the wire or at the arm, seen through the SDK."""

    name = "xarm6"

    def setup_method(self) -> None:
        super().setup_method()
        self.panel = self.double.panel
        self.arm.connect()

    def teardown_method(self) -> None:
        for fault in ("mute", "corrupt", "lose", "delay_s", "freeze", "cut", "estop", "fault", "jam"):
            setattr(self.panel, fault, 0)
        super().teardown_method()

    def hold(self) -> str:
        return refusal(lambda: self.arm.write(self.panel.q, 0.0))

    def test_a_corrupt_reply_raises_and_the_next_good_one_counts(self) -> None:
        self.panel.corrupt = 1e9
        assert "corrupt" in until(lambda: refusal(self.arm.read))
        assert "corrupt reply" in self.hold()
        self.panel.corrupt = 0
        until(lambda: not refusal(self.arm.read))
        assert np.abs(self.arm.read().q - self.panel.q).max() < 0.01
        assert not self.hold()

    def test_a_lost_reply_raises_and_so_does_a_late_one_whose_value_is_never_used(self) -> None:
        self.panel.lose = 1
        assert "no reply" in self.hold()
        assert not self.hold()
        self.panel.delay_s = 0.5
        assert "no reply" in self.hold()
        self.panel.delay_s = 0
        until(lambda: not self.hold())
        assert not self.hold()

    def test_a_late_report_looks_as_old_as_it_is(self) -> None:
        for _ in range(20):
            self.arm.read()
        self.panel.delay_s = 0.4
        until(lambda: time.monotonic() - self.arm.read().time > 0.35)

    def test_a_frozen_report_leaves_seq_where_it_is(self) -> None:
        self.panel.freeze = 1
        time.sleep(0.1)  # what was on its way arrives
        first = self.arm.read()
        assert [self.arm.read().seq for _ in range(3)] == [first.seq] * 3
        self.panel.freeze = 0
        assert until(lambda: self.arm.read().seq > first.seq)

    def test_a_mute_joint_is_named(self) -> None:
        self.panel.mute = 3
        assert until(lambda: self.arm.read().fault) == "error 13: Servo motor 3 error"
        assert "Servo motor 3" in self.hold()
        assert "Servo motor 3" in refusal(self.arm.connect)
        self.panel.mute = 0
        self.arm.connect()

    def test_a_cut_connection_raises_within_three_reads_and_a_new_one_works(self) -> None:
        self.panel.cut = 1
        time.sleep(0.2)
        assert any("lost" in refusal(self.arm.read) for _ in range(3))
        assert "lost" in until(self.hold)
        assert "lost" in refusal(self.arm.halt)
        assert refusal(self.arm.connect)
        self.panel.cut = 0
        self.arm.connect()
        assert self.arm.read().fault is None

    def test_a_vendors_fault_has_its_code_and_words_and_stops_the_arm(self) -> None:
        self.panel.fault = 31
        assert until(lambda: self.arm.read().fault) == "error 31: Collision Caused Abnormal Current"
        writes = self.panel.writes
        assert "error 31" in refusal(lambda: self.arm.write(self.arm.read().q + 0.01, 0.0))
        assert self.panel.writes == writes
        assert self.panel.refused > 0
        self.panel.fault = 0
        self.arm.connect()
        assert self.arm.read().fault is None

    def test_a_jump_is_the_vendors_error(self) -> None:
        jump = self.arm.read().q + 0.5
        assert "error 24" in refusal(lambda: self.arm.write(jump, 0.0))
        assert until(lambda: self.arm.read().fault) == "error 24: Speed Exceeds Limit"

    def test_an_emergency_stop_has_to_be_released(self) -> None:
        self.panel.estop = 1
        assert "Emergency Stop Button" in until(lambda: self.arm.read().fault)
        assert "release it" in refusal(self.arm.connect)
        self.panel.estop = 0
        self.arm.connect()
        assert self.arm.read().fault is None
        assert not self.hold()

    def test_it_stays_at_its_last_setpoint_where_nobody_writes(self) -> None:
        goal = self.arm.read().q + 0.02
        self.arm.write(goal, 0.0)
        self.arm.close()  # as good as a dead process: the protocol knows no difference
        until(lambda: np.abs(self.panel.dq).max() < 0.01)
        assert np.abs(self.panel.q - goal).max() < 0.03

    def test_nan_never_reaches_the_controller(self) -> None:
        writes = self.panel.writes
        for wrong in (np.full(6, np.nan), np.full(6, np.inf)):
            assert "expected 6 finite joints" in refusal(lambda q=wrong: self.arm.write(q, 0.0))
        assert refusal(lambda: self.arm.write(self.panel.q, float("nan")))
        assert self.panel.writes == writes

    def test_a_jammed_gripper_shows_where_it_is(self) -> None:
        self.panel.jam = 1
        before = self.arm.read().gripper
        for _ in range(50):
            self.arm.write(self.arm.read().q, 1.0 - round(before))
        assert abs(self.arm.read().gripper - before) < 0.01

    def test_a_silent_gripper_is_a_fault(self) -> None:
        self.panel.mute = 7
        assert "gripper" in until(lambda: self.arm.read().fault) or "End Effector" in until(lambda: self.arm.read().fault)

    def test_garbage_hurts_nobody(self) -> None:
        host = self.double.address.partition(":")[0]
        for port in (xarm_control_port(self.double), 30000):
            with socket.create_connection((host, port)) as connection:
                connection.sendall(b"\x00\x01\x00\x02\x00\x03\x1d\xff\xff" + b"\xff" * 40)
        assert not self.hold()
        assert self.arm.read().fault is None


def xarm_control_port(double: Double) -> int:
    return int(double.address.partition(":")[2])


class TestOthers:
    """Models without a contract of their own, and arms that cannot be used."""

    @pytest.mark.parametrize(("name", "joints"), [("xarm5", 5), ("lite6", 6)])
    def test_it_follows(self, name: str, joints: int) -> None:
        with launch(name) as double:
            arm = drive(name, double.address)
            arm.connect()
            start = arm.read().q
            assert start.shape == (joints,)
            for k in range(100):
                arm.write(start + 0.001 * k, 0.0)
                time.sleep(0.005)
            until(lambda: np.abs(arm.read().q - start - 0.099).max() < 0.01)
            other = drive("xarm7", double.address)
            assert f"has {joints} joints" in refusal(other.connect)
            if name == "lite6":
                assert arm.read().gripper == 0.0
            double.kill()
            assert until(lambda: "lost" in (refusal(arm.read) or ""))
            assert until(lambda: refusal(arm.halt))
            arm.close()

    def test_old_firmware(self) -> None:
        with launch("xarm5", version="1.12.3") as double:
            assert "firmware 1.12.3; expected 2.1.0 or later" in refusal(drive("xarm5", double.address).connect)

    def test_nobody_there(self) -> None:
        began = time.monotonic()
        assert "expected the arm's controller" in refusal(drive("xarm7", "127.0.0.250").connect)
        assert "valid: 192.168.1.10" in refusal(lambda: drive("xarm7", "127.0.0.1,gripper=other"))
        assert time.monotonic() - began < 20.0

    def test_no_sdk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "xarm.wrapper", None)
        assert "pip install 'robolearn[xarm]'" in refusal(drive("xarm7", "127.0.0.1").connect)


@pytest.mark.parametrize(
    ("name", "zero"),  # where the maker says the tool is with all joints at 0
    [("xarm5", (0.207, 0, 0.112)), ("xarm6", (0.207, 0, 0.112)), ("lite6", (0.087, 0, 0.1542))],
)
def test_the_models_stand_where_the_maker_says_and_point_down_at_home(name: str, zero: tuple[float, ...]) -> None:
    arm = xarm.FAMILY.models[name]
    model = arm.compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    np.testing.assert_allclose(data.body("right_hand").xpos, zero, atol=0.002)
    for joint, value in zip(arm.spec.joints, arm.spec.home, strict=True):
        data.joint(joint).qpos = value
    mujoco.mj_forward(model, data)
    np.testing.assert_allclose(data.body("right_hand").xmat.reshape(3, 3)[:, 2], (0, 0, -1), atol=1e-3)
    assert data.ncon == 0
