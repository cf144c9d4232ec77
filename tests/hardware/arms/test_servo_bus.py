"""What every arm on a servo bus has to survive, and what the shared core refuses. Each family inherits the cases in its own file."""

from __future__ import annotations

import os
import sys
import time
import tty
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from hardware.arms import drive, find
from hardware.arms.model import TOOL
from hardware.arms.servo_bus import ServoBusArm
from hardware.calibration import Calibration
from hardware.clock import WallClock
from hardware.doubles import Double, launch
from hardware.doubles.panel import FAULTS
from hardware.testing import ArmContract
from hardware.types import Arm, ArmState, Clock, HardwareError
from tests.waiting import until


def tried(arm: Arm) -> ArmState | None:
    try:
        return arm.read()
    except HardwareError:
        return None


def calm(arm: Arm) -> ArmState:
    """A reading, asked for until a busy machine gives the double the time: for where no fault is injected."""
    return until(lambda: tried(arm))


class ServoBusCases(ArmContract):
    """The cases, and what they need: a double for all of them, a fresh driver for each."""

    name: ClassVar[str]
    sdk: ClassVar[str]
    options: ClassVar[dict[str, object]] = {}
    third = "elbow_flex"
    double: ClassVar[Double]
    drivers: ClassVar[list[Arm]]

    @classmethod
    def setup_class(cls) -> None:
        cls.double, cls.drivers = launch(cls.name, **cls.options), []

    @classmethod
    def teardown_class(cls) -> None:
        cls.double.close()

    def driver(self, address: str | None = None, calibration: Calibration | None = None) -> ServoBusArm:
        arm = drive(self.name, address or self.double.address, calibration)
        assert isinstance(arm, ServoBusArm)
        self.drivers.append(arm)
        return arm

    def make(self) -> tuple[Arm, Clock]:
        return self.driver(), WallClock()

    def finish(self) -> None:
        for fault in FAULTS:
            setattr(self.double.panel, fault, 0)
        while self.drivers:
            self.drivers.pop().close()
        until(lambda: os.path.exists(self.double.address))
        self.double.place(self.home)

    @property
    def home(self) -> np.ndarray:
        return find(self.name)[1].spec.home

    def connected(self) -> ServoBusArm:
        arm = self.driver()
        arm.connect()
        return arm

    # Connecting

    def test_connecting_moves_nothing(self) -> None:
        arm = self.connected()
        self.double.panel.hold = 1  # nothing falls in this test
        arm.limp()
        until(lambda: not self.double.panel.powered)
        elsewhere = self.home + 0.1
        self.double.place(elsewhere)  # the goals in the servos' registers are those of before
        arm.connect()
        until(lambda: self.double.panel.powered)
        np.testing.assert_allclose(self.double.panel.goal.copy(), elsewhere, atol=2e-3)
        np.testing.assert_allclose(self.double.panel.q.copy(), elsewhere, atol=1e-6)

    def test_an_arm_that_is_held_stays_held_when_connected_again(self) -> None:
        arm = self.connected()
        self.double.place(self.home)
        arm.connect()
        np.testing.assert_allclose(calm(arm).q, self.home, atol=3e-3)

    def test_a_silent_servo_is_named(self) -> None:
        arm = self.connected()
        self.double.panel.mute = 3
        with pytest.raises(HardwareError, match=rf"no valid reply from {self.third} \(servo id \d\) in 3 attempts"):
            arm.read()
        with pytest.raises(HardwareError, match=rf"no answer from {self.third} \(servo id \d\); expected servo ids 1, 2, 3"):
            arm.connect()
        with pytest.raises(HardwareError, match="not connected; connect again"):
            arm.read()
        self.double.panel.mute = 0
        arm.connect()
        assert calm(arm).fault is None

    def test_two_programs_cannot_move_one_arm(self) -> None:
        self.connected()
        with pytest.raises(HardwareError, match="lock"):
            self.driver().connect()

    @pytest.mark.parametrize("address", ["/dev/ttyNOWHERE", "/dev/null"])
    def test_a_wrong_address_is_one_line(self, address: str) -> None:
        with pytest.raises(HardwareError, match=f"{self.name}: {address}: .*/dev/ttyACM0") as error:
            self.driver(address).connect()
        assert "\n" not in str(error.value)

    def test_a_device_with_no_servos_is_one_line(self) -> None:
        master, slave = os.openpty()
        tty.setraw(slave)
        try:
            with pytest.raises(HardwareError, match="no answer from .*gripper"):
                self.driver(os.ttyname(slave)).connect()
        finally:
            os.close(master)
            os.close(slave)

    def test_an_absent_sdk_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, self.sdk, None)
        arm = self.driver()
        with pytest.raises(HardwareError, match=rf"pip install 'robolearn\[{arm.extra}\]'"):
            arm.connect()

    # Replies

    def test_a_lost_or_corrupt_reply_is_asked_for_again(self) -> None:
        arm = self.connected()
        for fault in ("lose", "corrupt"):
            setattr(self.double.panel, fault, 1)
            np.testing.assert_allclose(calm(arm).q, self.double.panel.q.copy(), atol=3e-3)
            assert getattr(self.double.panel, fault) == 0

    @pytest.mark.parametrize("fault", ["lose", "corrupt"])
    def test_what_never_comes_whole_is_never_used(self, fault: str) -> None:
        arm = self.connected()
        setattr(self.double.panel, fault, 1000)
        with pytest.raises(HardwareError, match="no valid reply from"):
            arm.read()
        setattr(self.double.panel, fault, 0)
        np.testing.assert_allclose(calm(arm).q, self.double.panel.q.copy(), atol=3e-3)

    def test_a_late_reply_is_never_taken_for_a_newer_one(self) -> None:
        arm = self.connected()
        for k in range(1, 4):
            self.double.panel.delay_s = 0.12
            with pytest.raises(HardwareError):
                arm.read()  # its answers are still on their way, with the arm as it was
            elsewhere = self.home - 0.03 * k
            self.double.place(elsewhere)
            self.double.panel.delay_s = 0
            for _ in range(5):
                np.testing.assert_allclose(calm(arm).q, elsewhere, atol=3e-3)

    def test_waiting_for_an_answer_is_sleeping(self) -> None:
        """At real-time priority a busy wait would keep the kernel from delivering what is waited for."""
        arm = self.connected()
        self.double.panel.lose = 1000
        for _ in range(20):
            began, spent = time.monotonic(), time.thread_time()
            with pytest.raises(HardwareError, match="no valid reply"):
                arm.read()
            waited, spent = time.monotonic() - began, time.thread_time() - spent
            if spent < 0.3 * waited:
                return
        pytest.fail(f"{spent:.3f} s of processor time in {waited:.3f} s")

    def test_garbage_on_the_line_harms_nobody(self) -> None:
        arm = self.connected()
        line = os.open(self.double.address, os.O_WRONLY | os.O_NOCTTY)
        noise = np.random.default_rng(0).integers(0, 256, 600, dtype=np.uint8).tobytes()
        for piece in (noise, b"\xff\xff\x01\xfa", b"\xff\xff\xfd\x00\x01\xff\x03", b"\xff" * 40):
            os.write(line, piece)
        os.close(line)
        time.sleep(0.2)  # a frame begun by noise swallows what follows it, up to its length
        np.testing.assert_allclose(calm(arm).q, self.double.panel.q.copy(), atol=3e-3)

    def test_ctrl_c_in_the_middle_of_a_reply_leaves_a_bus_that_works(self, monkeypatch: pytest.MonkeyPatch) -> None:
        arm = self.connected()

        def interrupted(length: int) -> bytes:
            raise KeyboardInterrupt

        monkeypatch.setattr(arm._device, "readPort", interrupted)
        with pytest.raises(KeyboardInterrupt):
            arm.read()
        monkeypatch.undo()
        self.double.place(self.home + 0.05)
        for _ in range(3):
            np.testing.assert_allclose(calm(arm).q, self.home + 0.05, atol=3e-3)

    def test_a_frozen_measurement_shows(self) -> None:
        arm = self.connected()
        state = calm(arm)
        self.double.panel.freeze = 1
        frozen = calm(arm).seq
        for k in range(1, 8):
            arm.write(state.q - 0.02 * k, state.gripper)
            calm(arm)
        seen = calm(arm)
        assert seen.seq <= frozen + 2
        still = seen.seq, seen.time
        for _ in range(3):
            seen = calm(arm)
        assert (seen.seq, seen.time) == still
        self.double.panel.freeze = 0
        until(lambda: calm(arm).seq > still[0])

    def test_a_standing_arm_is_fresh(self) -> None:
        arm = self.connected()
        first, states = calm(arm).seq, []
        for _ in range(5):
            time.sleep(0.01)
            states.append(calm(arm))
        assert [state.seq for state in states] == list(range(first + 1, first + 6))

    # What breaks

    def test_a_cut_cable_is_an_error_and_connecting_again_works(self) -> None:
        arm = self.connected()
        q = calm(arm).q
        self.double.panel.cut = 1
        until(lambda: not os.path.exists(self.double.address))
        for _ in range(3):
            with pytest.raises(HardwareError):
                arm.read()
        with pytest.raises(HardwareError, match="connect again"):
            arm.write(q, 0.0)
        with pytest.raises(HardwareError, match="connect again"):
            arm.halt()
        with pytest.raises(HardwareError, match="/dev/ttyACM0"):
            arm.connect()
        self.double.panel.cut = 0
        until(lambda: os.path.exists(self.double.address))
        arm.connect()
        np.testing.assert_allclose(calm(arm).q, self.double.panel.q.copy(), atol=3e-3)

    def test_a_double_that_is_killed_is_an_error(self) -> None:
        with launch(self.name) as double:
            arm = self.driver(double.address)
            arm.connect()
            q = calm(arm).q
            double.kill()
            with pytest.raises(HardwareError):
                for _ in range(3):
                    arm.read()
            with pytest.raises(HardwareError):
                for _ in range(10):
                    arm.write(q, 0.0)
            arm.close()

    def test_an_emergency_stop_cuts_the_power(self) -> None:
        arm = self.connected()
        q = calm(arm).q
        self.double.panel.hold = 1  # nothing falls in this test
        self.double.panel.estop = 1
        until(lambda: not self.double.panel.powered)
        with pytest.raises(HardwareError, match="no valid reply from"):
            arm.read()
        with pytest.raises(HardwareError, match="no answer from"):
            arm.connect()
        self.double.panel.estop = 0
        until(lambda: self.tried_connect(arm))
        assert calm(arm).fault is None
        until(lambda: self.double.panel.powered)
        np.testing.assert_allclose(self.double.panel.goal.copy(), q, atol=3e-3)

    def tried_connect(self, arm: Arm) -> bool:
        try:
            arm.connect()
        except HardwareError:
            return False
        return True

    def test_power_that_came_back_is_a_fault(self) -> None:
        """Servos that restarted are limp: what is written moves nothing."""
        arm = self.connected()
        q = calm(arm).q
        self.double.panel.hold = self.double.panel.estop = 1
        until(lambda: not self.double.panel.powered)
        self.double.panel.estop = 0
        fault = until(lambda: getattr(tried(arm), "fault", None))
        assert "power" in fault
        with pytest.raises(HardwareError, match="power.*connect again"):
            arm.write(q, 0.0)
        arm.connect()
        assert calm(arm).fault is None

    # Setpoints

    def test_nan_reaches_no_servo(self) -> None:
        arm = self.connected()
        before = self.double.panel.writes
        for q, gripper in ((self.home * np.nan, 0.0), (self.home, float("nan")), (self.home, 1.01), (self.home[:-1], 0.0)):
            with pytest.raises(HardwareError, match="setpoint"):
                arm.write(q, gripper)
        calm(arm)
        assert self.double.panel.writes == before

    def test_closing_leaves_it_held(self) -> None:
        arm = self.connected()
        arm.close()
        assert self.double.panel.powered
        with pytest.raises(HardwareError, match="not connected"):
            arm.write(self.home, 0.0)

    def test_a_limp_arm_is_read_and_takes_no_setpoint(self) -> None:
        arm = self.connected()
        arm.limp()
        until(lambda: not self.double.panel.powered)
        self.double.panel.hold = 1
        self.double.place(self.home + 0.05)
        state = calm(arm)
        np.testing.assert_allclose(state.q, self.home + 0.05, atol=3e-3)
        assert state.fault is None
        with pytest.raises(HardwareError, match="limp; connect again"):
            arm.write(state.q, 0.0)
        arm.connect()
        until(lambda: self.double.panel.powered)

    def test_a_halted_arm_takes_no_setpoint(self) -> None:
        arm = self.connected()
        arm.halt()
        with pytest.raises(HardwareError, match="halted; connect again"):
            arm.write(self.home, 0.0)

    def test_a_jammed_gripper_is_borne(self) -> None:
        """Its current is limited: it neither burns nor takes the arm down."""
        arm = self.connected()
        self.double.panel.jam = 1
        q, ends = calm(arm).q, time.monotonic() + 1.5
        while time.monotonic() < ends:
            arm.write(q, 1.0)
            assert calm(arm).fault is None
            time.sleep(0.02)
        assert calm(arm).gripper < 0.1
        self.double.panel.jam = 0
        until(lambda: calm(arm).gripper > 0.9)


