"""What a person moves a robot with, from a few words of configuration: to teach it, or to take over from a policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hardware.calibration import Calibration
from hardware.robot import SafeRobot
from hardware.teleop.gamepad import Gamepad
from hardware.teleop.keyboard import Keyboard
from hardware.teleop.keys import Keys
from hardware.teleop.leader import Leader, LeaderArm
from hardware.teleop.operator import Operator
from hardware.teleop.spacemouse import SpaceMouse

Device = Literal["keyboard", "spacemouse", "gamepad", "leader"]


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


def device(name: Device, robot: SafeRobot, keys: Keys | None, leader: LeaderConfig) -> Operator:
    """Not opened yet. keys: what is typed in the terminal; None: there is none. Raises HardwareError: it cannot move this robot."""
    match name:
        case "keyboard":
            return Keyboard(robot.spec, keys)
        case "spacemouse":
            return SpaceMouse(robot.spec, keys)
        case "gamepad":
            return Gamepad(robot.spec, keys)
    calibration = None if leader.calibration is None else Calibration.load(leader.calibration)
    return LeaderArm(robot.spec, Leader(leader.arm, leader.address, calibration), keys, leader.scale)
