"""Dynamixel X servos on a pseudo-terminal, protocol 2.0, as the arms of hardware.arms.dynamixel have them."""

from __future__ import annotations

from math import floor
from time import monotonic

from hardware.arms.dynamixel import BUSES
from hardware.arms.servo_bus import TURN, Servo
from hardware.doubles.chain import Chain
from hardware.doubles.serial_bus import STALL, Line, Shafts

_PING, _READ, _WRITE, _REBOOT, _STATUS, _SYNC_READ, _SYNC_WRITE = 1, 2, 3, 8, 0x55, 0x82, 0x83
_EVERYBODY = 0xFE
_MODE, _SECONDARY, _KEPT, _TORQUE, _ERROR, _WATCHDOG, _PWM, _CURRENT_GOAL, _GOAL = 11, 12, 64, 64, 70, 98, 100, 102, 116
_TICK, _CURRENT, _SPEED, _POSITION = 120, 126, 128, 132
_POSITION_MODE, _CURRENT_POSITION_MODE, _FULL_PWM = 3, 5, 885
_UNKNOWN, _RANGE, _LENGTH, _LIMIT, _ACCESS, _ALERT = 2, 4, 5, 6, 7, 0x80  # of a status packet
_OVERLOAD, _TRIPPED = 32, 255
_PROTECT_S, _REBOOT_S = 1.0, 0.2
_RAW_PER_S = 0.229 / 60 * 4096
_SHADOWS = {"shoulder_shadow": 2, "elbow_shadow": 4}


def serve(
    chain: Chain,
    shift: float = 0.0,
    limp: bool = False,
    return_delay_s: float = 0.0,
    latency_s: float = 0.0,
    fault_joint: int = 2,
    secondary: bool = True,
) -> str:
    """Address: a serial device. limp: as just switched on, not held by an earlier program. fault_joint: whose hardware error the
    panel's `fault` is, in register 70's bits. secondary: shadows were told whom they follow."""
    bus = BUSES[chain.arm.spec.name]
    servos = _Servos(Shafts(chain, bus.calibration, shift), bus.servos, limp, fault_joint, secondary)
    line = Line(chain.panel, bus.baud, servos.talk, servos.watch, return_delay_s, latency_s)
    line.start()
    return line.address


