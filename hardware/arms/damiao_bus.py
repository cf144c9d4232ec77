"""Damiao motors on a CAN bus: their frames in MIT mode, and questions whose answers cannot be mistaken for older ones."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from hardware.types import HardwareError

ENABLE, DISABLE, ZERO, CLEAR = (bytes([0xFF] * 7 + [last]) for last in (0xFC, 0xFD, 0xFE, 0xFB))
REGISTERS = 0x7FF  # CAN id of questions about registers
READ, WRITE = 0x33, 0x55
TIMEOUT, MODE, P_MAX, V_MAX, T_MAX = 9, 10, 21, 22, 23  # registers
MIT_MODE = 1
REPLY = 0x10  # a motor answers under its own id plus this
KP_MAX, KD_MAX = 500.0, 5.0
DISABLED, ENABLED = 0, 1
ERRORS = {
    0x8: "overvoltage",
    0x9: "undervoltage",
    0xA: "overcurrent",
    0xB: "MOS overheated",
    0xC: "coil overheated",
    0xD: "communication lost",
    0xE: "overload",
}
REPLY_S = 0.025  # to answer
ATTEMPTS = 3
_FENCES = 36  # registers that may be asked for as a fence; any would do


@dataclass(frozen=True)
class Motor:
    """A motor's type: the ranges that its frames span, which are registers of it and may be set otherwise."""

    name: str
    q_max: float  # rad
    dq_max: float  # rad/s
    tau_max: float  # N m


# Factory ranges, as Enactic (openarm_can) and I2RT (i2rt) publish them.
DM4310 = Motor("DM4310", 12.5, 30.0, 10.0)
DM4340 = Motor("DM4340", 12.5, 10.0, 28.0)
DM8009 = Motor("DM8009", 12.5, 45.0, 54.0)


def _quantised(value: float, low: float, high: float, bits: int) -> int:
    return round((value - low) / (high - low) * ((1 << bits) - 1))


def _value(quantised: int, low: float, high: float, bits: int) -> float:
    return low + quantised / ((1 << bits) - 1) * (high - low)


def command(motor: Motor, q: float, dq: float, kp: float, kd: float, tau: float = 0.0) -> bytes:
    """torque = kp (q - measured) + kd (dq - measured) + tau. [rad], [rad/s], [N m/rad], [N m s/rad], [N m]; OverflowError if none fits."""
    fields = ((q, motor.q_max, 16), (dq, motor.dq_max, 12), (kp, KP_MAX, 12), (kd, KD_MAX, 12), (tau, motor.tau_max, 12))
    word = 0
    for place, (value, high, bits) in enumerate(fields):
        low = 0.0 if place in (2, 3) else -high
        if not low <= value <= high:
            raise OverflowError(f"{value:g}; valid: {low:g}..{high:g}")
        word = word << bits | _quantised(value, low, high, bits)
    return word.to_bytes(8, "big")


def parse(motor: Motor, data: bytes) -> tuple[float, float, float, float, float]:
    """(q, dq, kp, kd, tau) of a command: what a motor does with it."""
    word, values = int.from_bytes(data, "big"), []
    for shift, high, low, bits in (
        (48, motor.q_max, -motor.q_max, 16),
        (36, motor.dq_max, -motor.dq_max, 12),
        (24, KP_MAX, 0.0, 12),
        (12, KD_MAX, 0.0, 12),
        (0, motor.tau_max, -motor.tau_max, 12),
    ):
        values.append(_value(word >> shift & (1 << bits) - 1, low, high, bits))
    return values[0], values[1], values[2], values[3], values[4]


@dataclass(frozen=True)
class Feedback:
    """A motor's answer: `error` is DISABLED, ENABLED, or one of ERRORS; `data` the eight bytes as they came."""

    q: float  # rad
    dq: float  # rad/s
    tau: float  # N m
    error: int
    data: bytes


def feedback(motor: Motor, data: bytes) -> Feedback:
    word = int.from_bytes(data[1:6], "big")
    return Feedback(
        _value(word >> 24, -motor.q_max, motor.q_max, 16),
        _value(word >> 12 & 0xFFF, -motor.dq_max, motor.dq_max, 12),
        _value(word & 0xFFF, -motor.tau_max, motor.tau_max, 12),
        data[0] >> 4,
        data,
    )


def answer(motor: Motor, number: int, error: int, q: float, dq: float, tau: float) -> bytes:
    """The eight bytes of a motor's answer; what does not fit saturates, as in the motor."""
    word = 0
    for value, high, bits in ((q, motor.q_max, 16), (dq, motor.dq_max, 12), (tau, motor.tau_max, 12)):
        word = word << bits | _quantised(max(-high, min(high, value)), -high, high, bits)
    return bytes([number & 0xF | error << 4]) + word.to_bytes(5, "big") + bytes([30, 31])


