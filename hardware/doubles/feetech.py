"""Feetech STS3215 servos on a pseudo-terminal, as an SO-100 or SO-101 has them, for the vendor's own SDK to talk to."""

from __future__ import annotations

from itertools import count
from time import monotonic

from hardware.arms.feetech import STS3215, calibration
from hardware.doubles.chain import Chain
from hardware.doubles.serial_bus import STALL, Line, Shafts, wrapped

_PING, _READ, _WRITE, _REG_WRITE, _ACTION, _SYNC_READ, _SYNC_WRITE = 1, 2, 3, 4, 5, 0x82, 0x83
_EVERYBODY = 0xFE
_TORQUE_MAX, _OVERLOAD_SHARE, _TORQUE, _GOAL, _LOCK, _POSITION, _SPEED, _LOAD, _VOLTS, _CURRENT = 16, 36, 40, 42, 55, 56, 58, 60, 62, 69
_OVERLOAD, _OVERCURRENT = 32, 8
_PROTECT_S = 1.0  # of full load, until a stuck servo protects itself
_STALL_MA_UNITS = 400  # present current at full torque, 6.5 mA each


def serve(
    chain: Chain,
    shift: float = 0.0,
    limp: bool = False,
    return_delay_s: float = 0.0,
    latency_s: float = 0.0,
    fault_joint: int = 2,
    multiturn: bool = False,
) -> str:
    """Address: a serial device. limp: as just switched on, not held by an earlier program. fault_joint: whose error the panel's
    `fault` is, in the vendor's bits. multiturn: positions are not taken modulo one turn, and may be negative."""
    bus = _Servos(Shafts(chain, calibration(chain.arm.spec.name), shift), limp, fault_joint, multiturn)
    line = Line(chain.panel, 1_000_000, bus.talk, bus.watch, return_delay_s, latency_s)
    line.start()
    return line.address


