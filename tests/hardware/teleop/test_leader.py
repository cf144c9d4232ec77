"""The leader arm against an emulated STS bus on a pseudo-terminal, spoken to by the vendor's own SDK."""

import math
import os
import select
import threading
import tty

import numpy as np
import pytest

from hardware.teleop.leader import Calibration, LeaderArm, calibrate
from hardware.teleop.sts_bus import ServoBus, decode
from hardware.types import ArraySpec, HardwareError, Observation, RobotSpec, Source

sdk = pytest.importorskip("scservo_sdk", reason="robolearn[leader] is not installed")

STEP = 0.02
ACTION = ArraySpec(("dx", "dy", "dz", "gripper"), ("m", "m", "m", "1"), (-STEP, -STEP, -STEP, 0.0), (STEP, STEP, STEP, 1.0))
SPEC = RobotSpec("arm", {}, {}, ACTION, "ee_delta", 10.0)
IDS = [1, 2, 3, 4, 6]
NOW = Observation(0.0, {}, {})


class Bus(threading.Thread):
    """Servos with 256 bytes of registers each. mute, corrupt: ids that misbehave; glitches: how many replies to spoil once."""

    def __init__(self, ids=IDS):
        super().__init__(daemon=True)
        self.registers = {i: bytearray(256) for i in ids}
        self.mute, self.corrupt, self.error, self.glitches = set(), set(), {}, 0
        self.master, slave = os.openpty()
        tty.setraw(slave)
        self.slave, self.port = slave, os.ttyname(slave)
        self.done = threading.Event()
        self.asked = self.answered = 0  # bytes that the host wrote, and that were dealt with
        for i in ids:
            self.registers[i][40] = 1  # torque on, as after power-up
            self.place(i, 2048)

    def place(self, servo, raw):
        word = -raw | 0x8000 if raw < 0 else raw
        self.registers[servo][56:58] = word.to_bytes(2, "little")

    def run(self):
        pending = b""
        while not self.done.is_set():
            if not select.select([self.master], [], [], 0.01)[0]:
                continue
            received = os.read(self.master, 4096)
            pending += received
            while (start := pending.find(b"\xff\xff")) >= 0:
                pending = pending[start:]
                if len(pending) < 4 or len(pending) < pending[3] + 4:
                    break
                frame, pending = pending[: pending[3] + 4], pending[pending[3] + 4 :]
                if ~sum(frame[2:-1]) & 0xFF == frame[-1]:
                    os.write(self.master, self.answer(frame[2], frame[4], frame[5:-1]))
            self.answered += len(received)

    def answer(self, servo, instruction, parameters):
        if instruction == 0x82:
            address, count, *ids = parameters
            return b"".join(self.reply(i, bytes(self.registers[i][address : address + count])) for i in ids if i in self.registers)
        if servo not in self.registers:
            return b""
        if instruction == 3:
            self.registers[servo][parameters[0] : parameters[0] + len(parameters) - 1] = parameters[1:]
        return self.reply(servo, b"")

    def reply(self, servo, data):
        if servo in self.mute:
            return b""
        body = bytes([servo, len(data) + 2, self.error.get(servo, 0)]) + data
        check = ~sum(body) & 0xFF
        if servo in self.corrupt or (self.glitches and data):
            check ^= 0x40
            self.glitches = max(0, self.glitches - 1)
        return b"\xff\xff" + body + bytes([check])

    def close(self):
        self.done.set()
        self.join()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def bus(monkeypatch):
    emulator = Bus()
    write, timeout = sdk.PortHandler.writePort, sdk.PortHandler.isPacketTimeout

    def counted(port, packet):
        emulator.asked += len(packet)
        return write(port, packet)

    def patient(port):
        """On a busy machine the double answers later than a servo would: the SDK's clock starts when it has."""
        if emulator.answered < emulator.asked and not emulator.done.is_set():
            port.packet_start_time = port.getCurrentTime()
            return False
        return timeout(port)

    monkeypatch.setattr(sdk.PortHandler, "writePort", counted)
    monkeypatch.setattr(sdk.PortHandler, "isPacketTimeout", patient)
    emulator.start()
    yield emulator
    emulator.close()


@pytest.fixture
def leader(bus):
    with LeaderArm(SPEC, bus.port, Calibration()) as pilot:
        pilot.reset()
        yield pilot


def ticks(rad):
    return 2048 + round(rad * 4096 / (2 * math.pi))


def test_opening_makes_the_arm_limp(bus, leader):
    assert all(bus.registers[i][40] == 0 for i in IDS)


def test_positions_come_in_the_order_asked_and_signed(bus):
    reader = ServoBus(bus.port, [3, 1])
    reader.open()
    bus.place(1, 100)
    bus.place(3, -7)
    assert reader.positions() == [-7, 100]
    reader.close()
    assert decode(0x8007) == -7


def test_the_robot_repeats_the_displacement_of_the_leaders_fingertips(bus, leader):
    calibration = Calibration()
    first = leader.decide(NOW)
    assert not first.action[:3].any(), "engaging must not jump"
    assert first.source == Source.HUMAN
    q = np.array([0.4, 0.3, -0.2, 0.1])
    for servo, angle in zip((1, 2, 3, 4), q, strict=True):
        bus.place(servo, ticks(angle))
    moved = np.sum([leader.decide(NOW).action[:3] for _ in range(12)], axis=0)
    wanted = calibration.position(q) - calibration.position(np.zeros(4))
    np.testing.assert_allclose(moved, wanted, atol=1e-3)  # one tick is 1.5 mrad
    assert not leader.decide(NOW).action[:3].any(), "arrived"


