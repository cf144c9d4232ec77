"""A real arm as a body: driver, cameras and governor from a few lines of configuration, the loop in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from hardware import arms
from hardware.arms.model import TOOL, ArmModel
from hardware.calibration import Calibration
from hardware.cameras import CameraConfig
from hardware.clearance import Clearance, Inside
from hardware.governor import Governor, Limits
from hardware.kinematics import Box, JointPosition, Kinematics
from hardware.process import ArmProcess
from hardware.robot import SafeRobot, StateReader
from hardware.types import Arm, ArmSpec, ArmState, ArraySpec, HardwareError, RobotSpec

if TYPE_CHECKING:
    from hardware import RobotConfig

ROOM_M = 2.0  # no arm here reaches further from its base
ABOVE_TABLE_M = 0.01  # tool and elbow stay this far above it
MARGIN_RAD = 0.03  # inside the joints' limits
RATE_HZ = 10.0  # of decisions, where the config names none
TOOL_SPEED = 0.15  # m/s per axis at most


@dataclass(frozen=True)
class RealConfig:
    """How a real arm is reached and what it may do."""

    address: str = ""
    """where it is: 192.168.1.10, /dev/ttyACM0, socketcan:can0; see docs/first-arm.md. remote: tcp://HOST:PORT, see docs/serve.md"""
    calibration: str | None = None
    """file of `robolearn calibrate`; none: the arm's own, or the middle of every servo"""
    actions: Literal["joint_pos", "ee_delta"] = "joint_pos"
    """what a decision is: absolute joints [rad], or a step of the tool [m] that keeps its orientation; the gripper's opening with both"""
    speed: float = 0.3
    """share of the arm's own limits on velocity, acceleration and jerk"""
    table_m: float | None = 0.0
    """height of the table's top above the arm's base [m]; none: there is none"""
    tracking_rad: float = 0.3
    """how far the joints may be from where they are told to be: bounds the force of a contact [rad]"""
    realtime: bool = True
    """ask for real-time priority; without it the loop runs, but later under load"""
    cameras: Mapping[str, CameraConfig] = field(default_factory=dict)
    """name -> camera"""
    server_key: str | None = None
    """remote: the client.key that its `robolearn serve` made"""

    def __post_init__(self) -> None:
        if not 0.0 < self.speed <= 1.0:
            raise HardwareError(f"RobotConfig.arm.speed: {self.speed}; valid: above 0, up to 1, a share of the arm's limits")
        if not 0.0 < self.tracking_rad <= 3.0:
            raise HardwareError(f"RobotConfig.arm.tracking_rad: {self.tracking_rad} rad; valid: above 0, up to 3")


def spec(config: RobotConfig) -> RobotSpec:
    """Known without the arm."""
    model, real = arms.find(config.body)[1], _real(config)
    arm, rate = model.spec, RATE_HZ if config.rate_hz is None else config.rate_hz
    joints = ArraySpec(arm.joints, (arm.units,) * len(arm.joints), tuple(arm.q_min.tolist()), tuple(arm.q_max.tolist()))
    room = ArraySpec(("x", "y", "z"), ("m",) * 3, (-ROOM_M,) * 3, (ROOM_M,) * 3)
    gripper = ArraySpec(("opening",), ("1",), (0.0,), (1.0,))
    if real.actions == "ee_delta":
        step = (TOOL_SPEED / rate,) * 3
        action = ArraySpec(("dx", "dy", "dz", "gripper"), ("m",) * 3 + ("1",), (*(-s for s in step), 0.0), (*step, 1.0))
    else:
        action = ArraySpec((*joints.names, "gripper"), (*joints.units, "1"), (*joints.low, 0.0), (*joints.high, 1.0))
    return RobotSpec(
        name=config.body,
        cameras={name: camera.size for name, camera in real.cameras.items()},
        state={"joint_pos": joints, "ee_pos": room, "gripper": gripper},
        action=action,
        action_mode=real.actions,
        rate_hz=rate,
    )


