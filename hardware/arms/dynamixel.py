"""Koch, ViperX 300 S, WidowX 250 S and a GELLO leader: Dynamixel X servos, protocol 2.0, through the vendor's SDK.

Their bus watchdog is switched on: a follower's servos stop by themselves when nobody has spoken for two seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any

import numpy as np

from hardware.arms import Family
from hardware.arms.model import ArmModel, limits, own
from hardware.arms.servo_bus import Answer, Register, Servo, ServoBusArm, centred
from hardware.calibration import Calibration
from hardware.types import ArmSpec, HardwareError

XL430, XL330, XL330_LEADER, XM430, XM540, XC430 = 1060, 1200, 1190, 1020, 1120, 1070
_TORQUE, _ERROR, _WATCHDOG, _TICK, _SPEED, _POSITION = 64, 70, 98, 120, 128, 132
_END = _POSITION + 4
_ALERT = 0x80  # in a reply's error byte: look at register 70
_ERRORS = {1: "input voltage", 4: "overheating", 8: "encoder", 16: "electrical shock", 32: "overload"}
_WATCHDOG_S, _TRIPPED = 2.0, 255  # in units of 20 ms
_RAW_PER_S = 0.229 / 60 * 4096  # one unit of speed
_REBOOT_S = 5.0

# Return at once; count turns, so that no joint has a boundary; answer everything; no profile of its own.
_COMMON = (Register(9, 1, 0), Register(68, 1, 2), Register(108, 4, 0), Register(112, 4, 0))
_JOINT = (Register(11, 1, 4), *_COMMON)


def _gripper(current: int) -> tuple[Register, ...]:
    """Position with a current limit, in the servo's units: a jammed gripper must not burn."""
    return Register(11, 1, 5), *_COMMON, Register(102, 2, current)


@dataclass(frozen=True)
class _Bus:
    baud: int
    servos: tuple[Servo, ...]
    calibration: Calibration
    watchdog: bool = True


def _interbotix(name: str, strong: int, wrist: tuple[int, ...], roll: tuple[int, ...], gripper: Servo) -> _Bus:
    def shadow(servo: int, of: str, leader: int) -> Servo:
        return Servo(servo, f"{of}_shadow", (strong,), _JOINT, (Register(12, 1, leader),), shadow=True)

    joints = (
        Servo(1, "waist", (strong,), _JOINT),
        Servo(2, "shoulder", (strong,), _JOINT),
        shadow(3, "shoulder", 2),
        Servo(4, "elbow", (strong,), _JOINT),
        shadow(5, "elbow", 4),
        Servo(6, "forearm_roll", wrist, _JOINT),
        Servo(7, "wrist_angle", wrist, _JOINT),
        Servo(8, "wrist_rotate", roll, _JOINT),
    )
    return _Bus(1_000_000, (*joints, gripper), centred(name, (1, 2, 4, 6, 7, 8), 9, 1643, 3020))  # closed -0.62, open 1.49 rad


_SO = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")
_UR = ("shoulder_pan_joint", "shoulder_lift_joint", "elbow_joint", "wrist_1_joint", "wrist_2_joint", "wrist_3_joint")
_WX = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
_LEADER = (XL330, XL330_LEADER)
_UPRIGHT = "upper arm upright, forearm and gripper level and straight ahead, the jaws opening sideways"
_STRETCHED = (
    "the whole arm stretched out level and straight ahead, as a UR with all joints at 0: wrist 1 to the left of the forearm, wrist 2 "
    "hanging from it, the trigger's side to the left"
)

BUSES = {
    "koch": _Bus(
        1_000_000,
        (
            *(Servo(k, name, (XL430 if k <= 2 else XL330,), _JOINT) for k, name in enumerate(_SO, 1)),
            Servo(6, "gripper", (XL330,), _gripper(500)),  # mA; stall 1470
        ),
        centred("koch", (1, 2, 3, 4, 5), 6, 1948, 2800),
    ),
    "vx300s": _interbotix("vx300s", XM540, (XM540,), (XM430,), Servo(9, "gripper", (XM430,), _gripper(300))),  # 2.69 mA; stall 2300 mA
    # The WidowX's gripper servo measures no current: two fifths of full voltage instead.
    "wx250s": _interbotix("wx250s", XM430, (XM430,), (XL430, XM430), Servo(9, "gripper", (XL430, XC430), (*_JOINT, Register(100, 2, 354)))),
    "gello": _Bus(
        57_600,
        (*(Servo(k, name, _LEADER, _JOINT) for k, name in enumerate(_UR, 1)), Servo(7, "gripper", _LEADER, _gripper(200))),
        centred("gello", (1, 2, 3, 4, 5, 6), 7, 1900, 2400),
        watchdog=False,  # at 57600 baud its register would cost a third of the rate; a leader is limp
    ),
}


