"""An arm's loop in a process of its own: whatever the pilot, a camera, a disk or Python's garbage collector do, the arm is told in time."""

from __future__ import annotations

import atexit
import multiprocessing
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hardware.clock import WallClock
from hardware.governor import Governor, Setpoint
from hardware.process_server import Brake, Facts, Row, Start, serve
from hardware.ring import Ring
from hardware.types import ArmState, Command, HardwareError

CONNECT_S = 60.0  # some vendors' controllers start up meanwhile
ANSWER_S = 10.0  # an arm that needs longer to connect, to stop or to answer is taken for lost


def longest_way_s(governor: Governor | RemoteGovernor) -> float:
    """From one end of every joint home, at half speed [s]."""
    arm = governor.arm
    return 2 * float(np.max((arm.q_max - arm.q_min) / arm.v_max)) + 2 * governor.brake_s


class RemoteGovernor:
    """What one may know of the governor in the other process, and the way to it."""

    def __init__(self, process: ArmProcess, twin: Governor) -> None:
        self._process = process
        self.arm, self.limits, self.action, self.kinematics = twin.arm, twin.limits, twin.action, twin.kinematics
        self.period_s, self.brake_s, self.dt = twin.period_s, twin.brake_s, twin.dt

    def admit(self, command: Command, now: float) -> np.ndarray:
        """As Governor.admit, judged when it arrives, a tick later at most."""
        return self._process.ask("admit", command)

    def commanded(self, now: float) -> np.ndarray:
        """As Governor.commanded, when it arrives."""
        return self._process.ask("commanded")

    @property
    def facts(self) -> Facts:
        return self._process.ask("facts")

    @property
    def interventions(self) -> Counter[str]:
        return self.facts.interventions

    @property
    def events(self) -> deque[tuple[float, str]]:
        return self.facts.events

    @property
    def stopped(self) -> str | None:
        return self.facts.stopped

    @property
    def setpoint(self) -> Setpoint:
        return self._process.row().setpoint

    @property
    def at_rest(self) -> bool:
        return self._process.row().at_rest


class ArmProcess:
    """Stands in for an ArmLoop (hardware.loop). If this process dies, the other brings the arm to rest and closes it."""

    def __init__(self, start: Start, fifo: bool = False) -> None:
        """fifo: ask for real-time priority; `realtime` says whether it was granted."""
        arm, twin = start()
        self.name = arm.spec.name
        self.clock, self.governor = WallClock(), RemoteGovernor(self, twin)
        self.on_reset: list[Callable[[], None]] = []
        self.state: ArmState
        self.realtime: str | None = None
        self._start, self._fifo, self._lock = start, fifo, threading.Lock()
        self._ring: Ring | None = None
        self._process: Any = None
        self._pipe: Any = None
        self._brake: Brake | None = None
        self._asked, self._due = 0, 0.0

    # Life -----------------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Start the process where there is none, and the arm. Raises HardwareError."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._ring = Ring(Row.width(len(self.governor.arm.joints)))
            self._pipe, theirs = context.Pipe()
            self._brake = Brake(context)
            job = (self._start, theirs, self._ring.name, self._brake, self._fifo)
            self._process = context.Process(target=serve, args=job, name=f"loop of {self.name}")
            self._process.start()
            theirs.close()
            atexit.register(self.close)  # a program that ends without closing would wait for the process, and it for the program
        try:
            self.realtime = self.ask("connect", within_s=CONNECT_S)
            assert self._ring is not None
            self._ring.hide()  # both have it by now
        except HardwareError:
            self.close()
            raise
        self._reset()

    def close(self) -> None:
        """The arm comes to rest, is let go of, and the process ends."""
        if self._process is None:
            return
        atexit.unregister(self.close)
        if self._brake is not None:
            self._brake.pull("closed")  # it may be on its way home
        try:
            self.ask("close", within_s=ANSWER_S + self.governor.brake_s)
        except HardwareError:
            self._process.terminate()  # it brakes first
        self._process.join(ANSWER_S + self.governor.brake_s)
        if self._process.is_alive():
            self._process.kill()  # the arm's own watchdog is what is left
        self._pipe.close()
        if self._ring is not None:
            self._ring.close()
        self._process = self._pipe = self._ring = None

    def clear(self, found: bool = False) -> None:
        self.ask("clear", found, within_s=CONNECT_S)  # it may have to be connected again
        self._reset()

    def anchor(self, clear: bool = False, found: bool = False) -> None:
        self.ask("anchor", clear, found)
        self._reset()

    def go_home(self) -> None:
        self.ask("go_home", within_s=ANSWER_S + longest_way_s(self.governor))
        self._reset()

    def _reset(self) -> None:
        self.state, self._due = self.row().state, self.clock.now()
        for listener in self.on_reset:
            listener()

    # The loop -------------------------------------------------------------------------------------------------------

    def run(self, ticks: int) -> None:
        """Wait so long; the arm moves by itself."""
        self._due += ticks * self.governor.dt
        self.clock.sleep_until(self._due)
        late = self.clock.now() - self._due
        if late > self.governor.dt:  # missed time is skipped
            self._due += late

    def read(self) -> ArmState | None:
        """What was measured last; None where that is too old."""
        state = self.row().state
        return state if self.clock.now() - state.time <= self.governor.limits.state_stale_s else None

    def stop(self, reason: str) -> None:
        """At rest, or halted by the vendor's stop, when this returns. It is heard at the next tick, whatever else is being waited for."""
        self.brake(reason)
        self.ask("stop", reason, within_s=ANSWER_S + self.governor.brake_s)

    def brake(self, reason: str) -> None:
        """As `stop`, without waiting; from any thread."""
        if self._brake is not None:
            self._brake.pull(reason)

    def schedule(self, rows: Sequence[Command]) -> int:
        """Commands for times to come (hardware.schedule); returns how many came too late."""
        return self.ask("schedule", list(rows))

    def row(self) -> Row:
        """The newest of the loop's rows."""
        rows = self.history(1)
        if not rows:
            raise HardwareError(f"{self.name}: its loop has not ticked yet; connect first")
        return rows[-1]

    def history(self, count: int) -> list[Row]:
        """The last rows, oldest first: the arm at its own rate."""
        if self._ring is None:
            raise HardwareError(f"{self.name}: not connected")
        return [Row.unpack(row, len(self.governor.arm.joints)) for row in self._ring.newest(count)]

    def ask(self, what: str, *arguments: Any, within_s: float = ANSWER_S) -> Any:
        """Raises HardwareError: what the other process raised, or that it is gone."""
        if self._pipe is None:
            raise HardwareError(f"{self.name}: not connected")
        with self._lock:
            self._asked += 1
            try:
                self._pipe.send((self._asked, what, arguments))
                number, fine, answer = 0, False, None
                while number != self._asked:  # an older answer is to a question whose asker was interrupted
                    if not self._pipe.poll(within_s):
                        raise HardwareError(f"{self.name}: its loop did not answer `{what}` within {within_s:g} s")
                    number, fine, answer = self._pipe.recv()
            except (EOFError, OSError) as error:
                raise HardwareError(f"{self.name}: its loop's process is gone (exit code {self._process.exitcode})") from error
        if not fine:
            raise HardwareError(answer)
        return answer
