"""What a person moves a robot with, from a few words of configuration: to teach it, or to take over from a policy."""

from __future__ import annotations

import secrets
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hardware.calibration import Calibration
from hardware.robot import SafeRobot
from hardware.teleop.browser import Browser
from hardware.teleop.gamepad import Gamepad
from hardware.teleop.keyboard import Keyboard
from hardware.teleop.keys import Keys
from hardware.teleop.leader import Leader, LeaderArm
from hardware.teleop.operator import Operator
from hardware.teleop.qr import qr
from hardware.teleop.spacemouse import SpaceMouse
from robolearn.runtime.attended import LiveView

Device = Literal["keyboard", "spacemouse", "gamepad", "leader", "browser"]


@dataclass(frozen=True)
class LeaderConfig:
    """An arm that a person moves, and the robot follows: joint by joint where it takes joint positions, else by its end effector."""

    arm: str = "so101"
    """Which: the same as the robot, or any that can be moved by hand and has as many joints: so101, koch, gello for a ur5e, ..."""
    address: str = "/dev/ttyACM0"
    """Where it is."""
    calibration: Path | None = None
    """File of `robolearn calibrate`; none: every servo was mounted in the middle of its turn."""
    scale: float = 1.0
    """Robot metres per leader metre, where the robot follows by its end effector."""


@dataclass(frozen=True)
class BrowserConfig:
    """A page that drives, with the cameras on it: for a phone, or any browser."""

    host: str = "127.0.0.1"
    """Who may come: 127.0.0.1 this machine, or the end of an ssh tunnel; 0.0.0.0 everybody on the network who knows the address, whose
    secret is new each time. Nothing is encrypted."""
    port: int = 8643
    """0: any free port."""


@dataclass(frozen=True)
class Devices:
    """How each device is found."""

    leader: LeaderConfig
    browser: BrowserConfig

    def view(self, name: Device | None, port: int | None) -> LiveView | None:
        """The cameras' page, not entered yet. Where a browser drives, it is open to the same people."""
        if port is None:
            return None
        return LiveView(port, self.browser.host, secrets.token_urlsafe(12)) if name == "browser" else LiveView(port)

    def open(self, name: Device, robot: SafeRobot, keys: Keys | None, view: LiveView | None, stack: ExitStack) -> Operator:
        """Until the stack ends. keys: what is typed in the terminal; None: there is none. view: what a page that drives shows.
        Raises HardwareError: it is not there, or cannot move this robot."""
        operator = stack.enter_context(self._make(name, robot, keys, view))
        if isinstance(operator, Browser):
            sys.stderr.write(f"drive at {operator.url}\n{qr(operator.url)}\n")
        return operator

    def _make(self, name: Device, robot: SafeRobot, keys: Keys | None, view: LiveView | None) -> Operator:
        match name:
            case "keyboard":
                return Keyboard(robot.spec, keys)
            case "spacemouse":
                return SpaceMouse(robot.spec, keys)
            case "gamepad":
                return Gamepad(robot.spec, keys)
            case "browser":
                camera = "" if view is None else f":{view.port}{view.path}stream"
                return Browser(robot.spec, robot.brake, keys, self.browser.host, self.browser.port, camera)
        leader = self.leader
        calibration = None if leader.calibration is None else Calibration.load(leader.calibration)
        return LeaderArm(robot.spec, Leader(leader.arm, leader.address, calibration), keys, leader.scale)