class DynamixelArm(ServoBusArm):
    """Servos that count their turns; each carries a millisecond counter, by which a measurement is known to be fresh."""

    extra, persistent, table, torque = "dynamixel", _TORQUE, 116, _TORQUE
    goal, counts_turns = Register(116, 4, 0), True

    def __init__(self, model: ArmModel, port: str, calibration: Calibration, bus: _Bus) -> None:
        super().__init__(model, port, calibration, bus.servos)
        self.baud, self._has_watchdog = bus.baud, bus.watchdog
        self._start = _WATCHDOG if bus.watchdog else _TICK  # of one question, which ends with the position
        self._sdk: Any = None
        self._protocol: Any = None
        self._ticks: np.ndarray | None = None

    def _open(self) -> None:
        try:
            import dynamixel_sdk
        except ImportError as error:
            raise HardwareError(f"{self.spec.name}: the servos' SDK is not installed; pip install 'robolearn[{self.extra}]'") from error
        self._sdk, self._device = dynamixel_sdk, dynamixel_sdk.PortHandler(self.port)
        self._device.setBaudRate(self.baud)
        self._protocol, self._ticks = dynamixel_sdk.PacketHandler(2.0), None

    def _ping(self, servo: int) -> int | None:
        model, result, _ = self._protocol.ping(self._device, servo)
        return model if result == self._sdk.COMM_SUCCESS else None

    def _load(self, servo: int, address: int, size: int) -> bytes | None:
        """Not the SDK's readTxRx: it takes a packet of any length for the answer."""
        if self._protocol.readTx(self._device, servo, address, size) != self._sdk.COMM_SUCCESS:
            return None
        return next((answer.data for sender, answer in self._answers() if sender == servo and len(answer.data) == size), None)

    def _answers(self) -> Iterator[tuple[int, Answer]]:
        """Valid packets and their senders, until the SDK's timeout."""
        while True:
            packet, result = self._protocol.rxPacket(self._device, False)
            if result == self._sdk.COMM_SUCCESS:
                yield packet[4], Answer(packet[8], bytes(packet[9 : 5 + int.from_bytes(packet[5:7], "little")]))
            elif self._device.isPacketTimeout():
                return

    def _store(self, servo: int, register: Register) -> bool:
        result, error = self._protocol.writeTxRx(self._device, servo, register.address, register.size, register.data)
        if refusal := error & ~_ALERT:
            reason = self._protocol.getRxPacketError(refusal).removeprefix("[RxPacketError] ")
            raise HardwareError(f"{self.spec.name}: {self._names[servo]} refuses register {register.address} = {register.value}: {reason}")
        return result == self._sdk.COMM_SUCCESS

    def _ask(self, longer: int) -> dict[int, Answer]:
        """Packet by packet: the SDK's own GroupSyncRead gives up at the first servo missing, and drops the error byte."""
        size, ids = _END - self._start + longer, list(self._names)
        if self._protocol.syncReadTx(self._device, self._start, size, ids, len(ids), False) != self._sdk.COMM_SUCCESS:
            return {}
        answers: dict[int, Answer] = {}
        for sender, answer in self._answers():
            if sender in self._names and len(answer.data) == size:
                answers[sender] = answer
            if len(answers) == len(ids):
                break
        return {servo: answers[servo] for servo in ids if servo in answers}

    def _send(self, goals: Mapping[int, int]) -> None:
        writer = self._sdk.GroupSyncWrite(self._device, self._protocol, self.goal.address, self.goal.size)
        for servo, goal in goals.items():
            writer.addParam(servo, self.goal._replace(value=goal).data)
        if writer.txPacket() != self._sdk.COMM_SUCCESS:
            raise HardwareError(f"{self.spec.name}: {self.port}: the setpoint was not sent")

    def _decode(self, answer: Answer) -> tuple[int, float]:
        return self._integer(answer, _POSITION), self._integer(answer, _SPEED) * _RAW_PER_S

    def _integer(self, answer: Answer, address: int, size: int = 4) -> int:
        place = address - self._start
        return int.from_bytes(answer.data[place : place + size], "little", signed=True)

    def _judge(self, answers: Mapping[int, Answer]) -> str | None:
        for servo, answer in answers.items():
            if answer.error & _ALERT:
                cause = self._load(servo, _ERROR, 1)
                return f"{self._names[servo]}: {'hardware error, cause not read' if cause is None else _names(cause[0])}"
        if not self._has_watchdog or self.is_limp:
            return None
        for servo, answer in answers.items():
            left = answer.data[_WATCHDOG - self._start]
            if left == _TRIPPED:
                return f"{self._names[servo]}: stopped by its bus watchdog: nobody spoke for {_WATCHDOG_S:g} s"
            if left == 0:
                return f"{self._names[servo]}: restarted: it lost power"
        return None

    def _is_fresh(self, answers: Mapping[int, Answer]) -> bool:
        ticks = np.array([self._integer(answer, _TICK, 2) for answer in answers.values()])
        if self._ticks is not None and (ticks == self._ticks).any():
            return False
        self._ticks = ticks
        return True

    def _wake(self, servo: Servo) -> None:
        """A servo that shut down moves again only after a reboot; one whose watchdog tripped takes goals once that is cleared."""
        if self._error(servo):
            self._protocol.reboot(self._device, servo.id)
            deadline = monotonic() + _REBOOT_S
            sleep(0.3)
            while self._ping(servo.id) is None and monotonic() < deadline:
                self._settle()
            if error := self._error(servo):
                raise HardwareError(f"{self.spec.name}: {self.port}: {servo}: {_names(error)}; let it cool, check its supply and load")
        self._surely(servo, Register(_WATCHDOG, 1, 0))

    def _error(self, servo: Servo) -> int:
        return Register(_ERROR, 1, 0).of(self._table(servo))

    def _watch(self, on: bool) -> None:
        for servo in self.servos if self._has_watchdog else ():
            self._surely(servo, Register(_WATCHDOG, 1, round(_WATCHDOG_S / 0.02) if on else 0))

    def _lock(self, servo: Servo, on: bool) -> None:
        """Switching torque off is all the unlocking they need."""


