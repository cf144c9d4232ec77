"""The only loop that moves an arm: read, govern, write, at its own rate; beside the pilot, or in a process of its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hardware.governor import Governor, Setpoint
from hardware.types import Arm, ArmState, Clock, HardwareError

TOLD, MEASURED = 0.02, 0.15  # rad, m: off home at the end of its way, an arm may be told to be, and be: servos sag


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
        """Connect, and hold the arm where it stands. Raises HardwareError, with nothing left open."""
        self.arm.connect()
        self.halted = False
        try:
            self._find()
        except BaseException:
            self.arm.close()
            raise

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

    def clear(self, found: bool = False) -> None:
        """Forget a latched stop; an arm that was halted, reports a fault or says nothing new is connected again, which clears the
        vendor's. At rest afterwards. found: as for `anchor`."""
        self._brake = None  # of before
        state = None if self.halted else self.read_fresh()
        if state is None or state.fault is not None:
            held = None if self.halted or state is not None else self.governor.setpoint.q
            self.arm.connect()
            self.halted = False
            self._find(clear=True, held=held)
        else:
            self._anchor(state, clear=True, found=found)

    def _find(self, clear: bool = False, held: np.ndarray | None = None) -> None:
        """Of an arm that was just connected. What it says first may be what it said last before; what comes after that is new. held: where
        it should still be, for nothing stopped it."""
        first = self.read_fresh()
        state = first and self.read_fresh(since=first)
        if state is not None and held is not None and (apart := float(np.abs(state.q - held).max())) > MEASURED:
            away = f"says that it is {apart:.2f} {self.governor.arm.units} from where it was told to be, and gave no new reading before"
            raise HardwareError(f"{self.arm.spec.name}: {away}; look at it: the same command, given anew, takes it for where it says")
        self._anchor(state, clear, found=True)

    def anchor(self, clear: bool = False, found: bool = False) -> None:
        """Hold the arm where it is and forget older commands. clear: forget a latched stop too. Raises HardwareError: nothing new is heard.

        Where it is told to be, that is: to take a measurement for it would be a jump, by what the arm trails or sags. found: where it is
        measured, as after connecting, or after a simulator put it there by hand.
        """
        self._anchor(self.read_fresh(), clear, found)

    def _anchor(self, state: ArmState | None, clear: bool, found: bool) -> None:
        if state is None:
            raise HardwareError(f"{self.arm.spec.name}: no reply to two reads, or none but old ones; is it powered and connected?")
        found = found or self.halted
        if not found and not self.governor.at_rest:
            self.stop("anchored")
        where = state if found else self.governor.setpoint
        (self.governor.reset if clear else self.governor.restart)(self.clock.now(), where.q, where.gripper)
        self.state, self._unwritten = state, None
        for listener in self.on_reset:
            listener()

    def go_home(self) -> None:
        """Drive home within the limits, at half speed. Raises HardwareError where it does not come to rest there."""
        arm = self.governor.arm  # the driver's own knows nothing of a lower speed that was asked for
        seconds = float(np.max(np.abs(arm.home - self.state.q) / arm.v_max)) / 0.5 + self.governor.brake_s
        self.governor.move(arm.home, self.governor.setpoint.gripper, self.clock.now(), seconds)
        ticks = int(np.ceil((seconds + self.governor.brake_s) * arm.rate_hz))
        self.run(ticks, lambda: (self.governor.stopped is not None or self.governor.blocked) and (self.halted or self.governor.at_rest))
        state = self.read_fresh()
        if state is None:
            self.stop("stale_state")
        if self.governor.stopped or state is None:
            raise HardwareError(f"{arm.name}: stopped on the way home: {self.governor.stopped}")
        told, measured = np.abs(arm.home - self.governor.setpoint.q), np.abs(arm.home - state.q)
        if not self.governor.at_rest or told.max() > TOLD or measured.max() > MEASURED:
            why = "; it would have run into something" if self.governor.blocked else ""
            self.stop("way_home")
            joint = int(measured.argmax())
            raise HardwareError(f"{arm.name}: did not get home: {arm.joints[joint]} is {measured[joint]:.2f} {arm.units} away{why}")
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

    def read_fresh(self, since: ArmState | None = None) -> ArmState | None:
        """A reply that is new enough to go by, waited for as long as one may take; None where there is none. Drivers repeat old ones."""
        patience, seq = self.governor.limits.state_stale_s, -1 if since is None else since.seq
        until = self.clock.now() + patience
        while (state := self.read()) is not None and ((now := self.clock.now()) - state.time > patience or state.seq <= seq):
            if now >= until:
                return None
            self.clock.sleep_until(now + self.governor.dt)
        return state

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
