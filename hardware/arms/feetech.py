"""SO-100 and SO-101: Feetech STS3215 servos at 1 Mbaud, through the vendor's SDK.

These servos have no watchdog: when nobody speaks they hold their last goal, torque on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hardware.arms import Family
from hardware.arms.model import ArmModel, limits, own
from hardware.arms.servo_bus import TURN, Answer, Register, Servo, ServoBusArm, centred
from hardware.calibration import Calibration
from hardware.types import ArmSpec, HardwareError

STS3215 = 777
_TORQUE, _LOCK = 40, 55
_START, _LENGTH = 40, 31  # one question: torque, ... goal, ... position 56, speed 58, load 60, voltage 62, ... current 69
_POSITION, _SPEED = 56 - _START, 58 - _START
_ERRORS = {1: "voltage", 2: "angle sensor", 4: "overheated", 8: "overcurrent", 16: "angle", 32: "overload"}
_OVERLOAD = 32  # stays until torque is switched off
_STIRRED = 20  # raw: a goal that moves so far moves something that is measured

# Return at once; answer everything; full turn; soft gains against shaking (LeRobot's); position mode; no profile of its own.
_COMMON = (
    Register(7, 1, 0),
    Register(8, 1, 1),
    Register(9, 2, 0),
    Register(11, 2, TURN - 1),
    Register(21, 1, 16),
    Register(22, 1, 32),
    Register(23, 1, 0),
    Register(33, 1, 0),
    Register(41, 1, 254),
    Register(44, 2, 0),
    Register(46, 2, 0),
)
_FULL = (Register(16, 2, 1000), Register(48, 2, 1000))
# A jammed gripper must not burn: half the torque, half the current, a quarter of the torque when overloaded.
_GENTLE = (Register(16, 2, 500), Register(28, 2, 250), Register(36, 1, 25), Register(48, 2, 500))

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")
ZERO = "upper arm upright, forearm and gripper level and straight ahead, the jaw opening sideways"


def servos() -> tuple[Servo, ...]:
    joints = [Servo(k, name, (STS3215,), _COMMON + _FULL) for k, name in enumerate(JOINTS, 1)]
    return (*joints, Servo(len(JOINTS) + 1, "gripper", (STS3215,), _COMMON + _GENTLE))


def calibration(name: str) -> Calibration:
    """Of an arm assembled by the book. The jaw turns from -10 to 100 degrees."""
    return centred(name, (1, 2, 3, 4, 5), 6, 1934, 3186)


class FeetechArm(ServoBusArm):
    """Single-turn servos: a goal beyond 0..4095 would send one the long way round, so a range that crosses it is refused."""

    extra, baud, persistent, table, torque = "feetech", 1_000_000, _TORQUE, 71, _TORQUE
    goal, counts_turns = Register(42, 2, 0), False

    def __init__(self, model: ArmModel, port: str, calibration: Calibration) -> None:
        super().__init__(model, port, calibration, servos())
        ends = calibration.raw(self.spec.q_min), calibration.raw(self.spec.q_max)
        for name, low, high in zip(self.spec.joints, np.minimum(*ends), np.maximum(*ends), strict=True):
            if low < 0 or high >= TURN:
                raise HardwareError(
                    f"{self.spec.name}: calibration.offset: {name} would go from {low:.0f} to {high:.0f}; valid: 0..{TURN - 1}"
                )
        self._sdk: Any = None
        self._protocol: Any = None
        self._readers: dict[int, Any] = {}
        self._goals: Mapping[int, int] = {}
        self._seen: tuple[bytes, ...] = ()
        self._goals_when_seen: Mapping[int, int] = {}

    def _open(self) -> None:
        try:
            import scservo_sdk
        except ImportError as error:
            raise HardwareError(f"{self.spec.name}: the servos' SDK is not installed; pip install 'robolearn[{self.extra}]'") from error
        if not hasattr(scservo_sdk, "sms_sts"):  # two distributions share this module name
            wrong = "this scservo_sdk is another distribution's"
            raise HardwareError(f"{self.spec.name}: {wrong}; pip install 'robolearn[{self.extra}]' (ftservo-python-sdk)")
        self._sdk, self._device = scservo_sdk, scservo_sdk.PortHandler(self.port)
        self._device.setBaudRate(self.baud)
        self._protocol, self._readers = scservo_sdk.sms_sts(self._device), {}

    def _ping(self, servo: int) -> int | None:
        model, result, _ = self._protocol.ping(servo)
        return model if result == self._sdk.COMM_SUCCESS else None

    def _load(self, servo: int, address: int, size: int) -> bytes | None:
        data, result, _ = self._protocol.readTxRx(servo, address, size)
        return bytes(data) if result == self._sdk.COMM_SUCCESS and len(data) == size else None

    def _store(self, servo: int, register: Register) -> bool:
        if register.address == self.goal.address:
            self._goals = {**self._goals, servo: register.value}
            register = register._replace(value=_encode(register.value))
        result, _ = self._protocol.writeTxRx(servo, register.address, register.size, register.data)
        return result == self._sdk.COMM_SUCCESS

    def _ask(self, longer: int) -> dict[int, Answer]:
        size = _LENGTH + longer
        if size not in self._readers:
            self._readers[size] = self._sdk.GroupSyncRead(self._protocol, _START, size)
        reader = self._readers[size]
        reader.clearParam()  # the SDK keeps old values where a reply is lost
        for servo in self._names:
            reader.addParam(servo)
        reader.txRxPacket()  # its result reports the last servo's reply only
        valid = [servo for servo in self._names if reader.isAvailable(servo, _START, size)[0]]
        return {servo: Answer(reader.data_dict[servo][0], bytes(reader.data_dict[servo][1:])) for servo in valid}

    def _send(self, goals: Mapping[int, int]) -> None:
        if beyond := [servo for servo, goal in goals.items() if not 0 <= goal < TURN]:
            found = ", ".join(f"{self._names[servo]} to {goals[servo]}" for servo in beyond)
            raise HardwareError(f"{self.spec.name}: {found}; valid: 0..{TURN - 1}, within the servo's turn")
        writer = self._sdk.GroupSyncWrite(self._protocol, self.goal.address, self.goal.size)
        for servo, goal in goals.items():
            writer.addParam(servo, self.goal._replace(value=goal).data)
        if writer.txPacket() != self._sdk.COMM_SUCCESS:
            raise HardwareError(f"{self.spec.name}: {self.port}: the setpoint was not sent")
        self._goals = goals

    def _decode(self, answer: Answer) -> tuple[int, float]:
        return _decode(answer.data, _POSITION), _decode(answer.data, _SPEED)

    def _judge(self, answers: Mapping[int, Answer]) -> str | None:
        for servo, answer in answers.items():
            if answer.error:
                return f"{self._names[servo]}: {_names(answer.error)}"
            if not answer.data[_TORQUE - _START] and not self.is_limp:
                return f"{self._names[servo]}: torque is off: it lost power, or somebody switched it off"
        return None

    def _is_fresh(self, answers: Mapping[int, Answer]) -> bool:
        """These servos count nothing. But goals that moved, and not one bit of positions, loads or currents with them: frozen."""
        seen = tuple(answer.data[_POSITION:_LENGTH] for answer in answers.values())
        if seen != self._seen:
            self._seen, self._goals_when_seen = seen, self._goals
            return True
        before = self._goals_when_seen
        return all(abs(goal - before.get(servo, goal)) < _STIRRED for servo, goal in self._goals.items())

    def _wake(self, servo: Servo) -> None:
        """Switching torque off ends an overload's protection; other errors end when their cause does."""
        self._goals, self._seen = {}, ()
        for attempt in (0, 1):
            _, result, error = self._protocol.ping(servo.id)
            if result != self._sdk.COMM_SUCCESS or not error:
                return
            if attempt or error & ~_OVERLOAD:
                raise HardwareError(f"{self.spec.name}: {self.port}: {servo}: {_names(error)}; let it cool, check its supply and load")
            self._surely(servo, Register(_TORQUE, 1, 0))

    def _watch(self, on: bool) -> None:
        """They have no watchdog."""

    def _lock(self, servo: Servo, on: bool) -> None:
        self._surely(servo, Register(_LOCK, 1, int(on)))