class MotorBus:
    """Motors on an open python-can bus.

    A motor's feedback does not say which question it answers. So after a question without an answer, a fence goes before the
    next one: a register's number, which the motor repeats. Whatever arrives before that is an answer to something older.
    """

    def __init__(self, bus: Any, message: Any, motors: Mapping[int, Motor]) -> None:
        """bus, message: python-can's Bus and Message. motors: CAN id -> type."""
        self.motors = motors
        self._bus, self._message = bus, message
        self._doubtful: set[int] = set()
        self._fence = 0

    def close(self) -> None:
        self._bus.shutdown()

    def exchange(self, questions: Mapping[int, bytes]) -> dict[int, Feedback]:
        """Everybody's answer; those that gave none in ATTEMPTS are missing. Raises OSError, CanError when the bus is lost."""
        while self._bus.recv(0.0) is not None:
            pass  # belongs to an older question
        answers: dict[int, Feedback] = {}
        for _ in range(ATTEMPTS):
            missing = [number for number in questions if number not in answers]
            if not missing:
                break
            self._fence = (self._fence + 1) % _FENCES
            for number in missing:
                if number in self._doubtful:
                    self._send(REGISTERS, _register(number, READ, self._fence))
                self._send(number, questions[number])
            answers |= self._answers(missing)
        return answers

    def _answers(self, numbers: Iterable[int]) -> dict[int, Feedback]:
        """Of the questions just asked."""
        waiting, behind, answers = set(numbers), self._doubtful.copy(), {}
        self._doubtful |= waiting
        until = monotonic() + REPLY_S
        while waiting and (message := self._bus.recv(max(0.0, until - monotonic()))) is not None:
            data = bytes(message.data)
            if len(data) != 8:
                continue
            number = data[0] & 0xF
            if _is_register(data):
                if data[3] == self._fence:
                    behind.discard(number)
            elif number in waiting and number not in behind and message.arbitration_id == REPLY + number:
                answers[number] = feedback(self.motors[number], data)
                waiting.discard(number)
                self._doubtful.discard(number)
        return answers

    def read(self, number: int, register: int) -> bytes | None:
        """The four bytes of a register; None without an answer."""
        return self._register(number, register, _register(number, READ, register))

    def write(self, number: int, register: int, value: int) -> bool:
        """Until the motor's power is switched off."""
        return self._register(number, register, _register(number, WRITE, register, value)) == struct.pack("<I", value)

    def _register(self, number: int, register: int, question: bytes) -> bytes | None:
        for _ in range(ATTEMPTS):
            self._send(REGISTERS, question)
            until = monotonic() + REPLY_S
            while (message := self._bus.recv(max(0.0, until - monotonic()))) is not None:
                data = bytes(message.data)
                if len(data) == 8 and _is_register(data) and data[0] == number and data[2:4] == question[2:4]:
                    return data[4:]
        return None

    def _send(self, identifier: int, data: bytes) -> None:
        self._bus.send(self._message(arbitration_id=identifier, is_extended_id=False, data=data))

    def silent(self) -> list[int]:
        """Motors that do not answer. Raises HardwareError for one whose frames mean something else than its type says."""
        silent = []
        for number, motor in self.motors.items():
            expected = {P_MAX: motor.q_max, V_MAX: motor.dq_max, T_MAX: motor.tau_max, MODE: float(MIT_MODE)}
            for register, value in expected.items():
                if (data := self.read(number, register)) is None:
                    silent.append(number)
                    break
                found = float(struct.unpack("<I" if register == MODE else "<f", data)[0])
                if not math.isclose(found, value, rel_tol=1e-3):
                    name = {P_MAX: "PMAX", V_MAX: "VMAX", T_MAX: "TMAX", MODE: "CTRL_MODE"}[register]
                    raise HardwareError(
                        f"motor {number} ({motor.name}): {name} is {found:g}; expected {value:g}, else its frames are misread"
                    )
        return silent


def _register(number: int, what: int, register: int, value: int = 0) -> bytes:
    return struct.pack("<HBBI", number, what, register, value)


def _is_register(data: bytes) -> bool:
    """An answer about a register; feedback looks like this only from a disabled motor at its very end."""
    return data[0] < 0x10 and data[1] == 0 and data[2] in (READ, WRITE)


def registers(data: Sequence[int] | bytes) -> tuple[int, int, int, int]:
    """(motor, READ or WRITE, register, value) of a question about a register."""
    return struct.unpack("<HBBI", bytes(data))
