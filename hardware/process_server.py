"""The other end of hardware.process: ticks at absolute times, publishes every tick, answers between two of them."""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Self

import numpy as np

from hardware.clock import WallClock
from hardware.governor import Governor, Setpoint
from hardware.loop import ArmLoop
from hardware.ring import Ring
from hardware.schedule import Schedule
from hardware.types import Arm, ArmState, HardwareError

Start = Callable[[], tuple[Arm, Governor]]  # picklable; builds a driver, not connected, and its governor
PRIORITY = 60  # of SCHED_FIFO, 1 to 99


@dataclass(frozen=True)
class Facts:
    """Of the governor: what it stopped for, what it changed."""

    stopped: str | None
    interventions: Counter[str]
    events: deque[tuple[float, str]]
    late_rows: int
    missed_ticks: int


@dataclass(frozen=True)
class Row:
    """One tick: what was measured, what was written, how late [s] it began."""

    time: float
    state: ArmState
    setpoint: Setpoint
    at_rest: bool
    halted: bool
    late_s: float

    @staticmethod
    def width(joints: int) -> int:
        return 8 + 5 * joints

    def pack(self) -> np.ndarray:
        state, setpoint = self.state, self.setpoint
        plain = (self.time, state.time, state.seq, state.gripper, setpoint.gripper, self.at_rest, self.halted, self.late_s)
        return np.concatenate([plain, state.q, state.dq, setpoint.q, setpoint.v, setpoint.a])

    @classmethod
    def unpack(cls, row: np.ndarray, joints: int) -> Self:
        time, measured, seq, gripper, told, at_rest, halted, late_s = row[:8].tolist()
        q, dq, goal, v, a = row[8:].reshape(5, joints)
        return cls(time, ArmState(measured, int(seq), q, dq, gripper), Setpoint(goal, told, v, a), bool(at_rest), bool(halted), late_s)


class Brake:
    """A stop that waits for nobody: heard at the next tick, whatever the pipe is busy with."""

    def __init__(self, context: Any) -> None:
        # Without locks: a process that was killed while it held one would hang the other.
        self._pulled, self._reason = context.RawValue("b", 0), context.RawArray("c", 400)

    def pull(self, reason: str) -> None:
        self._reason.value = reason.encode(errors="replace")[:399]
        self._pulled.value = 1

    def pulled(self) -> str | None:
        """Why, once; None where nobody pulled it."""
        if not self._pulled.value:
            return None
        self._pulled.value = 0
        return self._reason.value.decode(errors="replace")


def serve(start: Start, pipe: Connection, ring: str, brake: Brake, fifo: bool) -> None:
    """The process. It ends when asked to, when terminated, or when its parent is gone; the arm is at rest then."""
    for typed in (signal.SIGINT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):  # Ctrl-C, Ctrl-Z and the like are the parent's:
        signal.signal(typed, signal.SIG_IGN)  # it stops the arm in its own way, or falls silent, and the governor does
    arm, governor = start()
    rows = Ring(Row.width(len(arm.spec.joints)), name=ring)
    server = _Server(ArmLoop(arm, WallClock(), governor), pipe, rows, brake, fifo)
    for ended in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):  # the terminal was closed, Ctrl-\
        signal.signal(ended, lambda *_: server.leave("terminated"))
    server.run()
    os._exit(0)  # the interpreter's own end would only complain of what the frozen garbage collector left


