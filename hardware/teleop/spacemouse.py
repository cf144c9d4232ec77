"""Driving with a 3Dconnexion SpaceMouse."""

from __future__ import annotations

import contextlib
import io
from types import TracebackType
from typing import Any

import numpy as np

from hardware.teleop.keys import Keys, NoKeys
from hardware.teleop.operator import Jogger, shape
from hardware.types import HardwareError, Observation, RobotSpec

DEADZONE = 0.08  # of full deflection: the cap does not rest exactly at zero
SILENT_S = 0.2  # a deflected cap reports every 8 or 16 ms, one at rest not at all: deflected and silent, it is out of range
_READS = 64  # the device queues reports at up to 1 kHz; reading one per decision would steer by the past


class SpaceMouse(Jogger):
    """Push the cap to move: x forward, y left, z up; turn it to turn the tool, where the body can. Left button: gripper. Right
    button: success. At rest the arm holds.

    keys: episode keys typed in the terminal as well, where there is one. device: an open pyspacemouse device; found if None.
    """

    help = "push the cap to move, turn it to turn · left button gripper · right button success"

    def __init__(self, spec: RobotSpec, keys: Keys | None = None, device: Any = None) -> None:
        super().__init__(spec, NoKeys() if keys is None else keys)
        self._device: Any = device
        self._buttons = [0, 0]
        self._said, self._heard = None, -np.inf  # the newest report, and when it was new [s]

    def __enter__(self) -> SpaceMouse:
        if self._device is None:
            self._device = _find()
        super().__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        super().__exit__(kind, error, trace)
        if self._device is not None:
            self._device.close()
            self._device = None

    def reset(self) -> None:
        super().reset()
        self._said, self._heard = self._newest().t, -np.inf

    def step_m(self, observation: Observation, pressed: list[str]) -> np.ndarray:
        state = self._newest()
        buttons = [*state.buttons, 0, 0][:2]
        left, right = (now and not before for now, before in zip(buttons, self._buttons, strict=True))
        self._buttons = buttons
        if left:
            self.openness = 1.0 - round(self.openness)
        if right:
            self.verdict = "success"
        if state.t != self._said:
            self._said, self._heard = state.t, observation.time
        there = observation.time - self._heard <= SILENT_S
        self._turned = there * np.array([state.roll, state.pitch, state.yaw])
        return shape(there * np.array([state.x, state.y, state.z]), DEADZONE) * self.jog.limit_m()

    def turn_rad(self, observation: Observation) -> np.ndarray:
        return shape(self._turned, DEADZONE) * self.jog.limit_rad()

    def _newest(self) -> Any:
        """The state after every queued report. Raises HardwareError: it was unplugged."""
        try:
            state, seen = self._device.read(), None
            for _ in range(_READS):
                if state.t == seen:
                    break
                seen = state.t
                state = self._device.read()
        except Exception as error:  # each HID binding has an exception of its own
            raise HardwareError(f"spacemouse: it is gone ({error}); plug it in again") from error
        return state


def _find() -> Any:
    """Open the first SpaceMouse; every way it can fail becomes one line."""
    try:
        import pyspacemouse
    except ImportError as error:
        raise HardwareError("spacemouse: the driver is not installed; pip install 'robolearn[spacemouse]'") from error
    except Exception as error:  # its HID binding fails in its own ways while loading
        raise HardwareError(f"spacemouse: the HID library does not load ({error}); Debian: apt-get install libhidapi-hidraw0") from error
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it found
            return pyspacemouse.open(axis_convention=pyspacemouse.AxisConvention.ROS)
    except Exception as error:
        reason = " ".join(str(error).split())
        if "HID API" in reason:
            reason = "the HID library is missing; Debian: apt-get install libhidapi-hidraw0"
        raise HardwareError(f"spacemouse: {reason or type(error).__name__}; plugged in, and /dev/hidraw* readable?") from error