@pytest.mark.parametrize("name", ["so100", "so101", "koch", "vx300s", "wx250s", "gello"])
def test_models_and_calibrations_go_together(name: str) -> None:
    """The names of the joints are the model's; nothing touches at home."""
    import mujoco

    model = find(name)[1]
    compiled = model.compile()
    assert tuple(compiled.joint(k).name for k in range(compiled.njnt)) == model.spec.joints
    low, high = compiled.jnt_range.T
    assert (low - 1e-6 <= model.spec.q_min).all()
    assert (model.spec.q_max <= high + 1e-6).all()
    data = mujoco.MjData(compiled)
    data.qpos[:] = model.spec.home
    mujoco.mj_forward(compiled, data)
    assert data.ncon == 0
    assert compiled.site(TOOL).id >= 0
    assert all(compiled.body(body).id > 0 for body in model.elbow)
    assert len(model.torque_max) == len(model.spec.joints)
    drive(name, "/dev/ttyACM0")


def test_a_calibration_of_another_arm_is_refused() -> None:
    arm = drive("koch", "/dev/ttyUSB0")
    assert isinstance(arm, ServoBusArm)
    own = arm.calibration
    with pytest.raises(HardwareError, match=r"calibration.channel: \[12\]; valid servo ids: 1, 2, 3"):
        drive("koch", "/dev/ttyUSB0", replace(own, channel=(1, 12, 3, 4, 5)))
    with pytest.raises(HardwareError, match="expected 5 joints and the gripper's servo id"):
        drive("koch", "/dev/ttyUSB0", replace(own, gripper=None))