class _Server:
    def __init__(self, loop: ArmLoop, pipe: Connection, ring: Ring, brake: Brake, fifo: bool) -> None:
        self.loop, self.governor, self.pipe, self.ring, self.brake, self.fifo = loop, loop.governor, pipe, ring, brake, fifo
        self.schedule = Schedule(self.governor.period_s)
        self.waiting: deque[tuple[int, str, tuple[Any, ...]]] = deque()
        self.connected, self.leaving = False, ""
        self.due, self.late_s, self.missed = 0.0, 0.0, 0
        loop.on_setpoint.append(self._publish)

    def run(self) -> None:
        try:
            while not self.leaving:
                self._turn()
        except Exception as error:  # a fault of ours: the arm comes to rest
            self.leave(f"loop: {error!r}")
        if self.connected:
            self.loop.stop(self.leaving)
            self.loop.close()
        self.ring.close()

    def _turn(self) -> None:
        self._listen(0.0 if self.connected else 0.2)
        while self.waiting and not self.leaving:
            self._answer(*self.waiting.popleft())
        if self.connected and not self.leaving:
            self._tick()

    def leave(self, reason: str) -> None:
        """At rest first: the loop may be in the middle of a tick, or of a way home."""
        self.leaving = reason
        self.governor.stop(reason)

    def _tick(self) -> None:
        clock, dt = self.loop.clock, self.governor.dt
        self.due += dt
        clock.sleep_until(self.due)
        now = clock.now()
        self.late_s = now - self.due
        if self.late_s > dt:  # missed ticks are skipped
            self.missed += int(self.late_s / dt)
            self.due = now
        command = self.schedule.due(now)
        if command is not None:
            self.governor.admit(command, now)
        self.loop.tick()
        if self.loop.halted:
            self._publish(now, self.governor.setpoint)

    def _publish(self, now: float, setpoint: Setpoint) -> None:
        """After every setpoint, also on the way home; and a stop that came meanwhile is not kept waiting."""
        fresh = self.governor.newest
        if fresh is not None:
            self.ring.put(Row(now, fresh, setpoint, self.governor.at_rest, self.loop.halted, self.late_s).pack())
        self._listen(0.0)

    def _listen(self, wait_s: float) -> None:
        if (reason := self.brake.pulled()) is not None:
            self.governor.stop(reason)
        try:
            while self.pipe.poll(wait_s):
                request = self.pipe.recv()
                self.waiting.append(request)
                wait_s = 0.0
        except (EOFError, OSError):
            self.leave("operator process gone")

    def _answer(self, number: int, what: str, arguments: tuple[Any, ...]) -> None:
        try:
            answer = True, getattr(self, f"_on_{what}")(*arguments)
        except HardwareError as error:
            answer = False, str(error)
        except Exception as error:  # a fault of ours: the arm comes to rest, the caller is told
            self.governor.stop("loop", repr(error))
            answer = False, f"{self.loop.arm.spec.name}: {error!r}"
        try:
            self.pipe.send((number, *answer))
        except OSError:
            self.leave("operator process gone")

    # Requests -------------------------------------------------------------------------------------------------------

    def _on_connect(self) -> str:
        granted = self._realtime() if self.fifo else "not asked for"  # first: an SDK's threads have what they inherit
        self.loop.connect()
        self.connected = True
        gc.collect()
        gc.freeze()
        gc.disable()
        self._set_out()
        return granted

    def _on_close(self) -> None:
        self.leave("closed")

    def _on_clear(self, found: bool) -> None:
        self.loop.clear(found)
        self._set_out()
        gc.collect()  # between two episodes, while the arm rests

    def _on_anchor(self, clear: bool, found: bool) -> None:
        self.loop.anchor(clear, found)
        self._set_out()

    def _on_go_home(self) -> None:
        self.loop.go_home()
        self._set_out()

    def _on_stop(self, reason: str) -> None:
        self.loop.stop(reason)
        self._set_out()

    def _on_admit(self, command: Any) -> np.ndarray:
        return self.governor.admit(command, self.loop.clock.now())

    def _on_commanded(self) -> np.ndarray:
        return self.governor.commanded(self.loop.clock.now())

    def _on_schedule(self, rows: list[Any]) -> int:
        return self.schedule.replace(rows, self.loop.clock.now())

    def _on_facts(self) -> Facts:
        governor = self.governor
        return Facts(governor.stopped, Counter(governor.interventions), deque(governor.events), self.schedule.late, self.missed)

    def _set_out(self) -> None:
        """After something that took its own time: ticks go on from now, with nothing scheduled."""
        self.schedule.clear()
        self.due = self.loop.clock.now()
        if not self.loop.halted:
            self.loop.tick()

    def _realtime(self) -> str:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
        except (AttributeError, OSError) as error:
            return f"refused: {error}; needs root, or `ulimit -r {PRIORITY}`"
        return "SCHED_FIFO"