class _Servos:
    """Their registers; what is measured is put there when somebody asks."""

    def __init__(self, shafts: Shafts, limp: bool, fault_joint: int, multiturn: bool) -> None:
        self._shafts, self._panel, self._multiturn = shafts, shafts.chain.panel, multiturn
        self._faulty = shafts.servo_of(fault_joint)
        self._tables = {servo: bytearray(96) for servo in shafts.channels}
        self._errors = dict.fromkeys(self._tables, 0)
        self._waiting: list[tuple[int, int, bytes]] = []
        self._stuck_since: float | None = None
        self._noise = count()
        for servo, table in self._tables.items():
            table[3:6] = *STS3215.to_bytes(2, "little"), servo
            table[7], table[8], table[11:13], table[16:18], table[21:24] = 250, 1, b"\xff\x0f", b"\xe8\x03", bytes((32, 32, 0))
            table[_OVERLOAD_SHARE] = 80
        self._powered = True
        self._boot()
        if not limp:
            for servo in self._tables:
                self._write(servo, _TORQUE, b"\1")
        self._tally()

    def _boot(self) -> None:
        """What power-up does: registers that are not kept start anew, torque off."""
        self._errors = dict.fromkeys(self._tables, 0)
        for servo, (position, _) in self._shafts.look().items():
            table = self._tables[servo]
            table[_TORQUE:] = bytes(len(table) - _TORQUE)
            table[_GOAL : _GOAL + 2] = self._word(position)
            table[48:50], table[_LOCK] = table[_TORQUE_MAX : _TORQUE_MAX + 2], 1

    # Time passes ------------------------------------------------------------------------------------------------------

    def watch(self, silent_s: float) -> None:
        """These servos have no watchdog. Power, errors and a jam are looked after here."""
        panel = self._panel
        if bool(panel.estop) == self._powered:
            self._powered = not panel.estop
            self._boot()
        for servo in self._tables:
            lasting = self._errors[servo] & (_OVERLOAD | _OVERCURRENT)
            self._errors[servo] = lasting | (int(panel.fault) if servo == self._faulty else 0)
        self._strain()
        self._tally()

    def _strain(self) -> None:
        gripper = self._shafts.channels[-1]
        position, table = self._shafts.look()[gripper][0], self._tables[gripper]
        stuck = self._panel.jam and table[_TORQUE] and abs(self._goal(gripper) - self._raw(position)) > STALL
        if not stuck:
            self._stuck_since = None
            return
        self._stuck_since = self._stuck_since or monotonic()
        load = int.from_bytes(table[48:50], "little")
        if load > 800 and monotonic() - self._stuck_since > _PROTECT_S:
            self._errors[gripper] |= _OVERLOAD

    def _tally(self) -> None:
        self._shafts.power(self._powered and all(self._tables[servo][_TORQUE] for servo in self._shafts.channels[:-1]))

    # The protocol -----------------------------------------------------------------------------------------------------

    def talk(self, pending: bytes) -> tuple[list[bytes], bytes]:
        answers: list[bytes] = []
        while (start := pending.find(b"\xff\xff")) >= 0:
            pending = pending[start:]
            if len(pending) < 4:
                break
            if not 2 <= pending[3] <= 250 or pending[2] == 0xFF:
                pending = pending[1:]
                continue
            size = pending[3] + 4
            if len(pending) < size:
                break
            if ~sum(pending[2 : size - 1]) & 0xFF != pending[size - 1]:
                pending = pending[1:]
                continue
            answers += self._answer(pending[2], pending[4], pending[5 : size - 1]) if self._powered else []
            pending = pending[size:]
        else:
            pending = pending[-1:]
        return answers, pending

    def _answer(self, to: int, instruction: int, given: bytes) -> list[bytes]:
        here = [servo for servo in self._tables if servo != self._shafts.servo_of(self._panel.mute)]
        if instruction == _SYNC_WRITE and len(given) > 2:
            size, rest = given[1], given[2:]
            goals = [(rest[k], given[0], rest[k + 1 : k + 1 + size]) for k in range(0, len(rest) - size, size + 1)]
            self._write_all([item for item in goals if item[0] in here])
            return []
        if instruction == _SYNC_READ and len(given) > 2:
            self._measure()
            return [self._reply(servo, self._tables[servo][given[0] : given[0] + given[1]]) for servo in given[2:] if servo in here]
        if instruction == _ACTION:
            self._write_all(self._waiting)
            self._waiting = []
            return []
        spoken_to = here if to == _EVERYBODY else [to] if to in here else []
        answers = []
        for servo in spoken_to:
            data = b""
            if instruction == _READ and len(given) == 2:
                self._measure()
                data = bytes(self._tables[servo][given[0] : given[0] + given[1]])
            elif instruction == _WRITE and given:
                self._write_all([(servo, given[0], given[1:])])
            elif instruction == _REG_WRITE and given:
                self._waiting.append((servo, given[0], given[1:]))
            answers.append(self._reply(servo, data))
        return answers if to != _EVERYBODY or instruction == _PING else []

    def _reply(self, servo: int, data: bytes | bytearray) -> bytes:
        body = bytes([servo, len(data) + 2, self._errors[servo]]) + bytes(data)
        return b"\xff\xff" + body + bytes([~sum(body) & 0xFF])

    def _write_all(self, items: list[tuple[int, int, bytes]]) -> None:
        """Goals written together are one setpoint."""
        goals: dict[int, float] = {}
        for servo, address, data in items:
            goals |= self._write(servo, address, data)
        if goals:
            self._shafts.go(goals)
        self._tally()

    def _write(self, servo: int, address: int, data: bytes) -> dict[int, float]:
        """The goal that this gives the servo, if any."""
        table, had_torque = self._tables[servo], self._tables[servo][_TORQUE]
        if address < _TORQUE and table[_LOCK]:
            return {}  # kept registers are locked; the servo answers as if it had taken them
        table[address : address + len(data)] = data[: max(0, len(table) - address)]
        reaches = lambda register: address <= register < address + len(data)  # noqa: E731
        if reaches(_TORQUE):
            if not table[_TORQUE]:
                self._errors[servo] &= ~(_OVERLOAD | _OVERCURRENT)
            elif not had_torque:
                return {servo: self._target(servo)}
        if reaches(_GOAL) and table[_TORQUE]:
            if self._errors[servo]:
                self._panel.refused += 1
                return {}
            return {servo: self._target(servo)}
        return {}

    # Raw values -------------------------------------------------------------------------------------------------------

    def _measure(self) -> None:
        if self._panel.freeze:
            return
        for servo, (position, speed) in self._shafts.look().items():
            table = self._tables[servo]
            away = self._goal(servo) - self._raw(position) if table[_TORQUE] else 0
            load = min(abs(away) * 10, int.from_bytes(table[48:50], "little"))
            jitter = next(self._noise) % 3 if load else 0  # a motor that pulls never draws quite the same
            table[_POSITION : _POSITION + 2], table[_SPEED : _SPEED + 2] = self._word(position), _magnitude(round(speed))
            table[_LOAD : _LOAD + 2] = (load | (0x400 if away < 0 else 0)).to_bytes(2, "little")
            table[_VOLTS], table[63] = 74, 31
            table[_CURRENT : _CURRENT + 2] = (load * _STALL_MA_UNITS // 1000 + jitter).to_bytes(2, "little")

    def _raw(self, position: float) -> int:
        return round(position) if self._multiturn else wrapped(position)

    def _word(self, position: float) -> bytes:
        return _magnitude(self._raw(position))

    def _target(self, servo: int) -> float:
        """Where the goal leads the shaft: within the turn that it is in, the long way round if need be."""
        position = self._shafts.look()[servo][0]
        return self._goal(servo) + round(position) - self._raw(position)

    def _goal(self, servo: int) -> int:
        word = int.from_bytes(self._tables[servo][_GOAL : _GOAL + 2], "little")
        goal = -(word & 0x7FFF) if word & 0x8000 else word
        low, high = (int.from_bytes(self._tables[servo][at : at + 2], "little") for at in (9, 11))
        return goal if self._multiturn else max(low, min(high, goal))


def _magnitude(value: int) -> bytes:
    """Sign in bit 15, then the size."""
    return (abs(value) & 0x7FFF | (0x8000 if value < 0 else 0)).to_bytes(2, "little")