def _encode(value: int) -> int:
    """Sign and magnitude, bit 15: not two's complement."""
    return -value | 0x8000 if value < 0 else value


def _decode(data: bytes, place: int) -> int:
    word = int.from_bytes(data[place : place + 2], "little")
    return -(word & 0x7FFF) if word & 0x8000 else word


def _names(error: int) -> str:
    names = [name for bit, name in _ERRORS.items() if error & bit]
    return f"{', '.join(names) or 'unknown'} (error {error})"


def _model(name: str) -> ArmModel:
    # Ranges of the published URDF, centred calibration. Feetech's STS3215 at 7.4 V: 45 rpm without load, stall 1.9 N m; half
    # the speed, since a loaded servo is slower. Accelerations are not published: these need a third of the stall torque.
    spec = ArmSpec(
        name,
        JOINTS,
        "rad",
        **limits(
            q_min=[-1.91986, -1.74533, -1.69, -1.65806, -2.74385],
            q_max=[1.91986, 1.74533, 1.69, 1.65806, 2.84121],
            v_max=[0.5 * 4.7] * 5,
            a_max=[10] * 5,
            j_max=[100] * 5,
            home=[0, 0, 0, 1.2, 0],
        ),
        rate_hz=100.0,
    )
    return ArmModel(spec, own("so101"), ("lower_arm",), (1.9,) * 5, gripper_max_m=0.09, zero=ZERO)


FAMILY = Family(
    models={name: _model(name) for name in ("so100", "so101")},
    drive=lambda model, port, given: FeetechArm(model, port, given or calibration(model.spec.name)),
    double="hardware.doubles.feetech",
    address="/dev/ttyACM0",
)
