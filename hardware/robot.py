"""SafeRobot: an arm, its cameras and a clock behind one governor. Whoever moves a robot moves it through here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from hardware.governor import Governor, Setpoint
from hardware.types import Arm, ArmState, Camera, Clock, Command, HardwareError, Observation, RobotSpec

StateReader = Callable[[ArmState], Mapping[str, np.ndarray]]


class World(Protocol):
    """What only a simulator has; tasks and scripted operators use it, policies never."""

    def reset(self, rng: np.random.Generator) -> None: ...
    def reward(self) -> float: ...
    def success(self) -> bool: ...
    def privileged(self) -> dict[str, np.ndarray]: ...


class SafeRobot:
    """observe, decide, send, again. Entering connects; leaving stops the arm within its limits, then closes it.

    The arm's ticks (read, govern, write, at ArmSpec.rate_hz) run inside `observe` while it waits for the next decision.
    A simulator loses nothing by that. A real arm holds its last setpoint while the pilot thinks, and moves again from
    rest; a process of its own for the ticks is the place to mend that.
    """

    def __init__(
        self,
        spec: RobotSpec,
        arm: Arm,
        cameras: Mapping[str, Camera],
        clock: Clock,
        governor: Governor,
        state_reader: StateReader,
        world: World | None = None,
    ) -> None:
        self.spec, self.arm, self.cameras, self.clock, self.governor, self.world = spec, arm, dict(cameras), clock, governor, world
        self.on_setpoint: list[Callable[[float, Setpoint], None]] = []  # called with (time, setpoint) after each write
        self.on_reset: list[Callable[[], None]] = []  # called after the arm was re-anchored, perhaps elsewhere
        ticks = arm.spec.rate_hz / spec.rate_hz
        if abs(ticks - round(ticks)) > 1e-6 or round(ticks) < 1:
            raise HardwareError(f"{spec.name}: rate_hz {spec.rate_hz} Hz; must divide the arm's {arm.spec.rate_hz} Hz")
        self._ticks = round(ticks)
        self._state_reader = state_reader
        self._connected = self._halted = False
        self._unwritten: Setpoint | None = None  # planned, not yet with the arm: skipping it would be a jump
        self._began = False  # the first observation after a reset is taken at once

    # Life -----------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def connect(self) -> None:
        """Connect the arm and hold it where it stands. Raises HardwareError."""
        if not self._connected:
            self.arm.connect()
            self._connected = True
            self.anchor()

    def close(self) -> None:
        """Stop, then let go of the arm. Driver errors on the way are swallowed: stopping comes first. Idempotent."""
        if not self._connected:
            return
        self._connected = False
        try:
            if not self.governor.at_rest:
                self.stop("closed")
        finally:
            try:
                self.arm.close()
            except Exception:
                self._halt()

    def reset(self, rng: np.random.Generator) -> None:
        """Clear a latched stop; put a simulated world to a new start, or drive a real arm home within its limits."""
        self._need_connection()
        if self.world is None and not self.governor.at_rest:
            self.stop("reset")
        if self._halted:
            self.arm.connect()  # clears the vendor's stop
            self._halted = False
        if self.world is not None:
            self.world.reset(rng)
        self.anchor(clear=True)
        if self.world is None:
            self._go_home()

    def anchor(self, clear: bool = False) -> None:
        """Hold the arm where it now stands and forget older commands: also needed after a simulator's state was restored
        by hand. clear: forget a latched stop too."""
        self._need_connection()
        state = self._read()
        if state is None:
            raise HardwareError(f"{self.arm.spec.name}: no reply to two reads; is it powered and connected?")
        (self.governor.reset if clear else self.governor.restart)(self.clock.now(), state.q, state.gripper)
        self._state, self._began, self._unwritten = state, False, None
        for listener in self.on_reset:
            listener()

    def _go_home(self) -> None:
        home, arm = self.arm.spec.home, self.arm.spec
        seconds = float(np.max(np.abs(home - self._state.q) / arm.v_max)) / 0.5 + self.governor.brake_s  # at half speed
        self.governor.move(home, self._state.gripper, self.clock.now(), seconds)
        self._run(int(np.ceil((seconds + self.governor.brake_s) * arm.rate_hz)))
        if self.governor.stopped:
            raise HardwareError(f"{arm.name}: stopped on the way home: {self.governor.stopped}")
        self.anchor()

    # The loop -------------------------------------------------------------------------------------------------------

    def observe(self) -> Observation:
        """Wait one decision period (a simulator: run its physics), the arm moving all the while; then look.

        The first call after connect or reset looks at once. images uint8 (H, W, 3), state float32 (D,).
        """
        self._need_connection()
        if self._began:
            self._run(self._ticks)
        self._began = True
        state = self._read()
        if state is not None:
            self._state = state
        return self._look()

    def _look(self) -> Observation:
        images = {name: camera.read() for name, camera in self.cameras.items()}
        values = self._state_reader(self._state)
        state = {name: np.asarray(values[name], dtype=np.float32) for name in self.spec.state}
        return Observation(self.clock.now(), images, state)

    def send(self, command: Command) -> np.ndarray:
        """Hand a command to the governor. Returns the action admitted, float32 (A,); a refused command holds the arm."""
        self._need_connection()
        return self.governor.admit(command, self.clock.now())

    def stop(self, reason: str) -> None:
        """Bring the arm to rest within its limits, latched until reset; the vendor's stop if that fails."""
        self.governor.stop(reason)
        try:
            ticks = int(np.ceil(self.governor.brake_s * self.arm.spec.rate_hz)) + 2
            while ticks > 0 and not self._halted and not self.governor.at_rest:
                self._run(1)
                ticks -= 1
        except BaseException:
            self._halt()
            raise
        if not self.governor.at_rest:
            self._halt()

    @property
    def stopped(self) -> str | None:
        """Why the arm was stopped; None while it may move."""
        return self.governor.stopped

    # One tick -------------------------------------------------------------------------------------------------------

    def _run(self, ticks: int) -> None:
        due = self.clock.now()
        for _ in range(ticks):
            self._tick()
            due += self.governor.dt
            self.clock.sleep_until(due)
            late = self.clock.now() - due
            if late > self.governor.dt:  # missed ticks are skipped, never made up for in a burst
                due += late

    def _tick(self) -> None:
        if self._halted:
            return
        if self._unwritten is None:  # else: an exception, Ctrl-C perhaps, came between planning and writing
            try:
                self._unwritten = self.governor.step(self.clock.now(), self._read())
            except HardwareError:
                self._halt()
                return
        setpoint = self._unwritten
        self._write(setpoint)
        self._unwritten = None
        for listener in self.on_setpoint:
            listener(self.clock.now(), setpoint)

    def _read(self) -> ArmState | None:
        """One reply, asked for twice at most; None and a stop where both are lost."""
        error = ""
        for _ in range(2):
            try:
                return self.arm.read()
            except Exception as lost:
                error = str(lost)
        self.governor.stop("lost_reply", error)
        return None

    def _write(self, setpoint: Setpoint) -> None:
        error = ""
        for _ in range(2):
            try:
                return self.arm.write(setpoint.q, setpoint.gripper)
            except Exception as failed:
                error = str(failed)
        self.governor.stop("write_error", error)
        self._halt()

    def _halt(self) -> None:
        self._halted = True
        try:
            self.arm.halt()
        except Exception as error:
            self.governor.stop("halt_failed", str(error))

    def _need_connection(self) -> None:
        if not self._connected:
            raise HardwareError(f"{self.spec.name}: not connected; use `with robot:` or robot.connect()")
