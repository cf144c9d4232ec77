"""The only loop that moves an arm: read, govern, write, at its own rate; beside the pilot, or in a process of its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hardware.governor import Governor, Setpoint
from hardware.types import Arm, ArmState, Clock, HardwareError

AT_HOME = 0.05  # rad, m: as near as the way home must end


class ArmLoop:
    """An arm, a clock and the governor between them. Nothing here raises but HardwareError; a failing arm is stopped, then halted."""

    def __init__(self, arm: Arm, clock: Clock, governor: Governor) -> None:
        self.arm, self.clock, self.governor = arm, clock, governor
        self.on_setpoint: list[Callable[[float, Setpoint], None]] = []  # called with (time, setpoint) after each write
        self.on_reset: list[Callable[[], None]] = []  # called after the arm was re-anchored, perhaps elsewhere
        self.halted = False
        self.state: ArmState  # the newest measurement; from `anchor` on there is one
        self._unwritten: Setpoint | None = None  # planned, not yet with the arm: skipping it would be a jump
        self._brake: str | None = None

    def connect(self) -> None:
        """Connect, and hold the arm where it stands. Raises HardwareError."""
        self.arm.connect()
        self.halted = False
        self.anchor()

    def close(self) -> None:
        """Stop, then let go of the arm. Driver errors on the way are swallowed: stopping comes first."""
        try:
            if not self.governor.at_rest:
                self.stop("closed")
        finally:
            try:
                self.arm.close()
            except Exception:
                self.halt()

    def clear(self) -> None:
        """Forget a latched stop; an arm that was halted, reports a fault or says nothing is connected again, which clears the vendor's.
        At rest afterwards."""
        state = None if self.halted else self.read()
        if state is None or state.fault is not None:
            self.arm.connect()
            self.halted = False
        self.anchor(clear=True)

    def anchor(self, clear: bool = False) -> None:
        """Hold the arm where it now stands and forget older commands. clear: forget a latched stop too."""
        state = self.read()
        if state is None:
            raise HardwareError(f"{self.arm.spec.name}: no reply to two reads; is it powered and connected?")
        (self.governor.reset if clear else self.governor.restart)(self.clock.now(), state.q, state.gripper)
        self.state, self._unwritten = state, None
        for listener in self.on_reset:
            listener()

    def go_home(self) -> None:
        """Drive home within the limits, at half speed. Raises HardwareError where it does not come to rest there."""
        arm = self.governor.arm  # the driver's own knows nothing of a lower speed that was asked for
        seconds = float(np.max(np.abs(arm.home - self.state.q) / arm.v_max)) / 0.5 + self.governor.brake_s
        self.governor.move(arm.home, self.state.gripper, self.clock.now(), seconds)
        ticks = int(np.ceil((seconds + self.governor.brake_s) * arm.rate_hz))
        self.run(ticks, lambda: self.governor.stopped is not None and (self.halted or self.governor.at_rest))
        if self.governor.stopped:
            raise HardwareError(f"{arm.name}: stopped on the way home: {self.governor.stopped}")
        left = np.abs(arm.home - self.governor.setpoint.q)
        if not self.governor.at_rest or left.max() > AT_HOME:
            self.stop("way_home")  # never anchored in motion, which would be a jump
            joint = int(left.argmax())
            raise HardwareError(f"{arm.name}: not home in time: {arm.joints[joint]} is {left[joint]:.2f} {arm.units} away")
        self.anchor()

    def stop(self, reason: str) -> None:
        """Bring the arm to rest within its limits, latched until cleared; the vendor's stop if that fails."""
        self.governor.stop(reason)
        try:
            ticks = int(np.ceil(self.governor.brake_s * self.arm.spec.rate_hz)) + 2
            while ticks > 0 and not self.halted and not self.governor.at_rest:
                self.run(1)
                ticks -= 1
        except BaseException:
            self.halt()
            raise
        if not self.governor.at_rest:
            self.halt()

    def brake(self, reason: str) -> None:
        """A stop that waits for nobody, from any thread: it begins with the next tick."""
        self._brake = reason

    def run(self, ticks: int, until: Callable[[], bool] = lambda: False) -> None:
        """So many ticks, each at its time; fewer where `until` comes true."""
        due = self.clock.now()
        for _ in range(ticks):
            if until():
                return
            self.tick()
            due += self.governor.dt
            self.clock.sleep_until(due)
            late = self.clock.now() - due
            if late > self.governor.dt:  # missed ticks are skipped, never made up for in a burst
                due += late

    def tick(self) -> None:
        """Read, govern, write; nothing once halted."""
        if self._brake is not None:
            reason, self._brake = self._brake, None
            self.governor.stop(reason)
        if self.halted:
            return
        if self._unwritten is None:  # else: an exception, Ctrl-C perhaps, came between planning and writing
            state = self.read()
            try:
                self._unwritten = self.governor.step(self.clock.now(), state)
            except HardwareError:
                self.halt()
                return
        setpoint = self._unwritten
        self._write(setpoint)
        self._unwritten = None
        for listener in self.on_setpoint:
            listener(self.clock.now(), setpoint)

    def read(self) -> ArmState | None:
        """One reply, asked for twice at most; None and a stop where both are lost."""
        error = ""
        for _ in range(2):
            try:
                return self.arm.read()
            except Exception as lost:
                error = str(lost)
        self.governor.stop("lost_reply", error)
        return None

    def halt(self) -> None:
        """The vendor's own stop; nothing is written from now on."""
        self.halted = True
        try:
            self.arm.halt()
        except Exception as error:
            self.governor.stop("halt_failed", str(error))

    def _write(self, setpoint: Setpoint) -> None:
        error = ""
        for _ in range(2):
            try:
                return self.arm.write(setpoint.q, setpoint.gripper)
            except Exception as failed:
                error = str(failed)
        self.governor.stop("write_error", error)
        self.halt()