def _names(error: int) -> str:
    names = [name for bit, name in _ERRORS.items() if error & bit]
    return f"{', '.join(names) or 'unknown'} (hardware error {error})"


# Ranges of the published models. Speeds are half of those without load in Robotis' manuals, since a loaded servo is slower:
# XL430 6.4 rad/s, XL330-M288 10.8, XM430 4.8, XM540 3.1; stall torques 1.4, 0.52, 4.1, 10.6 N m, twice that where two servos turn
# a joint. Accelerations are not published: these need a third of the stall torque, gravity borne.
def _model(
    name: str, joints: tuple[str, ...], torque: tuple[float, ...], rate_hz: float, elbow: str, open_m: float, **bounds: object
) -> ArmModel:
    spec = ArmSpec(name, joints, "rad", **limits(**bounds), rate_hz=rate_hz)
    return ArmModel(spec, own(name), (elbow,), torque, open_m, zero=_STRETCHED if name == "gello" else _UPRIGHT)


_MODELS = (
    _model(
        "koch",
        _SO,
        (1.4, 1.4, 0.52, 0.52, 0.52),
        100.0,
        "lower_arm",
        0.07,
        q_min=[-2.2, -1.9, -1.45, -1.8, -3.1],
        q_max=[2.2, 1.57, 1.57, 1.8, 3.1],
        v_max=[3.2, 3.2, 3.2, 5.4, 5.4],
        a_max=[12] * 5,
        j_max=[120] * 5,
        home=[0, 0, 0, 1.2, 0],
    ),
    _model(
        "vx300s",
        _WX,
        (10.6, 21.2, 21.2, 10.6, 10.6, 4.1),
        50.0,
        "upper_forearm_link",
        0.084,
        q_min=[-3.1, -1.85, -1.76, -3.1, -1.86, -3.1],
        q_max=[3.1, 1.25, 1.6, 3.1, 2.23, 3.1],
        v_max=[1.5, 1.5, 1.5, 1.5, 1.5, 2.4],
        a_max=[6] * 6,
        j_max=[60] * 6,
        home=[0, -0.96, 1.16, 0, -0.3, 0],
    ),
    _model(
        "wx250s",
        _WX,
        (4.1, 8.2, 8.2, 4.1, 4.1, 1.4),
        50.0,
        "upper_forearm_link",
        0.074,
        q_min=[-3.1, -1.88, -2.14, -3.1, -1.74, -3.1],
        q_max=[3.1, 1.98, 1.6, 3.1, 2.14, 3.1],
        v_max=[2.4] * 5 + [3.2],
        a_max=[8] * 6,
        j_max=[80] * 6,
        home=[0, -0.96, 1.16, 0, -0.3, 0],
    ),
    _model(
        "gello",
        _UR,
        (0.52,) * 6,
        20.0,
        "forearm",
        0.04,
        q_min=[-3.14, -3.14, -2.8, -3.14, -3.14, -3.14],
        q_max=[3.14, 3.14, 2.8, 3.14, 3.14, 3.14],
        v_max=[5.4] * 6,
        a_max=[12] * 6,
        j_max=[120] * 6,
        home=[0, -1.57, 1.57, -1.57, -1.57, 0],
    ),
)


def _drive(model: ArmModel, port: str, calibration: Calibration | None) -> DynamixelArm:
    bus = BUSES[model.spec.name]
    return DynamixelArm(model, port, calibration or bus.calibration, bus)


FAMILY = Family(
    models={model.spec.name: model for model in _MODELS},
    drive=_drive,
    double="hardware.doubles.dynamixel",
    address="/dev/ttyUSB0",
)
