"""Damiao motors behind a socketcand server, which python-can knows as an interface: CAN frames as text over TCP.

Emulated: MIT commands, enable, disable, zero, clear, registers, the error nibble, the motors' own watchdog. Not: the other modes, CAN FD,
bus load and arbitration, single motors that let go (the arm is limp as a whole, when the last motor is), temperatures, weight on the gains.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from collections import deque
from time import monotonic, sleep, time

import numpy as np

from hardware.arms import damiao_bus as can
from hardware.arms import damiao_models as damiao
from hardware.doubles.chain import Chain

TICK_S = 5e-5  # unit of the watchdog's register
_POLL_S = 0.01
_SEND = re.compile(r"< send ([0-9A-Fa-f]{1,8}) ([0-8])((?: [0-9A-Fa-f]{1,2})*) >")
FAULTY = 2  # the joint, from 1, that has panel.fault


class Motors:
    """All of them; `asked` is one frame on the bus, `tick` what happens without any."""

    def __init__(self, chain: Chain, name: str) -> None:
        self.chain, self.panel, self.types = chain, chain.panel, damiao.CHAINS[name].motors
        self.joints, count = len(self.types) - 1, len(self.types)
        self._closed, self._open = damiao.CHAINS[name].gripper
        self._errors, self._zero, self._heard = [can.DISABLED] * count, [0.0] * count, [0.0] * count
        self._commands = [(0.0, 0.0, 0.0, 0.0, 0.0)] * count
        self._frozen: dict[int, bytes] = {}
        self._registers = [
            {can.TIMEOUT: struct.pack("<I", 0), can.MODE: struct.pack("<I", can.MIT_MODE)}
            | {r: struct.pack("<f", v) for r, v in ((can.P_MAX, m.q_max), (can.V_MAX, m.dq_max), (can.T_MAX, m.tau_max))}
            for m in self.types
        ]
        self._rounds = 0
        self._power()

    def asked(self, identifier: int, data: bytes) -> tuple[int, bytes] | None:
        """(motor from 1, the eight bytes of its answer), or None: nobody was meant, or it does not answer."""
        if len(data) != 8:
            return None
        if identifier == can.REGISTERS:
            number, what, register, _ = can.registers(data)
            if not 1 <= number <= len(self.types) or what not in (can.READ, can.WRITE):
                return None
            if what == can.WRITE:
                self._registers[number - 1][register] = data[4:]
            value = self._registers[number - 1].get(register, b"\xff\xff\xff\xff")
            return self._heard_from(number, data[:4] + value)
        if not 1 <= identifier <= len(self.types):
            return None
        motor = identifier - 1
        self._heard[motor] = monotonic()
        if data == can.ENABLE and self._errors[motor] == can.DISABLED:
            self._errors[motor], self._commands[motor] = can.ENABLED, (0.0, 0.0, 0.0, 0.0, 0.0)
        elif data == can.DISABLE or (data == can.CLEAR and self._errors[motor] in can.ERRORS):
            self._errors[motor] = can.DISABLED
        elif data == can.ZERO:
            self._zero[motor] += self._measure(motor)[0]
        elif data[:7] != can.ENABLE[:7]:
            self._move(motor, data)
        self.tick()
        return self._heard_from(identifier, self._feedback(motor))

    def _heard_from(self, number: int, data: bytes) -> tuple[int, bytes] | None:
        return None if self.panel.estop or self.panel.mute == number else (number, data)

    def _move(self, motor: int, data: bytes) -> None:
        if self._errors[motor] != can.ENABLED:
            self.panel.refused += 1
            return
        self._commands[motor] = q, _, kp, _, _ = can.parse(self.types[motor], data)
        if motor < self.joints:
            held = self.chain.measure()[0][motor]
            self.chain.servo(np.array([q + self._zero[motor] if kp else held]), joint=motor)
        elif kp:
            self.chain.servo(gripper=float(np.clip((q + self._zero[motor] - self._closed) / (self._open - self._closed), 0.0, 1.0)))
        self._rounds += motor == 0
        self.panel.writes = self._rounds  # not each motor's, which Chain counted

    def _measure(self, motor: int) -> tuple[float, float]:
        q, dq, opening = self.chain.measure()
        if motor < self.joints:
            return float(q[motor]) - self._zero[motor], float(dq[motor])
        return self._closed + opening * (self._open - self._closed) - self._zero[motor], 0.0

    def _feedback(self, motor: int) -> bytes:
        q, dq = self._measure(motor)
        goal, speed, kp, kd, torque = self._commands[motor]
        torque = kp * (goal - q) + kd * (speed - dq) + torque if self._errors[motor] == can.ENABLED else 0.0
        data = can.answer(self.types[motor], motor + 1, self._errors[motor], q, dq, torque)
        if not self.panel.freeze:
            self._frozen[motor] = data
        return self._frozen.get(motor, data)

    def tick(self) -> None:
        now, fault = monotonic(), int(self.panel.fault)
        if fault in can.ERRORS:
            self._errors[FAULTY - 1] = fault
        if self.panel.estop:
            self._errors = [can.DISABLED] * len(self.types)
        late = False
        for motor, error in enumerate(self._errors):
            timeout = struct.unpack("<I", self._registers[motor][can.TIMEOUT])[0] * TICK_S
            if error == can.ENABLED and timeout and now - self._heard[motor] > timeout:
                self._errors[motor], late = 0xD, True
        self.panel.watchdog += late
        self._power()

    def _power(self) -> None:
        """The arm holds as long as any motor of it does."""
        powered = can.ENABLED in self._errors[: self.joints]
        if self.chain.powered != powered:
            self.chain.measure()  # until now it was otherwise
            self.chain.hold()
            self.chain.powered = powered


class Bus:
    """socketcand for one client at a time: `< hi >`, open, rawmode, then frames, and what goes wrong on the way."""

    def __init__(self, motors: Motors) -> None:
        self.motors, self.panel = motors, motors.panel
        self._lock, self._connection = threading.RLock(), None
        self._late: deque[tuple[float, bytes]] = deque()
        listener = socket.create_server(("127.0.0.1", 0))
        self.where: tuple[str, int] = listener.getsockname()
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()
        threading.Thread(target=self._mind, daemon=True).start()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            if self.panel.cut:
                listener.close()
                while self.panel.cut:
                    sleep(_POLL_S)
                listener = socket.create_server(self.where)
            listener.settimeout(_POLL_S)
            with contextlib.suppress(TimeoutError):
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError, UnicodeDecodeError):
                    self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(_POLL_S)
        connection.sendall(b"< hi >")
        self._late.clear()
        pending = ""
        while not self.panel.cut:
            try:
                data = connection.recv(4096)
            except TimeoutError:
                data = None
            if data == b"":
                return
            pending += (data or b"").decode("ascii")
            *messages, pending = pending.split(">")
            for message in messages:
                self._said(f"{message.strip()} >", connection)
            while self._late and self._late[0][0] <= monotonic():
                connection.sendall(self._late.popleft()[1])

    def _said(self, message: str, connection: socket.socket) -> None:
        if message.startswith(("< open", "< rawmode")):
            connection.sendall(b"< ok >")
        elif (frame := _SEND.fullmatch(message)) is not None:
            data = bytes(int(byte, 16) for byte in frame[3].split())
            with self._lock:
                answer = self.motors.asked(int(frame[1], 16), data) if len(data) == int(frame[2], 16) else None
            if answer is not None and not self.panel.take("lose"):
                self._answer(*answer)
        else:
            connection.sendall(b"< error unknown command >")

    def _answer(self, motor: int, data: bytes) -> None:
        if self.panel.take("corrupt"):
            data = bytes([data[0] ^ 0xF]) + data[1:]  # the bus itself drops frames with a wrong checksum: this one is another's
        text = f"< frame {can.REPLY + motor:03X} {time():.6f} {data.hex().upper()} >"
        self._late.append((monotonic() + self.panel.delay_s, text.encode()))

    def _mind(self) -> None:
        """The motors' own clocks, and physics that nobody asks for."""
        while True:
            sleep(_POLL_S)
            with self._lock:
                self.motors.tick()
                self.motors.chain.measure()


def serve(chain: Chain) -> str:
    """The address of a CAN bus with the arm's motors on it."""
    host, port = Bus(Motors(chain, chain.arm.spec.name)).where
    return f"socketcand:{host}:{port}"