class _Servos:
    """Their registers; what is measured is put there when somebody asks. A shadow has the readings of the servo it follows."""

    def __init__(self, shafts: Shafts, servos: tuple[Servo, ...], limp: bool, fault_joint: int, secondary: bool) -> None:
        self._shafts, self._panel = shafts, shafts.chain.panel
        self._faulty = shafts.servo_of(fault_joint)
        self._leader = {servo.id: _SHADOWS.get(servo.name, servo.id) for servo in servos}
        self._tables = {servo.id: bytearray(148) for servo in servos}
        self._away_until = dict.fromkeys(self._tables, 0.0)
        self._base = dict.fromkeys(self._tables, 0)  # raw: the turn in which the servo was switched on
        self._stuck_since: float | None = None
        for servo in servos:
            table = self._tables[servo.id]
            table[0:2], table[7], table[9] = servo.models[0].to_bytes(2, "little"), servo.id, 250
            table[_MODE], table[_SECONDARY] = _POSITION_MODE, self._leader[servo.id] if servo.shadow and secondary else 255
            table[36:40], table[48:52] = b"\x75\x03\xdc\x05", (TURN - 1).to_bytes(4, "little")
        self._powered = True
        self._boot(self._tables)
        if not limp:
            for table in self._tables.values():
                table[_TORQUE] = 1
        self._tally()

    def _boot(self, servos: dict[int, bytearray] | list[int]) -> None:
        """What power-up or a reboot does: registers that are not kept start anew, torque off, turns counted from here."""
        look = self._shafts.look()
        for servo in servos:
            table, position = self._tables[servo], look[self._leader[servo]][0]
            table[_KEPT:] = bytes(len(table) - _KEPT)
            table[68], table[_PWM : _PWM + 2], table[_CURRENT_GOAL : _CURRENT_GOAL + 2] = 2, table[36:38], table[38:40]
            self._base[servo] = TURN * floor(position / TURN)
            self._put(servo, _GOAL, round(position) - self._base[servo])

    # Time passes ------------------------------------------------------------------------------------------------------

    def watch(self, silent_s: float) -> None:
        panel = self._panel
        if bool(panel.estop) == self._powered:
            self._powered = not panel.estop
            self._boot(self._tables)
        if panel.fault:
            self._shut_down(self._faulty, int(panel.fault))
        tripped = False
        for servo, table in self._tables.items():
            if table[_TORQUE] and 0 < table[_WATCHDOG] < 128 and silent_s > 0.02 * table[_WATCHDOG]:
                table[_WATCHDOG], tripped = _TRIPPED, True
                self._put(servo, _GOAL, self._raw(servo, self._shafts.look()[self._leader[servo]][0]))
        if tripped:
            self._shafts.chain.hold()
            panel.watchdog += 1
        self._strain()
        self._tally()

    def _strain(self) -> None:
        """A stuck gripper without a limit of its current or voltage overloads and shuts down."""
        gripper = self._shafts.channels[-1]
        table, position = self._tables[gripper], self._shafts.look()[gripper][0]
        if not (self._panel.jam and table[_TORQUE] and abs(self._get(gripper, _GOAL) - self._raw(gripper, position)) > STALL):
            self._stuck_since = None
            return
        self._stuck_since = self._stuck_since or monotonic()
        limited = table[_MODE] == _CURRENT_POSITION_MODE and self._get(gripper, _CURRENT_GOAL, 2) < self._get(gripper, 38, 2)
        limited |= self._get(gripper, _PWM, 2) < 0.8 * _FULL_PWM
        if not limited and monotonic() - self._stuck_since > _PROTECT_S:
            self._shut_down(gripper, _OVERLOAD)

    def _shut_down(self, servo: int, error: int) -> None:
        self._tables[servo][_ERROR] |= error
        self._tables[servo][_TORQUE] = 0

    def _tally(self) -> None:
        self._shafts.power(self._powered and all(self._tables[servo][_TORQUE] for servo in self._shafts.channels[:-1]))

    # The protocol -----------------------------------------------------------------------------------------------------

    def talk(self, pending: bytes) -> tuple[list[bytes], bytes]:
        answers: list[bytes] = []
        while (start := pending.find(b"\xff\xff\xfd\x00")) >= 0:
            pending = pending[start:]
            if len(pending) < 7:
                break
            size = 7 + int.from_bytes(pending[5:7], "little")
            if not 10 <= size <= 1024:
                pending = pending[1:]
                continue
            if len(pending) < size:
                break
            if crc(pending[: size - 2]) != int.from_bytes(pending[size - 2 : size], "little"):
                pending = pending[1:]
                continue
            body = pending[7 : size - 2].replace(b"\xff\xff\xfd\xfd", b"\xff\xff\xfd")
            answers += self._answer(pending[4], body[0], body[1:]) if self._powered else []
            pending = pending[size:]
        else:
            pending = pending[-3:]
        return answers, pending

    def _answer(self, to: int, instruction: int, given: bytes) -> list[bytes]:
        mute, now = self._shafts.servo_of(self._panel.mute), monotonic()
        here = [servo for servo in self._tables if servo != mute and self._away_until[servo] <= now]
        first, second = (int.from_bytes(given[k : k + 2], "little") for k in (0, 2))
        if instruction == _SYNC_READ and len(given) > 4:
            self._measure()
            return [self._status(servo, self._tables[servo][first : first + second]) for servo in given[4:] if servo in here]
        if instruction == _SYNC_WRITE and len(given) > 4:
            rest = given[4:]
            items = [(rest[k], first, rest[k + 1 : k + 1 + second]) for k in range(0, len(rest) - second, second + 1)]
            self._write_all([item for item in items if item[0] in here])
            return []
        answers = []
        for servo in here if to == _EVERYBODY else [to] if to in here else []:
            data, error = b"", 0
            if instruction == _PING:
                data = bytes(self._tables[servo][0:2]) + b"\x2e"
            elif instruction == _READ and len(given) == 4:
                self._measure()
                data = bytes(self._tables[servo][first : first + second])
                error = 0 if len(data) == second else _LENGTH
            elif instruction == _WRITE and len(given) > 2:
                error = self._write_all([(servo, first, given[2:])])
            elif instruction == _REBOOT:
                self._boot([servo])
                self._away_until[servo] = now + _REBOOT_S
            else:
                error = _UNKNOWN
            answers.append(self._status(servo, data, error))
        return answers if to != _EVERYBODY or instruction == _PING else []

    def _status(self, servo: int, data: bytes | bytearray, error: int = 0) -> bytes:
        alert = _ALERT if self._tables[servo][_ERROR] else 0
        body = (bytes([_STATUS, error | alert]) + bytes(data)).replace(b"\xff\xff\xfd", b"\xff\xff\xfd\xfd")
        packet = b"\xff\xff\xfd\x00" + bytes([servo]) + (len(body) + 2).to_bytes(2, "little") + body
        return packet + crc(packet).to_bytes(2, "little")

    def _write_all(self, items: list[tuple[int, int, bytes]]) -> int:
        """Goals written together are one setpoint. The last error."""
        goals: dict[int, float] = {}
        error = 0
        for servo, address, data in items:
            error = self._write(servo, address, data, goals)
            for shadow, table in self._tables.items():
                if table[_SECONDARY] == servo:
                    self._write(shadow, address, data, {})
        if goals:
            self._shafts.go(goals)
        self._tally()
        return error

    def _write(self, servo: int, address: int, data: bytes, goals: dict[int, float]) -> int:
        table, had_torque = self._tables[servo], self._tables[servo][_TORQUE]
        if address + len(data) > len(table):
            return _LENGTH
        if address < _KEPT and table[_TORQUE]:
            return _ACCESS
        sets_goal = address <= _GOAL < address + len(data)
        if sets_goal and table[_WATCHDOG] == _TRIPPED:
            self._panel.refused += 1
            return _RANGE
        before = bytes(table)
        table[address : address + len(data)] = data
        if sets_goal and table[_MODE] == _POSITION_MODE and not self._get(servo, 52) <= self._get(servo, _GOAL) <= self._get(servo, 48):
            table[:] = before
            self._panel.refused += 1
            return _LIMIT
        if table[_ERROR] and table[_TORQUE]:
            table[_TORQUE] = 0  # only a reboot brings it back
            return _ACCESS
        if sets_goal and table[_ERROR]:
            self._panel.refused += 1
        if table[_TORQUE] and (sets_goal or not had_torque) and servo in self._shafts.channels:
            goals[servo] = self._get(servo, _GOAL) + self._base[servo]
        return 0

    # Raw values -------------------------------------------------------------------------------------------------------

    def _measure(self) -> None:
        if self._panel.freeze:
            return
        look, tick = self._shafts.look(), int(monotonic() * 1000) % 32768
        for servo in self._tables:
            position, speed = look[self._leader[servo]]
            self._put(servo, _TICK, tick, 2)
            self._put(servo, _SPEED, round(speed / _RAW_PER_S))
            self._put(servo, _POSITION, self._raw(servo, position))
            away = abs(self._get(servo, _GOAL) - self._raw(servo, position))
            self._put(servo, _CURRENT, min(away, self._get(servo, _CURRENT_GOAL, 2)) if self._tables[servo][_TORQUE] else 0, 2)
            self._tables[servo][144], self._tables[servo][146] = 120, 31

    def _raw(self, servo: int, position: float) -> int:
        return round(position) - self._base[servo]

    def _get(self, servo: int, address: int, size: int = 4) -> int:
        return int.from_bytes(self._tables[servo][address : address + size], "little", signed=True)

    def _put(self, servo: int, address: int, value: int, size: int = 4) -> None:
        self._tables[servo][address : address + size] = value.to_bytes(size, "little", signed=True)


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte << 8
        for _ in range(8):
            value = (value << 1) ^ (0x8005 if value & 0x8000 else 0)
        table.append(value & 0xFFFF)
    return table


_CRC = _crc_table()


def crc(data: bytes) -> int:
    """CRC-16 of protocol 2.0: polynomial 0x8005, from 0, nothing reflected."""
    value = 0
    for byte in data:
        value = (value << 8 & 0xFFFF) ^ _CRC[(value >> 8 ^ byte) & 0xFF]
    return value
