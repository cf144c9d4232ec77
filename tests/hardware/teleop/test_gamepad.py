"""The gamepad pilot with a gamepad that SDL itself emulates: only the plastic is missing."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hardware.teleop.gamepad import Gamepad
from hardware.testing import PilotContract
from hardware.types import ArraySpec, HardwareError, Observation, RobotSpec, Source

pygame = pytest.importorskip("pygame")
SDL = next(iter(Path(pygame.__file__).parent.with_name("pygame.libs").glob("libSDL2-2*")), None)
pytestmark = pytest.mark.skipif(SDL is None, reason="this pygame does not bring its own SDL")

STEP = 0.02
MOST = (STEP, STEP, STEP, 0.05, 0.05, 0.05)
ACTION = ArraySpec(
    ("dx", "dy", "dz", "rx", "ry", "rz", "gripper"), (*["m"] * 3, *["rad"] * 3, "1"), (*(-m for m in MOST), 0.0), (*MOST, 1.0)
)
SPEC = RobotSpec("arm", {}, {}, ACTION, "ee_delta", 10.0)
NOW = Observation(0.0, {}, {})
LEFT_X, LEFT_Y, RIGHT_X, RIGHT_Y, LEFT, RIGHT = range(6)
A, B, X, BACK, SHOULDER = 0, 1, 2, 4, 9


class Pad:
    """One that is plugged in by calling SDL."""

    def __init__(self) -> None:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS", "1")
        pygame.display.init()
        pygame.joystick.init()
        self.sdl = ctypes.CDLL(str(SDL))
        self.sdl.SDL_JoystickOpen.restype = ctypes.c_void_p
        self.sdl.SDL_JoystickSetVirtualAxis.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int16]
        self.sdl.SDL_JoystickSetVirtualButton.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint8]
        self.index = self.sdl.SDL_JoystickAttachVirtual(1, 6, 15, 0)
        self.joystick = self.sdl.SDL_JoystickOpen(self.index)
        self.rest()

    def rest(self) -> None:
        for axis in range(4):
            self.axis(axis, 0.0)
        self.axis(LEFT, -1.0)
        self.axis(RIGHT, -1.0)
        for button in range(15):
            self.button(button, False)

    def axis(self, axis: int, value: float) -> None:
        """-1..1; a trigger rests at -1."""
        self.sdl.SDL_JoystickSetVirtualAxis(self.joystick, axis, round(32767 * value))

    def button(self, button: int, down: bool = True) -> None:
        self.sdl.SDL_JoystickSetVirtualButton(self.joystick, button, int(down))

    def unplug(self) -> None:
        if self.index >= 0:
            self.sdl.SDL_JoystickDetachVirtual(self.index)
            pygame.event.pump()
            self.index = -1


@pytest.fixture
def pad() -> Iterator[Pad]:
    pad = Pad()
    yield pad
    pad.unplug()


@pytest.fixture
def gamepad(pad: Pad) -> Iterator[Gamepad]:
    with Gamepad(SPEC) as pilot:
        pilot.reset()
        yield pilot


class TestContract(PilotContract):
    @pytest.fixture(autouse=True)
    def plugged_in(self, gamepad: Gamepad) -> None:
        self.gamepad = gamepad

    def make(self) -> tuple[Gamepad, RobotSpec, Observation]:
        return self.gamepad, SPEC, NOW


@pytest.mark.parametrize(
    ("axis", "value", "action"),
    [
        (LEFT_Y, -1.0, (STEP, 0, 0, 0, 0, 0)),
        (LEFT_X, -1.0, (0, STEP, 0, 0, 0, 0)),
        (RIGHT_Y, 1.0, (0, 0, -STEP, 0, 0, 0)),
        (RIGHT_X, -1.0, (0, 0, 0, 0, 0, 0.05)),
        (LEFT_Y, 0.1, (0, 0, 0, 0, 0, 0)),
    ],
)
def test_sticks_move_while_the_deadman_is_held_and_not_otherwise(pad: Pad, gamepad: Gamepad, axis: int, value: float, action) -> None:
    pad.axis(axis, value)
    assert not gamepad.decide(NOW).action[:6].any()
    pad.button(SHOULDER)
    command = gamepad.decide(NOW)
    np.testing.assert_allclose(command.action, [*action, 1.0], atol=1e-6)
    assert command.source == Source.HUMAN
    pad.button(SHOULDER, False)
    assert not gamepad.decide(NOW).action[:6].any()


def test_triggers_close_and_open_bit_by_bit_and_only_with_the_deadman(pad: Pad, gamepad: Gamepad) -> None:
    pad.axis(RIGHT, 1.0)
    assert gamepad.decide(NOW).action[6] == 1.0
    pad.button(SHOULDER)
    closing = [float(gamepad.decide(NOW).action[6]) for _ in range(6)]
    np.testing.assert_allclose(closing, [0.8, 0.6, 0.4, 0.2, 0.0, 0.0], atol=1e-6)
    pad.axis(RIGHT, -1.0)
    assert gamepad.decide(NOW).action[6] == pytest.approx(0.0, abs=1e-6)
    pad.axis(LEFT, 0.2)
    assert 0.0 < gamepad.decide(NOW).action[6] < 0.2


@pytest.mark.parametrize(("button", "verdict"), [(A, "success"), (B, "failure"), (X, "discard"), (BACK, "quit")])
def test_buttons_end_an_episode_once_and_its_last_row_does_not_move(pad: Pad, gamepad: Gamepad, button: int, verdict: str) -> None:
    pad.button(SHOULDER)
    pad.axis(LEFT_Y, -1.0)
    pad.button(button)
    assert not gamepad.decide(NOW).action[:6].any()
    assert gamepad.verdict == verdict
    gamepad.reset()
    assert gamepad.decide(NOW).action[0] > 0
    assert gamepad.verdict is None, "still held: it ends no other episode"
    pad.button(button, False)
    gamepad.decide(NOW)
    pad.button(button)
    gamepad.decide(NOW)
    assert gamepad.verdict == verdict


def test_a_body_that_does_not_turn_is_not_turned(pad: Pad) -> None:
    action = ArraySpec(("dx", "dy", "dz", "gripper"), ("m",) * 3 + ("1",), (-STEP,) * 3 + (0.0,), (STEP,) * 3 + (1.0,))
    with Gamepad(replace(SPEC, action=action)) as pilot:
        pilot.reset()
        pad.button(SHOULDER)
        pad.axis(RIGHT_X, 1.0)
        np.testing.assert_allclose(pilot.decide(NOW).action, [0, 0, 0, 1])


def test_unplugged_it_raises_and_the_loop_stops_the_robot(pad: Pad, gamepad: Gamepad) -> None:
    pad.button(SHOULDER)
    pad.axis(LEFT_Y, -1.0)
    assert gamepad.decide(NOW).action[0] > 0
    pad.unplug()
    with pytest.raises(HardwareError, match="gamepad: it is gone"):
        gamepad.decide(NOW)


def test_none_is_one_line() -> None:
    with pytest.raises(HardwareError, match="gamepad: none found; plugged in"), Gamepad(SPEC):
        pass


def test_no_package_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(HardwareError, match="gamepad: pygame is not installed; pip install pygame"), Gamepad(SPEC):
        pass
