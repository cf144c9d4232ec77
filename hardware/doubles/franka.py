"""A Franka controller as its SDK sees it: commands over TCP, states and targets over UDP, and the Franka Hand on a port of its own.

Emulated: asynchronous joint targets (the controller makes the motion), reflexes with their flags, user stop, error recovery, the robot's
URDF. Not: the 1 kHz loops, torque and Cartesian control, guiding, contact detection, impedances, loads.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable
from struct import Struct
from struct import error as StructError
from time import monotonic, sleep

import numpy as np

from hardware.arms.franka import RANGE_MAX, RANGE_MIN
from hardware.doubles import fci
from hardware.doubles.chain import Chain

ACCELERATION = 9.0  # of the motions that the controller makes [rad/s2]
WIDEST_M = 0.08
_POLL_S = 0.02


class Robot:
    """The arm: what it is doing, and what it answers to each command. `tick` is one cycle of the controller."""

    def __init__(self, chain: Chain) -> None:
        self.chain, self.panel = chain, chain.panel
        self.answer: Callable[[int, int, bytes], None] = lambda command, number, body: None
        self.listener: tuple[str, int] | None = None  # who takes the states
        self.state = np.zeros((), dtype=fci.STATE)
        for pose in ("O_T_EE", "O_T_EE_d", "F_T_EE", "EE_T_K", "F_T_NE", "NE_T_EE", "O_T_EE_c"):
            self.state[pose] = fci.identity()
        self.state["success"] = 1.0
        self.mode, self._move, self._targets = fci.Mode.IDLE, 0, 0
        self._speed_max, self._goal, self._q, self._dq = np.array(fci.SPEED_MAX), chain.goal, chain.goal, np.zeros(7)
        self._began = self._ticked = monotonic()

    def asked(self, command: int, number: int, body: bytes) -> None:
        """One command over TCP; the answers go out through `answer`. Raises ValueError, struct.error for garbage."""
        stopped = self.mode == fci.Mode.USER_STOPPED
        if command == fci.Ask.CONNECT:
            version = fci.CONNECT.unpack(body)[0]
            self.answer(command, number, bytes([version != fci.VERSION]) + fci.VERSION.to_bytes(2, "little"))
        elif command == fci.Ask.MODEL:
            self.answer(command, number, b"\0" + fci.urdf().encode())
        elif command == fci.Ask.MOVE:
            self._start(number, body, stopped)
        elif command == fci.Ask.STOP:
            self.end(fci.Moved.PREEMPTED)
            self.answer(command, number, b"\0")
        elif command == fci.Ask.RECOVER:
            if not stopped and not self.panel.fault:
                self.mode = fci.Mode.IDLE
                self.state["errors"], self.state["reflex"] = 0, 0
            self.answer(command, number, bytes([2 if stopped else 3 if self.panel.fault else 0]))
        elif command == fci.Ask.COLLISION:
            finite = np.isfinite(fci.COLLISION.unpack(body)).all()
            self.answer(command, number, bytes([0 if finite else 2]))
        else:
            self.answer(command, number, b"\0")

    def _start(self, number: int, body: bytes, stopped: bool) -> None:
        controller, generator, *_, asynchronous = (values := fci.MOVE.unpack(body))[:9]
        if stopped or self.mode != fci.Mode.IDLE:
            outcome = fci.Moved.SAFETY_REFUSED if stopped else fci.Moved.NOT_POSSIBLE
        elif not asynchronous or (controller, generator) != (0, 0):
            outcome = fci.Moved.INVALID  # the other ways of control are not emulated
        else:
            self._speed_max = np.minimum(np.array(values[9:]), fci.SPEED_MAX)
            self._q = self._goal = self.chain.measure()[0]
            self._dq = np.zeros(7)
            self.mode, self._move = fci.Mode.MOVE, number
            outcome = fci.Moved.STARTED
        self.answer(fci.Ask.MOVE, number, bytes([outcome]))

    def end(self, how: fci.Moved, mode: fci.Mode = fci.Mode.IDLE) -> None:
        """The motion in hand, if any, ends; the arm stays where it is."""
        if self.mode == fci.Mode.MOVE:
            self.chain.hold()
            self.mode = mode
            self.answer(fci.Ask.MOVE, self._move, bytes([how]))

    def target(self, data: bytes) -> None:
        """One joint target over UDP."""
        command = np.frombuffer(data, dtype=fci.TARGET)[0]
        self._targets += 1
        if self.mode != fci.Mode.MOVE or not np.isfinite(command["q"]).all():
            self.panel.refused += 1
        elif command["finished"]:
            self.end(fci.Moved.DONE)
        elif ((command["q"] < RANGE_MIN) | (command["q"] > RANGE_MAX)).any():
            self.panel.refused += 1
            self._reflex(fci.POSITION_LIMITS)
        else:
            self._goal = command["q"].copy()

    def tick(self) -> bytes:
        """Faults, motion, and the state as it goes out."""
        self._faults()
        now = monotonic()
        dt, self._ticked = min(now - self._ticked, 0.1), now
        if self.mode == fci.Mode.MOVE:
            self._generate(dt)
            self.chain.servo(self._q)
        self.panel.writes = self._targets  # not the cycles, which Chain counted
        q, dq, _ = self.chain.measure()
        if not self.panel.freeze:
            state, moving = self.state, self.mode == fci.Mode.MOVE
            state["id"] = 1 + int(1000 * (now - self._began))
            state["q"], state["dq"], state["theta"], state["dtheta"] = q, dq, q, dq
            state["q_d"], state["dq_d"] = (self._q, self._dq) if moving else (q, 0.0)
            state["tau_J"] = self.chain.torque
            state["generator"], state["controller"], state["mode"] = (1, 0, self.mode) if moving else (0, 3, self.mode)
        return self.state.tobytes()

    def _faults(self) -> None:
        if self.panel.estop:
            self.end(fci.Moved.SAFETY_STOPPED, fci.Mode.USER_STOPPED)
            self.mode = fci.Mode.USER_STOPPED
        elif self.mode == fci.Mode.USER_STOPPED:
            self.mode = fci.Mode.IDLE
        if 1 <= self.panel.fault <= fci.ERRORS and self.mode in (fci.Mode.IDLE, fci.Mode.MOVE):
            self._reflex(int(self.panel.fault))

    def _reflex(self, number: int) -> None:
        self.state["errors"][number - 1], self.state["reflex"][number - 1] = 1, 1
        self.chain.hold()
        self.end(fci.Moved.REFLEX, fci.Mode.REFLEX)
        self.mode = fci.Mode.REFLEX

    def _generate(self, dt: float) -> None:
        """Towards the goal, never faster than can be stopped in time."""
        way = self._goal - self._q
        fastest = np.minimum(self._speed_max, np.sqrt(2.0 * ACCELERATION * np.abs(way)))
        wanted = np.clip(way / max(dt, 1e-3), -fastest, fastest)
        self._dq = self._dq + np.clip(wanted - self._dq, -ACCELERATION * dt, ACCELERATION * dt)
        self._q = self._q + self._dq * dt


class FrankaHand:
    """The gripper: a command is answered when its motion has ended; meanwhile another one may stop it."""

    def __init__(self, chain: Chain) -> None:
        self.chain, self.panel = chain, chain.panel
        self.answer: Callable[[int, int, bytes], None] = lambda command, number, body: None
        self.listener: tuple[str, int] | None = None
        self._pending: tuple[int, int, float, float] | None = None  # command, its id, goal 0..1, until when
        self._count, self._frozen = 0, 0.0

    def asked(self, command: int, number: int, body: bytes) -> None:
        if command == fci.Hand.CONNECT:
            fci.CONNECT.unpack(body)
            self.answer(command, number, b"\0\0" + fci.GRIPPER_VERSION.to_bytes(2, "little"))
            return
        self._finish(2)  # what was going on is unsuccessful
        opening = self.panel.gripper
        if command in (fci.Hand.GRASP, fci.Hand.MOVE):
            width = float(np.frombuffer(body, dtype="<f8")[0])
            if not 0.0 <= width <= WIDEST_M:
                self.panel.refused += 1
                self.answer(command, number, b"\1\0")
                return
            opening = width / WIDEST_M
        elif command == fci.Hand.HOMING:
            opening = 1.0
        self.chain.servo(gripper=opening)
        self._pending = (command, number, opening, monotonic() + 3.0)
        if command == fci.Hand.STOP:
            self._finish(0)

    def _finish(self, status: int) -> None:
        if self._pending is not None:
            command, number, *_ = self._pending
            self._pending = None
            self.answer(command, number, status.to_bytes(2, "little"))

    def target(self, data: bytes) -> None:
        """Nothing is said to the gripper over UDP."""

    def tick(self) -> bytes:
        opening = self.chain.measure()[2]
        if self._pending is not None:
            *_, goal, until = self._pending
            if abs(opening - goal) < 1e-3 or monotonic() > until:
                self._finish(0 if abs(opening - goal) < 1e-3 else 2)
        if not self.panel.freeze:
            self._count, self._frozen = self._count + 1, opening
        return fci.GRIPPER_STATE.pack(self._count, self._frozen * WIDEST_M, WIDEST_M, False, 30)


class Server:
    """One device on one TCP port and its UDP: one client at a time, states at `rate_hz`, and what goes wrong on the way."""

    def __init__(self, device: Robot | FrankaHand, header: Struct, listener: socket.socket, rate_hz: float) -> None:
        self.device, self.header, self.panel = device, header, device.panel
        self._period, self._lock, self._where = 1.0 / rate_hz, threading.RLock(), listener.getsockname()
        self._connection: socket.socket | None = None
        self._late: deque[tuple[float, bytes]] = deque()
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((self._where[0], 0))
        self._udp.setblocking(False)
        device.answer = self._answer
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()
        threading.Thread(target=self._stream, daemon=True).start()

    def _answer(self, command: int, number: int, body: bytes) -> None:
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(OSError):  # the client is gone; its reader finds out
                connection.sendall(fci.message(self.header, command, number, body))

    def _serve(self, listener: socket.socket) -> None:
        while True:
            if self.panel.cut:
                listener.close()
                while self.panel.cut:
                    sleep(_POLL_S)
                listener = socket.create_server(self._where)
            listener.settimeout(_POLL_S)
            with contextlib.suppress(TimeoutError):
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError, ValueError, StructError):  # garbage, or a connection reset
                    self._talk(connection)
                self._left()

    def _talk(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(_POLL_S)
        self._connection, pending = connection, bytearray()
        while not self.panel.cut:
            try:
                data = connection.recv(4096)
            except TimeoutError:
                continue
            if not data:
                return
            pending += data
            for command, number, body in fci.messages(pending, self.header):
                if self.panel.mute:
                    continue
                with self._lock:
                    self.device.asked(command, number, body)
                if command == 0:
                    self.device.listener = (connection.getpeername()[0], fci.CONNECT.unpack(body)[1])

    def _left(self) -> None:
        """Nobody minds the arm any more: it stops."""
        with self._lock:
            self.device.listener = self._connection = None
            if isinstance(self.device, Robot) and self.device.mode == fci.Mode.MOVE:
                self.device.end(fci.Moved.PREEMPTED)
                self.panel.watchdog += 1

    def _stream(self) -> None:
        due = monotonic()
        while True:
            period = self._period if self.device.listener else _POLL_S
            due = max(due + period, monotonic() - period)
            sleep(max(0.0, due - monotonic()))
            with self._lock:
                self._receive()
                state, listener = self.device.tick(), self.device.listener
            if listener is None or self.panel.mute or self.panel.take("lose"):
                continue
            if self.panel.take("corrupt"):
                state = state[: len(state) // 2]
            self._late.append((monotonic() + self.panel.delay_s, state))
            while self._late and self._late[0][0] <= monotonic():
                with contextlib.suppress(OSError):  # its port is closed
                    self._udp.sendto(self._late.popleft()[1], listener)

    def _receive(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while True:
                data = self._udp.recv(2048)
                if len(data) == fci.TARGET.itemsize and not self.panel.mute:
                    self.device.target(data)


def serve(chain: Chain, rate_hz: float = 1000.0, hand: bool = True) -> str:
    """A free address of this machine's own, because the SDK fixes the ports. rate_hz: of the arm's states. hand: with a Franka Hand."""
    for last in range(2, 255):
        host = f"127.0.0.{last}"
        try:
            with contextlib.ExitStack() as undo:
                arm, fingers = (undo.enter_context(socket.create_server((host, port))) for port in (fci.PORT, fci.GRIPPER_PORT))
                undo.pop_all()
        except OSError:
            continue
        Server(Robot(chain), fci.HEADER, arm, rate_hz)
        if hand:
            Server(FrankaHand(chain), fci.GRIPPER_HEADER, fingers, 100.0)
            return host
        fingers.close()
        return f"{host},gripper=none"
    raise OSError("no free loopback address")
