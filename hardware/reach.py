"""Any arm that has a model, at the table of hardware.mujoco.stage, in simulation: `reach:ur5e`. To whoever flies it, it is the real arm:
the same spec from the same configuration, the same governor, the servos of the arm's double. What one learns here flies there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hardware import arms, real
from hardware.cameras import CameraConfig
from hardware.clock import SimClock
from hardware.loop import ArmLoop
from hardware.mujoco.filming import Filming
from hardware.mujoco.servoed import ServoedArm
from hardware.mujoco.stage import CAMERAS, Stage, staged
from hardware.real import RealConfig
from hardware.robot import SafeRobot
from hardware.types import ArmSpec, ArmState, Clock, HardwareError, RobotSpec

if TYPE_CHECKING:
    from hardware import RobotConfig

SIZE = 84  # px


class SimulatedArm:
    """The driver: an arm that takes a setpoint as its double would."""

    def __init__(self, spec: ArmSpec, body: ServoedArm, clock: Clock) -> None:
        self.spec, self._body, self._clock, self._halted = spec, body, clock, False

    def connect(self) -> None:
        self._halted = False

    def close(self) -> None: ...

    def read(self) -> ArmState:
        body = self._body
        return ArmState(self._clock.now(), body.steps, body.q, body.dq, body.gripper)

    def write(self, q: np.ndarray, gripper: float) -> None:
        """One setpoint: joints (J,) [rad], gripper 0..1. Raises HardwareError rather than clip."""
        self.spec.check(q, gripper)
        if self._halted:
            raise HardwareError(f"{self.spec.name}: halted; connect again")
        self._body.goal, self._body.gripper_goal = np.array(q, dtype=np.float64), gripper

    def halt(self) -> None:
        """Hold the joints where they are until connected again."""
        self._halted, self._body.goal = True, self._body.q


class ReachWorld:
    """The arm at home, its gripper open, and a ball somewhere its tool gets to."""

    def __init__(self, stage: Stage, body: ServoedArm, filming: Filming) -> None:
        self.stage, self._body, self._filming = stage, body, filming
        self.reset(np.random.default_rng(0))

    def reset(self, rng: np.random.Generator) -> None:
        """Another goal, and nothing else: a real arm, too, starts from home."""
        self.goal = self.stage.draw(rng)
        self._body.place(self._body.arm.spec.home, 1.0)
        self._filming.reseed(int(rng.integers(2**32)))

    def reward(self) -> float:
        """Falls with the way to go, 1.0 at success."""
        return self.stage.reward(self._body.q, self.goal)

    def success(self) -> bool:
        return self.stage.reached(self._body.q, self.goal)

    def privileged(self) -> dict[str, np.ndarray]:
        """goal_pos, tool_pos (3,) [m]."""
        return {"goal_pos": self.goal.copy(), "tool_pos": self.stage.tool(self._body.q)}


class StageCamera:
    """One of the stage's."""

    def __init__(self, name: str, size: tuple[int, int], filming: Filming, world: ReachWorld, body: ServoedArm) -> None:
        self.size = size
        self._name, self._filming, self._world, self._body = name, filming, world, body

    def open(self) -> None:
        """Raises HardwareError where there is no OpenGL."""
        self._filming.open(self.size)

    def close(self) -> None:
        self._filming.close()

    def read(self) -> np.ndarray:
        return self._filming.picture(self._name, self.size, self._body.q, self._world.goal)


def spec(config: RobotConfig) -> RobotSpec:
    """The real arm's. Raises HardwareError."""
    return real.spec(_as_real(config))


def build(config: RobotConfig) -> SafeRobot:
    """Raises HardwareError: no such arm or camera, a workspace without the goals."""
    meant, robot_spec = _as_real(config), spec(config)
    assert meant.arm is not None
    stage, model = staged(meant.body), arms.find(meant.body)[1]
    governor = real.governor_of(replace(model, spec=real.slowed(model.spec, meant.arm.speed)), meant, robot_spec)
    box = governor.limits.workspace
    if box is not None and not ((box.low <= stage.goals.low) & (stage.goals.high <= box.high)).all():
        low, high = (corner.round(3).tolist() for corner in (stage.goals.low, stage.goals.high))
        raise HardwareError(f"RobotConfig.workspace_low, workspace_high: goals lie from {low} to {high} m; they have to be inside")
    body, filming = ServoedArm(stage.arm), Filming(stage.arm)
    world, clock = ReachWorld(stage, body, filming), SimClock(lambda seconds: body.advance(round(seconds / body.model.opt.timestep)))
    cameras = {name: StageCamera(name, size, filming, world, body) for name, size in robot_spec.cameras.items()}
    loop = ArmLoop(SimulatedArm(governor.arm, body, clock), clock, governor)
    return SafeRobot(robot_spec, loop, cameras, real.state_reader(governor.kinematics), world)


def _as_real(config: RobotConfig) -> RobotConfig:
    """The real arm's configuration; by itself: steps of the tool, seen by both cameras."""
    name = config.variant
    if name not in arms.names():
        raise HardwareError(f"RobotConfig.body: {config.body!r}; valid: reach:ARM with ARM one of {', '.join(arms.names())}")
    arm = config.arm
    if arm is None:
        size = config.image_size or SIZE
        seen = CAMERAS if config.cameras is None else config.cameras
        arm = RealConfig(actions="ee_delta", cameras={camera: CameraConfig(size=(size, size)) for camera in seen})
    for camera in arm.cameras:
        if camera not in CAMERAS:
            raise HardwareError(f"RobotConfig.cameras: {camera!r}; valid: {', '.join(CAMERAS)}")
    return replace(config, body=name, arm=arm)
