"""A UFACTORY controller and its xArm gripper: the control port's frames, the reports of ports 30000 and 30003, MuJoCo behind them.

A frame is transaction, protocol, length (big endian, 16 bits each), a function and its data; a reply's data begin with a status.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from functools import partial

import numpy as np

from hardware.doubles.chain import Chain
from hardware.doubles.lan import Late, Plugs, exactly, start

CONTROL = 20502  # in place of 502, which is privileged
REPORT, REPORT_OLD = 30000, 30003  # fixed by the SDK; 200 and 100 Hz
_SERVO_MODE, _READY, _MOVING, _STOPPED = 1, 2, 1, 4
_ERROR, _WARNING, _NOT_READY, _INVALID = 0x40, 0x20, 0x10, 0x08
_SPEED, _COLLISION, _EMERGENCY, _MOTOR = 24, 31, 1, 10  # error codes; motor n is 10 + n
_V_MAX = np.pi * 1.2  # rad/s from one setpoint to the next; more is error 24
_TICK_S = 0.02  # setpoints that arrive in a burst are not a jump
_DEVIATION = 0.5  # rad between a joint and its setpoint: error 31
_GRIPPER, _OPEN = 8, 850  # modbus id; pulses open, 0 closed
_MAX = 1024
_TYPES = {"lite6": 9}


class Controller:
    """State, mode, error and what each function does. Calls come from many threads: one lock."""

    def __init__(self, chain: Chain, version: str) -> None:
        spec = chain.arm.spec
        self._chain, self._panel, self._lock = chain, chain.panel, threading.RLock()
        self._axes = len(spec.joints)
        device = _TYPES.get(spec.name, self._axes)
        self._version = f"{self._axes},{device},XX1200012345,AC1200012345,v{version}".encode().ljust(40, b"\0")
        self._state, self._mode, self._error, self._enabled = _STOPPED, 0, 0, False
        self._last: tuple[float, np.ndarray] | None = None
        self._modbus = {0x0801: 3, 0x0802: 4, 0x0803: 3, 0x0000: 0, 0x000F: 0}
        self._began = time.monotonic()
        start(self._watch)

    # Frames -----------------------------------------------------------------------------------------------------------

    def handle(self, function: int, data: bytes) -> bytes:
        """The data of the reply, its status first."""
        with self._lock:
            reply = self._do(function, data)
            status = _INVALID if reply is None else 0
            status |= _ERROR if self._error else 0
            status |= _NOT_READY if self._state >= _STOPPED or not self._enabled else 0
            return bytes([status]) + (reply or b"")

    def _do(self, function: int, data: bytes) -> bytes | None:
        if function == 29:
            self._servo(np.array(struct.unpack("<7f", data[:28]), dtype=np.float64))
            return b""
        if function == 42:
            return self._joints(data[0] & 0x0F if data else 1)
        if function == 124:
            return self._rtu(data)
        if function == 128:  # the tool's register of the baud rate: 2 Mbaud, the twelfth of the vendor's list
            return struct.pack(">i", 11)
        answers = {1: self._version, 13: bytes([self._reported()]), 14: bytes(2), 15: bytes([self._error, 0])}
        if function in answers:
            return answers[function]
        actions = {11: self._enable, 12: self._set_state, 16: self._clean, 17: bool, 19: self._set_mode, 127: bool}
        if function not in actions:
            return None
        actions[function](data)
        return b""

    def _enable(self, data: bytes) -> None:
        self._enabled = bool(data[1]) and not self._error

    def _set_state(self, data: bytes) -> None:
        if data[0] == 0 and not self._error and self._enabled:
            self._state, self._last = _READY, None
        elif data[0] in (3, _STOPPED):
            self._state = data[0]
            self._chain.hold()

    def _set_mode(self, data: bytes) -> None:
        """The arm stops, and needs state 0 again."""
        if data[0] != self._mode:
            self._mode, self._state = data[0], _STOPPED
            self._chain.hold()

    def _clean(self, _: bytes) -> None:
        self._error = self._cause()

    def _servo(self, q: np.ndarray) -> None:
        q = q[: self._axes]
        if self._mode != _SERVO_MODE or self._state >= 3 or self._error or not self._enabled:
            self._panel.refused += 1
            return
        now = time.monotonic()
        measured = self._chain.measure()[0]
        then, before = self._last or (now, measured)
        if np.abs(q - before).max() > _V_MAX * max(_TICK_S, now - then):
            self._panel.refused += 1
            self._fail(_SPEED)
        elif np.abs(q - measured).max() > _DEVIATION:
            self._panel.refused += 1
            self._fail(_COLLISION)
        else:
            self._last = now, np.where(np.isfinite(q), q, before)
            self._chain.servo(q)

    def _joints(self, kinds: int) -> bytes:
        q, dq, _ = self._chain.measure()
        rows = (q, dq, self._chain.torque)[: max(1, kinds)]
        return b"".join(struct.pack("<7f", *row, *[0.0] * (7 - self._axes)) for row in rows)

    def _rtu(self, data: bytes) -> bytes:
        """Modbus RTU to the tool, without its checksum, which the controller adds: host, device, function, address, count, ..."""
        host, device, function, address, count = struct.unpack(">BBBHH", data[:7])
        head = bytes([host, device, function])
        if device != _GRIPPER or self._panel.mute == self._axes + 1:
            self._fail(19)
            return bytes([host])
        if function == 0x10:
            words = struct.unpack(f">{count}H", data[8 : 8 + 2 * count])
            self._modbus.update(zip(range(address, address + count), words, strict=True))
            if address == 0x0700 and count == 2 and self._modbus.get(0x0100):
                pulses = struct.unpack(">i", data[8:12])[0]
                self._chain.servo(gripper=pulses / _OPEN)
            return head + data[3:7]
        if address == 0x0702:
            pulses = round(_OPEN * self._chain.measure()[2])
            return head + bytes([4]) + struct.pack(">i", pulses)
        words = [self._modbus.get(address + n, 0) for n in range(count)]
        return head + bytes([2 * count]) + struct.pack(f">{count}H", *words)

    # What happens to the arm --------------------------------------------------------------------------------------------

    def _fail(self, error: int) -> None:
        self._error, self._state = error, _STOPPED
        self._chain.hold()

    def _cause(self) -> int:
        """The error that is there as long as its cause is; 0 where there is none."""
        if self._panel.estop:
            self._enabled = False  # the brakes hold the arm
            return _EMERGENCY
        if 1 <= self._panel.mute <= self._axes:
            return _MOTOR + int(self._panel.mute)
        return int(self._panel.fault)

    def _watch(self) -> None:
        while True:
            time.sleep(0.004)
            with self._lock:
                if (cause := self._cause()) and cause != self._error:
                    self._fail(cause)

    def _reported(self) -> int:
        moving = self._state == _READY and np.abs(self._chain.measure()[1]).max() > 0.01
        return _MOVING if moving else self._state

    # Reports --------------------------------------------------------------------------------------------------------

    def report(self) -> bytes:
        """Port 30000: time since boot, state, and joints."""
        with self._lock:
            state = self._reported() | self._mode << 4
        q, dq, _ = self._chain.measure()
        pad, blank = [0.0] * (7 - self._axes), bytes(28)
        goal, torque = self._chain.goal, self._chain.torque
        head = struct.pack(">IQBH", 784, int(1e6 * (time.monotonic() - self._began)), state, 0) + bytes(17)
        rows = [struct.pack("<7f", *row, *pad) for row in (goal, q, dq, torque)]
        body = rows[0] + 2 * blank + rows[1] + rows[2] + 2 * blank + rows[3]
        return (head + body).ljust(784, b"\0")

    def report_old(self) -> bytes:
        """Port 30003: without time and speeds."""
        with self._lock:
            state = self._reported() | self._mode << 4
        return struct.pack(">IBH", 87, state, 0) + self._joints(1) + bytes(24) + self._joints(3)[56:]


def serve(chain: Chain, version: str = "2.5.4") -> str:
    """version: of the firmware."""
    controller, panel = Controller(chain, version), chain.panel

    def control(connection: socket.socket) -> None:
        while True:
            transaction, protocol, length = struct.unpack(">HHH", exactly(connection, 6))
            if not 1 <= length <= _MAX:
                raise ValueError(f"frame of {length} bytes")
            function, *data = exactly(connection, length)
            if function == 0:  # somebody is there
                continue
            reply = bytes([function]) + controller.handle(function, bytes(data))
            time.sleep(panel.delay_s)
            if panel.take("lose"):
                continue
            if panel.take("corrupt"):  # there is no checksum to break: another protocol's number
                protocol ^= 0xFF
            connection.sendall(struct.pack(">HHH", transaction, protocol, len(reply)) + reply)

    def reports(connection: socket.socket, old: bool) -> None:
        late, package, period = Late(panel, connection), b"", 0.01 if old else 0.005
        due = time.monotonic()
        while True:
            due = max(due + period, time.monotonic() - 10 * period)
            time.sleep(max(0.0, due - time.monotonic()))
            if not (panel.freeze and package):
                package = controller.report_old() if old else controller.report()
            corrupt = panel.corrupt > 0 and not old  # replies count them down
            late.send(package[:4] + b"\xff" * (len(package) - 4) if corrupt else package)

    plugs = Plugs(panel)
    ports = {CONTROL: control, REPORT: partial(reports, old=False), REPORT_OLD: partial(reports, old=True)}
    return f"{plugs.listen(ports)}:{CONTROL}"
