"""SafeRobot: an arm, its cameras and a clock behind one governor. Whoever moves a robot moves it through here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from hardware.governor import Governor
from hardware.loop import ArmLoop
from hardware.process import ArmProcess, RemoteGovernor
from hardware.types import Arm, ArmState, Camera, Clock, Command, HardwareError, Observation, RobotSpec

StateReader = Callable[[ArmState], Mapping[str, np.ndarray]]


_NOTING = threading.Lock()  # of why it was stopped: people stop it from threads of their own


class World(Protocol):
    """What only a simulator has; tasks and scripted operators use it, policies never."""

    def reset(self, rng: np.random.Generator) -> None: ...
    def reward(self) -> float: ...
    def success(self) -> bool: ...
    def privileged(self) -> dict[str, np.ndarray]: ...


class SafeRobot:
    """observe, decide, send, again. Entering connects; leaving stops the arm within its limits, then closes it.

    The arm's ticks run inside `observe` while it waits for the next decision. A simulator loses nothing by that; a real arm's run in a
    process of their own (hardware.process), where no pilot, camera or disk can delay them.
    """

    def __init__(
        self,
        spec: RobotSpec,
        loop: ArmLoop | ArmProcess,
        cameras: Mapping[str, Camera],
        state_reader: StateReader,
        world: World | None = None,
    ) -> None:
        self.spec, self.loop, self.cameras, self.world = spec, loop, dict(cameras), world
        arm = loop.governor.arm
        ticks = arm.rate_hz / spec.rate_hz
        if abs(ticks - round(ticks)) > 1e-6 or round(ticks) < 1:
            raise HardwareError(f"{spec.name}: rate_hz {spec.rate_hz} Hz; must divide the arm's {arm.rate_hz} Hz")
        self._ticks = round(ticks)
        self._state_reader = state_reader
        self._connected = False
        self._began = False  # the first observation after a reset is taken at once
        self._seen: dict[str, np.ndarray] = {}  # the last frame of each camera

    _braked: str | None = None
    final_stop: str | None = None
    """A reason after which `reset` raises: an arm that a person stopped does not drive home by itself. No later reason hides it."""
    calibration: str | None = None
    """Hash of what turns a real arm's readings into joints; None: the arm's own does."""

    @property
    def arm(self) -> Arm:
        """The driver, where its loop runs here."""
        assert isinstance(self.loop, ArmLoop), "its loop runs in a process of its own"
        return self.loop.arm

    @property
    def clock(self) -> Clock:
        return self.loop.clock

    @property
    def governor(self) -> Governor | RemoteGovernor:
        """Its counts, its reasons, its limits."""
        return self.loop.governor

    # Life -----------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def connect(self) -> None:
        """Open the cameras, connect the arm and hold it where it stands. Raises HardwareError."""
        if self._connected:
            return
        try:
            for camera in self.cameras.values():
                camera.open()
            self.loop.connect()
        except BaseException:
            self._close_cameras()
            raise
        self._connected, self._began, self._seen = True, False, {}

    def close(self) -> None:
        """Stop, then let go of the arm. Idempotent."""
        if self._connected:
            self._connected = False
            try:
                self.loop.close()
            finally:
                self._close_cameras()

    def _close_cameras(self) -> None:
        for camera in self.cameras.values():
            camera.close()

    def reset(self, rng: np.random.Generator) -> None:
        """Clear a latched stop; put a simulated world to a new start, or drive a real arm home within its limits. Raises HardwareError: it
        was stopped for good, or did not get home. Left by any exception it is stopped."""
        self._need_connection()
        self._begin_reset()
        try:
            if self.world is not None:
                self.world.reset(rng)
            elif not self.governor.at_rest:
                self.loop.stop("reset")
            self.loop.clear(found=self.world is not None)
            if self._braked is not None:  # meanwhile: what is cleared is older
                self.loop.brake(self._braked)
            if self.world is None:
                self.loop.go_home()
        except BaseException:
            self.loop.brake("reset failed")
            raise
        self._began = False

    def anchor(self) -> None:
        """Hold the arm where it now is and forget older commands: needed after a simulator's state was restored by hand. A real arm that
        moves is stopped first."""
        self._need_connection()
        self.loop.anchor(found=self.world is not None)
        self._began = False

    # The loop -------------------------------------------------------------------------------------------------------

    def observe(self) -> Observation:
        """Wait one decision period (a simulator: run its physics), the arm moving all the while; then look.

        The first call after connect or reset looks at once. images uint8 (H, W, 3), state float32 (D,).
        """
        self._need_connection()
        if self._began:
            self.loop.run(self._ticks)
        self._began = True
        state = self.loop.read()
        if state is not None:
            self.loop.state = state
        return self._look()

    def _look(self) -> Observation:
        images = {name: self._frame(name, camera) for name, camera in self.cameras.items()}
        values = self._state_reader(self.loop.state)
        state = {name: np.asarray(values[name], dtype=np.float32) for name in self.spec.state}
        return Observation(self.clock.now(), images, state)

    def _frame(self, name: str, camera: Camera) -> np.ndarray:
        """The newest; where there is none new enough, the arm stops, and the last one, or a black one, is what is seen."""
        try:
            self._seen[name] = camera.read()
        except HardwareError as error:
            if self.stopped is None:
                self.stop(f"camera: {error}")
        return self._seen.get(name, np.zeros((*camera.size, 3), np.uint8))

    def send(self, command: Command) -> np.ndarray:
        """Hand a command to the governor. Returns the action admitted, float32 (A,); a refused command holds the arm."""
        self._need_connection()
        return self.governor.admit(command, self.clock.now())

    def hold(self) -> np.ndarray:
        """The action, float32 (A,), that changes nothing of what is commanded: the arm comes to rest there."""
        governor = self.governor
        return governor.kinematics.hold(governor.commanded(self.clock.now()), governor.setpoint.gripper).astype(np.float32)

    def stop(self, reason: str) -> None:
        """Bring the arm to rest within its limits, latched until reset; the vendor's stop if that fails."""
        self._note_stop(reason)
        self.loop.stop(reason)

    def brake(self, reason: str) -> None:
        """As `stop`, without waiting; from any thread. It ends a reset that has begun."""
        self._note_stop(reason)
        self.loop.brake(reason)

    def _note_stop(self, reason: str) -> None:
        with _NOTING:
            if self._braked is None or self._braked != self.final_stop:
                self._braked = reason

    def forget_stop(self) -> None:
        """Whoever stopped it, for good perhaps, is no longer there."""
        with _NOTING:
            self._braked = self.final_stop = None

    def _begin_reset(self) -> None:
        with _NOTING:
            if self._braked is not None and self._braked == self.final_stop:
                raise HardwareError(
                    f"{self.spec.name}: stopped ({self._braked}) and left where it is; the same command, given anew, drives it home"
                )
            self._braked = None

    @property
    def stopped(self) -> str | None:
        """Why the arm was stopped; None while it may move."""
        return self.governor.stopped

    @property
    def stop_asked(self) -> str | None:
        """Why somebody stopped it, last, since the last reset began; it may have been at rest for another reason already."""
        return self._braked

    def _need_connection(self) -> None:
        if not self._connected:
            raise HardwareError(f"{self.spec.name}: not connected; use `with robot:` or robot.connect()")
