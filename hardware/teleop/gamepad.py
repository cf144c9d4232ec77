"""Driving with a gamepad of any brand: SDL, through pygame, knows which of its axes and buttons is which."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np

from hardware.teleop.keys import Keys, NoKeys
from hardware.teleop.operator import GRIPPER_PER_S, Jogger, Verdict, shape
from hardware.types import HardwareError, Observation, RobotSpec

DEADZONE = 0.12  # of full deflection: worn sticks do not come back to zero
_FULL = 32767.0
_LEFT_X, _LEFT_Y, _RIGHT_X, _RIGHT_Y, _LEFT_TRIGGER, _RIGHT_TRIGGER = range(6)  # SDL's numbers, whatever the brand
_DEADMAN = 9  # left shoulder
_VERDICTS: dict[int, Verdict] = {0: "success", 1: "failure", 2: "discard", 4: "quit"}  # A, B, X, back


class Gamepad(Jogger):
    """Nothing moves, the gripper neither, unless the left shoulder button is held: the deadman.

    Left stick: x and y. Right stick: z, and turning about z where the body can. Right trigger closes the gripper, left opens it.
    A ends the episode with success, B with failure, X discards it, back quits.

    keys: episode keys typed in the terminal as well, where there is one.
    """

    help = (
        "hold the left shoulder button, or nothing moves · left stick x, y · right stick z, turn · right trigger closes, left opens · "
        "A success · B failure · X redo · back quit"
    )

    def __init__(self, spec: RobotSpec, keys: Keys | None = None) -> None:
        super().__init__(spec, NoKeys() if keys is None else keys)
        self._device: Any = None
        self._pump: Callable[[], None] = lambda: None  # takes in what the devices reported
        self._period_s = 1.0 / spec.rate_hz
        self._down: set[int] = set()
        self._held, self._turn = False, 0.0

    def __enter__(self) -> Gamepad:
        self._device, self._pump = _find()
        super().__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        super().__exit__(kind, error, trace)
        if self._device is not None:
            self._device.quit()
            self._device = None

    def reset(self) -> None:
        super().reset()
        self._pressed()  # what is held since the last episode ends no other

    def step_m(self, observation: Observation, pressed: list[str]) -> np.ndarray:
        """Raises HardwareError: it was unplugged, or went out of reach."""
        for button in self._pressed():
            self.verdict = _VERDICTS[button]
        self._held, self._turn = bool(self._device.get_button(_DEADMAN)), 0.0
        if self.verdict or not self._held:
            return np.zeros(3)
        axes = np.array([self._device.get_axis(axis) for axis in range(6)]) / _FULL
        sticks = shape(axes[:4], DEADZONE)
        pulled = shape(axes[4:], DEADZONE)
        self.openness = float(np.clip(self.openness + (pulled[0] - pulled[1]) * GRIPPER_PER_S * self._period_s, 0.0, 1.0))
        self._turn = -sticks[_RIGHT_X]
        return -sticks[[_LEFT_Y, _LEFT_X, _RIGHT_Y]] * self.jog.limit_m()  # up and left are negative

    def turn_rad(self, observation: Observation) -> np.ndarray:
        return np.array([0.0, 0.0, self._turn]) * self.jog.limit_rad()

    def clutch(self) -> bool:
        return self._held

    def _pressed(self) -> set[int]:
        """Buttons of an episode's end that went down since the last look."""
        self._pump()
        if not self._device.attached():
            raise HardwareError("gamepad: it is gone; plug it in, or pair it, again")
        before, self._down = self._down, {button for button in _VERDICTS if self._device.get_button(button)}
        return self._down - before


def _find() -> tuple[Any, Callable[[], None]]:
    """The first gamepad, open, and what has to be called before it is asked; every way it can fail becomes one line."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # no window, no display server
    os.environ.setdefault("SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS", "1")
    os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")  # Ctrl-C stops the robot, and is ours
    try:
        import pygame
        from pygame._sdl2 import controller
    except ImportError as error:
        raise HardwareError("gamepad: pygame is not installed; pip install pygame") from error
    try:
        pygame.display.init()  # events come by way of it
        controller.init()
        pygame.event.pump()
        for index in range(pygame.joystick.get_count()):
            if controller.is_controller(index):
                return controller.Controller(index), pygame.event.pump
        strange = [pygame.joystick.Joystick(index).get_name() for index in range(pygame.joystick.get_count())]
    except pygame.error as error:
        raise HardwareError(f"gamepad: {error}") from error
    if strange:
        raise HardwareError(f"gamepad: {', '.join(strange)}: SDL does not know its buttons; see SDL_GAMECONTROLLERCONFIG")
    raise HardwareError("gamepad: none found; plugged in, and /dev/input/event* readable?")