def build(config: RobotConfig) -> SafeRobot:
    """Raises HardwareError: no address, a calibration of another arm, an impossible rate."""
    real, robot_spec = _real(config), spec(config)
    process = ArmProcess(partial(start, config), fifo=real.realtime)
    cameras = {name: camera.open(name) for name, camera in real.cameras.items()}
    robot = SafeRobot(robot_spec, process, cameras, state_reader(process.governor.kinematics))
    calibration = calibration_of(config)
    robot.calibration = None if calibration is None else calibration.digest
    return robot


def state_reader(kinematics: Kinematics) -> StateReader:
    """What `spec` calls state."""

    def read_state(state: ArmState) -> dict[str, np.ndarray]:
        position = kinematics.position(state.q)
        assert position is not None
        return {"joint_pos": state.q, "ee_pos": position, "gripper": np.array([state.gripper])}

    return read_state


def start(config: RobotConfig) -> tuple[Arm, Governor]:
    """A driver, not connected, and its governor: what the arm's process begins with."""
    real, robot_spec = _real(config), spec(config)
    arm = arms.drive(config.body, real.address, calibration_of(config))
    model = replace(arms.find(config.body)[1], spec=slowed(arm.spec, real.speed))
    return arm, governor_of(model, config, robot_spec)


def governor_of(model: ArmModel, config: RobotConfig, robot_spec: RobotSpec) -> Governor:
    """Everything that looks ahead: the tool and the elbow in their box, above the table, no part touching another."""
    from hardware.mujoco.apart import Apart, ArmGeometry
    from hardware.mujoco.kinematics import EeDelta

    real, arm = _real(config), model.spec
    geometry = ArmGeometry(model, real.table_m)
    floor = -ROOM_M if real.table_m is None else real.table_m + ABOVE_TABLE_M
    own = Limits(
        workspace=Box(np.array([-ROOM_M, -ROOM_M, floor]), np.full(3, ROOM_M)),
        position_margin=MARGIN_RAD,
        tracking_error=np.full(len(arm.joints), real.tracking_rad),
    )
    limits = config.limits(own)
    kinematics: Kinematics = JointPosition(len(arm.joints), True, geometry.tool, geometry.tool_reach)
    if real.actions == "ee_delta":
        usable = arm.q_min + limits.position_margin, arm.q_max - limits.position_margin  # what the governor would clip, nobody asks for
        kinematics = EeDelta(geometry.model, np.array(geometry.joints), TOOL, arm.home, usable)
    keep: list[Clearance] = [Apart(geometry)]
    if model.elbow and limits.workspace is not None:
        # Of the elbow only the height is bounded: it may reach out of a box that is made for the tool.
        box = Box(np.array([-ROOM_M, -ROOM_M, floor]), np.full(3, ROOM_M))
        keep.append(Inside("elbow", box, geometry.elbow, limits.workspace_tolerance, geometry.elbow_reach))
    return Governor(arm, limits, robot_spec.action, kinematics, 1.0 / robot_spec.rate_hz, keep)


def slowed(arm: ArmSpec, share: float) -> ArmSpec:
    """The same arm with this share of its limits on velocity, acceleration and jerk."""
    return replace(arm, v_max=share * arm.v_max, a_max=share * arm.a_max, j_max=share * arm.j_max)


def calibration_of(config: RobotConfig) -> Calibration | None:
    """Of the file that the config names. Raises HardwareError where it is another arm's."""
    path = _real(config).calibration
    if path is None:
        return None
    calibration = Calibration.load(Path(path).expanduser())
    if calibration.arm != config.body:
        raise HardwareError(f"{path}: calibration of a {calibration.arm}; expected of a {config.body}")
    return calibration


def _real(config: RobotConfig) -> RealConfig:
    return RealConfig() if config.arm is None else config.arm