def test_each_step_stays_within_the_robots_bounds_and_lag_is_forgotten(bus, leader):
    leader.decide(NOW)
    bus.place(1, ticks(math.pi / 2))  # a jerk of half a metre
    steps = [leader.decide(NOW).action[:3] for _ in range(15)]
    assert np.abs(steps).max() <= STEP + 1e-7
    assert abs(np.sum(steps, axis=0)[1]) <= 10 * STEP + 1e-6


def test_forward_kinematics_of_known_poses():
    arm = Calibration(links_m=(0.1, 0.2, 0.3), base_m=0.05)
    quarter = math.pi / 2
    np.testing.assert_allclose(arm.position(np.zeros(4)), [0.55, 0, 0.1], atol=1e-12)
    np.testing.assert_allclose(arm.position(np.array([quarter, 0, 0, 0])), [0, 0.55, 0.1], atol=1e-12)
    np.testing.assert_allclose(arm.position(np.array([0, quarter, 0, 0])), [0.15, 0, -0.5], atol=1e-12)
    np.testing.assert_allclose(arm.position(np.array([0, 0, quarter, 0])), [0.05, 0, -0.4], atol=1e-12)
    np.testing.assert_allclose(arm.position(np.array([0, 0, 0, quarter])), [0.25, 0, -0.2], atol=1e-12)


def test_angles_wrap_the_short_way_and_follow_the_signs():
    arm = Calibration(zero=(4000, 100, 2048, 2048), sign=(1, -1, 1, 1))
    np.testing.assert_allclose(arm.angles([50, 50, 2048, 3072]), np.array([146, 50, 0, 1024]) * 2 * math.pi / 4096)


def test_the_gripper_follows_the_leaders(bus, leader):
    for raw, openness in ((2048, 0.0), (2524, 0.5), (3000, 1.0), (3500, 1.0)):
        bus.place(6, raw)
        assert leader.decide(NOW).action[3] == pytest.approx(openness)


def test_a_corrupt_reply_is_asked_for_again(bus, leader):
    bus.glitches = 2
    bus.place(6, 2048)
    assert leader.decide(NOW).action[3] == 0.0


@pytest.mark.parametrize("fault", ["mute", "corrupt"])
def test_a_lost_servo_holds_then_is_named_and_old_values_are_never_used(bus, leader, fault):
    leader.decide(NOW)
    getattr(bus, fault).add(3)
    bus.place(1, ticks(0.5))
    for _ in range(3):
        assert not leader.decide(NOW).action[:3].any()
    with pytest.raises(HardwareError, match=r"no valid reply from servo id 3 in 3 attempts"):
        leader.decide(NOW)


def test_it_follows_again_after_a_short_loss(bus, leader):
    leader.decide(NOW)
    bus.mute.add(3)
    leader.decide(NOW)
    bus.mute.clear()
    bus.place(1, ticks(0.05))
    assert leader.decide(NOW).action[1] > 0


def test_a_servos_own_error_is_named(bus):
    reader = ServoBus(bus.port, IDS)
    reader.open()
    bus.error[2] = 32
    with pytest.raises(HardwareError, match="servo id 2 reports overload"):
        reader.positions()
    reader.close()


def test_a_servo_absent_at_opening_is_named(bus):
    bus.mute.add(4)
    with (
        pytest.raises(HardwareError, match=r"no answer from servo id 4; expected ids \[1, 2, 3, 4, 6\]"),
        LeaderArm(SPEC, bus.port, Calibration()),
    ):
        pass


def test_no_port_is_one_line():
    with pytest.raises(HardwareError, match=r"port /dev/ttyNOWHERE: .*/dev/ttyACM0"), LeaderArm(SPEC, "/dev/ttyNOWHERE", Calibration()):
        pass


def test_calibration_travels_through_its_file(tmp_path):
    calibration = Calibration(zero=(1, 2, 3, 4), sign=(1, -1, 1, -1), gripper_closed=10, gripper_open=20)
    calibration.save(tmp_path / "leader.json")
    assert Calibration.load(tmp_path / "leader.json") == calibration


@pytest.mark.parametrize("text", ["{", '{"zeros": [1]}', '{"sign": [1]}', "[1]"])
def test_a_wrong_calibration_file_is_one_line(tmp_path, text):
    path = tmp_path / "leader.json"
    path.write_text(text)
    with pytest.raises(HardwareError, match="calibration"):
        Calibration.load(path)
    with pytest.raises(HardwareError, match=r"absent\.json.*make one with"):
        Calibration.load(tmp_path / "absent.json")


def test_guided_calibration_finds_zeros_signs_and_gripper():
    poses = iter(
        [
            [1000, 2000, 3000, 500, 2500],
            [1300, 2000, 3000, 500, 2500],
            [1000, 1700, 3000, 500, 2500],
            [1000, 2000, 3400, 500, 2500],
            [1000, 2000, 3000, 200, 2500],
            [1000, 2000, 3000, 500, 2100],
            [1000, 2000, 3000, 500, 2900],
        ]
    )
    asked = []
    found = calibrate(lambda: next(poses), asked.append)
    assert (found.zero, found.sign) == ((1000, 2000, 3000, 500), (1, -1, 1, -1))
    assert (found.gripper_closed, found.gripper_open) == (2100, 2900)
    assert len(asked) == 7


def test_guided_calibration_refuses_a_joint_that_hardly_moved():
    with pytest.raises(HardwareError, match="shoulder_pan moved 1 degrees"):
        calibrate(iter([[2048] * 5, [2060] * 5]).__next__, lambda _: None)
