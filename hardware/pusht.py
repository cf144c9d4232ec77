"""Push-T as a body: gym-pusht's disc is a two-joint arm, its units pixels (0..512), its decisions 10 a second.

The environment's own PD control moves the disc towards an absolute target (Chi et al., RSS 2023; Florence et al., CoRL
2021). People made the demonstrations with targets anywhere, so this body's limits let any target be reached in one
tick: here the governor checks for finite values, range and silence, and leaves the dynamics to the environment.
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from hardware.clock import SimClock
from hardware.governor import Governor, Limits
from hardware.kinematics import JointPosition
from hardware.loop import ArmLoop
from hardware.robot import SafeRobot
from hardware.types import ArmSpec, ArmState, ArraySpec, HardwareError, RobotSpec

if TYPE_CHECKING:
    from hardware import RobotConfig

SIDE = 512.0  # px, the whole table
SUCCESS_COVERAGE = 0.95  # of the goal's area
RATE_HZ = 10.0
TICK = 0.1  # s, one env.step
ARM = ArmSpec(
    name="pusht",
    joints=("x", "y"),
    units="px",
    q_min=np.zeros(2),
    q_max=np.full(2, SIDE),
    v_max=np.full(2, 2e4),  # px/s; these three bring any target within 0.06 s, less than a tick
    a_max=np.full(2, 1e6),
    j_max=np.full(2, 1e8),
    home=np.full(2, SIDE / 2),
    rate_hz=RATE_HZ,
)
LIMITS = Limits(state_stale_s=3.5 * TICK)


class PushT:
    """The environment as arm, camera and world in one: they share its state. Coverage is the share of the goal covered."""

    def __init__(self, size: int = 96) -> None:
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        with warnings.catch_warnings():  # pygame and pymunk use parts of Python that are going away
            warnings.simplefilter("ignore")
            from gym_pusht.envs.pusht import PushTEnv
        self.spec, self.size = ARM, (size, size)
        self._env: Any = PushTEnv(obs_type="state", render_mode="rgb_array", observation_width=size, observation_height=size)
        self._time, self._seq, self._halted, self.coverage = 0.0, 0, False, 0.0
        self.reset(np.random.default_rng(0))

    # World
    def reset(self, rng: np.random.Generator) -> None:
        """gym-pusht's own random start."""
        self._env.reset(seed=int(rng.integers(2**31)))
        self._settle()

    def restore(self, state: np.ndarray) -> None:
        """Start from a recorded state (5,): agent x, y, block x, y [px], angle [rad]. Then call robot.anchor().

        The angle goes first: turning the block moves its origin, because that is not its centre of mass. (gym-pusht's
        reset_to_state does it the other way round, and the block lands up to 90 px away.)
        """
        self._env.reset(seed=0)
        self._env.agent.position = tuple(float(x) for x in state[:2])
        self._env.block.angle = float(state[4])
        self._env.block.position = tuple(float(x) for x in state[2:4])
        for body in (self._env.agent, self._env.block):
            body.velocity, body.angular_velocity = (0.0, 0.0), 0.0
        self._env.space.step(self._env.dt)
        self._settle()

    def _settle(self) -> None:
        self._target = self.state()[:2]
        self.coverage = float(self._env._get_coverage())

    def reward(self) -> float:
        """coverage / 0.95, at most 1."""
        return min(self.coverage / SUCCESS_COVERAGE, 1.0)

    def success(self) -> bool:
        """gym-pusht's strict test; compare policies by the highest coverage of an episode, too."""
        return self.coverage > SUCCESS_COVERAGE

    def privileged(self) -> dict[str, np.ndarray]:
        return {"coverage": np.array([self.coverage]), "state": self.state()}

    def state(self) -> np.ndarray:
        """(5,): agent x, y, block x, y [px], block angle [rad, 0..2 pi)."""
        return self._env.get_obs()

    # Arm
    def connect(self) -> None:
        self._halted = False

    def close(self) -> None: ...

    def halt(self) -> None:
        self._halted, self._target = True, self.state()[:2]

    def read(self) -> ArmState:
        self._seq += 1
        velocity = np.array(self._env.agent.velocity, dtype=np.float64)
        return ArmState(self._time, self._seq, self.state()[:2], velocity, 0.0)

    def write(self, q: np.ndarray, gripper: float) -> None:
        self.spec.check(q, gripper)
        if self._halted:
            raise HardwareError(f"{self.spec.name}: halted; connect again")
        self._target = np.array(q)

    def advance(self, dt: float) -> None:
        """The clock's physics: whole ticks of 0.1 s."""
        for _ in range(round(dt / TICK)):
            *_, info = self._env.step(self._target)
            self.coverage = float(info["coverage"])
        self._time += dt


class PushTCamera:
    """Seen from above, as in the recorded demonstrations: without a mark for the target."""

    def __init__(self, world: PushT) -> None:
        self._world, self.size = world, world.size

    def open(self) -> None: ...

    def close(self) -> None: ...

    def read(self) -> np.ndarray:
        return np.ascontiguousarray(self._world._env._render(), dtype=np.uint8)


def block_pose(state: np.ndarray) -> np.ndarray:
    """x, y [px], sin and cos of the angle, float32 (..., 4), of recorded states (..., 5)."""
    angle = state[..., 4]
    return np.stack([state[..., 2], state[..., 3], np.sin(angle), np.cos(angle)], axis=-1).astype(np.float32)


def spec(config: RobotConfig) -> RobotSpec:
    """State: agent_pos [px], and for pusht:state the block's pose. Action: absolute target [px]. Camera: image."""
    if config.variant not in ("", "state"):
        raise HardwareError(f"RobotConfig.body: {config.body!r}; valid: pusht, pusht:state")
    names = config.cameras if config.cameras is not None else (() if config.variant else ("image",))
    unknown = set(names) - {"image"}
    if unknown:
        raise HardwareError(f"RobotConfig.cameras: {sorted(unknown)}; valid for {config.body}: image")
    agent = ArraySpec(("agent_x", "agent_y"), ("px", "px"), (0.0, 0.0), (SIDE, SIDE))
    names_of_block = ("block_x", "block_y", "block_sin", "block_cos")
    block = ArraySpec(names_of_block, ("px", "px", "", ""), (0.0, 0.0, -1.0, -1.0), (SIDE, SIDE, 1.0, 1.0))
    size = config.image_size or 96
    return RobotSpec(
        name="pusht",
        cameras=dict.fromkeys(names, (size, size)),
        state={"agent_pos": agent} | ({"block_pose": block} if config.variant else {}),
        action=ArraySpec(("target_x", "target_y"), ("px", "px"), (0.0, 0.0), (SIDE, SIDE)),
        action_mode="joint_pos",
        rate_hz=config.rate_hz or RATE_HZ,
    )


def build(config: RobotConfig) -> SafeRobot:
    robot_spec = spec(config)
    world = PushT(config.image_size or 96)
    cameras = {name: PushTCamera(world) for name in robot_spec.cameras}
    governor = Governor(ARM, config.limits(LIMITS), robot_spec.action, JointPosition(2), 1.0 / robot_spec.rate_hz)

    def read_state(state: ArmState) -> dict[str, np.ndarray]:
        return {"agent_pos": state.q, "block_pose": block_pose(world.state())}

    return SafeRobot(robot_spec, ArmLoop(world, SimClock(world.advance), governor), cameras, read_state, world)
