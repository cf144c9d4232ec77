"""A fake two-joint planar arm with a camera and a reach task, on simulated time: tests and quick looks.

Simple but not scripted: links of 0.25 m, servos that follow with a first-order lag, a picture drawn with numpy. Faults
a real driver shows can be switched on (see FakeArm), which is how the fault table is tested.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from hardware.clock import SimClock
from hardware.governor import Governor, Limits
from hardware.kinematics import Box, JointPosition
from hardware.loop import ArmLoop
from hardware.robot import SafeRobot
from hardware.types import ArmSpec, ArmState, ArraySpec, HardwareError, RobotSpec

if TYPE_CHECKING:
    from hardware import RobotConfig

LINK = 0.25  # m, both
LAG = 0.02  # s, time constant of the servos
SUCCESS_DISTANCE = 0.03  # m
ARM = ArmSpec(
    name="fake",
    joints=("shoulder", "elbow"),
    units="rad",
    q_min=np.array([-1.8, 0.1]),
    q_max=np.array([1.2, 2.6]),
    v_max=np.array([2.0, 2.0]),
    a_max=np.array([10.0, 10.0]),
    j_max=np.array([200.0, 200.0]),
    home=np.array([-0.6, 1.2]),
    rate_hz=100.0,
)
LIMITS = Limits(
    workspace=Box(np.array([0.05, -0.45, -0.1]), np.array([0.48, 0.45, 0.1])),
    workspace_tolerance=0.01,
    position_margin=0.01,
    tracking_error=np.array([0.3, 0.3]),
)


def tip(q: np.ndarray) -> np.ndarray:
    """Forward kinematics: the tip (3,) [m] at joints (2,) [rad]; z is 0."""
    a, b = float(q[0]), float(q[0] + q[1])
    return np.array([LINK * (math.cos(a) + math.cos(b)), LINK * (math.sin(a) + math.sin(b)), 0.0])


class FakeArm:
    """The driver. Faults to switch on: lose_replies, fail_writes (that many of the next calls raise); frozen (the same
    bytes again and again), nan, delay (replies that many reads old), fault (a vendor's message), blocked (a contact)."""

    def __init__(self, spec: ArmSpec = ARM) -> None:
        self.spec = spec
        self.lose_replies = self.fail_writes = self.delay = 0
        self.frozen = self.nan = self.blocked = self.halted = self.connected = False
        self.fault: str | None = None
        self.time, self.seq = 0.0, 0
        self._replies: deque[ArmState] = deque(maxlen=256)
        self.place(spec.home)

    def place(self, q: np.ndarray) -> None:
        """Put the arm at rest at q (2,) [rad], as only a simulator can."""
        self.q, self.dq, self.goal, self.gripper = np.array(q), np.zeros(len(q)), np.array(q), 0.0

    def connect(self) -> None:
        self.connected, self.halted = True, False

    def close(self) -> None:
        self.connected = False

    def halt(self) -> None:
        self.halted, self.goal = True, self.q.copy()

    def advance(self, dt: float) -> None:
        """Physics for dt [s]: each joint approaches its goal with the servos' time constant."""
        before = self.q.copy()
        if not self.blocked:
            self.q = self.goal + (self.q - self.goal) * np.exp(-dt / LAG)
        self.dq = (self.q - before) / dt
        self.time += dt

    def read(self) -> ArmState:
        self._check(self.connected, "not connected")
        if self.lose_replies > 0:
            self.lose_replies -= 1
            self._check(False, "no reply")
        if not self.frozen:
            self.seq += 1
            q = np.full_like(self.q, np.nan) if self.nan else self.q.copy()
            self._replies.append(ArmState(self.time, self.seq, q, self.dq.copy(), self.gripper, self.fault))
        return self._replies[-1 - min(self.delay, len(self._replies) - 1)]

    def write(self, q: np.ndarray, gripper: float) -> None:
        self._check(self.connected and not self.halted, "not accepting setpoints")
        self.spec.check(q, gripper)
        if self.fail_writes > 0:
            self.fail_writes -= 1
            self._check(False, "write not acknowledged")
        self.goal, self.gripper = np.array(q), gripper

    def _check(self, fine: bool, message: str) -> None:
        if not fine:
            raise HardwareError(f"{self.spec.name}: {message}")


class ReachWorld:
    """A target to touch with the tip. Reward 0..1 falls with distance; success within SUCCESS_DISTANCE."""

    def __init__(self, arm: FakeArm) -> None:
        self._arm = arm
        self.reset(np.random.default_rng(0))

    def reset(self, rng: np.random.Generator) -> None:
        """The arm near home, the target anywhere the arm reaches inside its box."""
        self._arm.place(self._arm.spec.home + rng.uniform(-0.1, 0.1, 2))
        self.q_target = self._arm.spec.home
        while self._distance() < 2 * SUCCESS_DISTANCE or not self._inside(tip(self.q_target)):
            self.q_target = rng.uniform([-1.5, 0.5], [0.8, 2.2])

    def _inside(self, position: np.ndarray) -> bool:
        assert LIMITS.workspace is not None
        return bool((position > LIMITS.workspace.low + 0.03).all() and (position < LIMITS.workspace.high - 0.03).all())

    def _distance(self) -> float:
        return float(np.linalg.norm(tip(self._arm.q) - tip(self.q_target)))

    def reward(self) -> float:
        return float(np.exp(-self._distance() / 0.1))

    def success(self) -> bool:
        return self._distance() < SUCCESS_DISTANCE

    def privileged(self) -> dict[str, np.ndarray]:
        """tip and target (2,) [m], q_target (2,) [rad]: the joints that touch it."""
        return {"tip": tip(self._arm.q)[:2], "target": tip(self.q_target)[:2], "q_target": self.q_target.copy()}


class FakeCamera:
    """Seen from above: the links grey, the tip blue, the target red. 1.2 m wide, the shoulder in the middle."""

    def __init__(self, arm: FakeArm, world: ReachWorld, size: int) -> None:
        self._arm, self._world, self.size = arm, world, (size, size)
        centres = ((np.arange(size) + 0.5) / size - 0.5) * 1.2
        self._x, self._y = np.meshgrid(centres, -centres)

    def open(self) -> None: ...

    def close(self) -> None: ...

    def read(self) -> np.ndarray:
        image = np.full((*self.size, 3), 240, dtype=np.uint8)
        elbow = LINK * np.array([np.cos(self._arm.q[0]), np.sin(self._arm.q[0])])
        end, target = tip(self._arm.q)[:2], tip(self._world.q_target)[:2]
        for start, stop in ((np.zeros(2), elbow), (elbow, end)):
            for fraction in np.linspace(0, 1, 12):
                self._dot(image, start + fraction * (stop - start), 0.025, (120, 120, 120))
        self._dot(image, target, 0.06, (220, 40, 40))
        self._dot(image, end, 0.045, (40, 60, 220))
        return image

    def _dot(self, image: np.ndarray, centre: np.ndarray, radius: float, colour: tuple[int, int, int]) -> None:
        image[(self._x - centre[0]) ** 2 + (self._y - centre[1]) ** 2 < radius**2] = colour


def spec(config: RobotConfig) -> RobotSpec:
    """State: joints, and for fake:state the target's position too. Action: absolute joints [rad]. Camera: top."""
    if config.variant not in ("", "state"):
        raise HardwareError(f"RobotConfig.body: {config.body!r}; valid: fake, fake:state")
    joints = ArraySpec(ARM.joints, ("rad", "rad"), tuple(ARM.q_min.tolist()), tuple(ARM.q_max.tolist()))
    target = ArraySpec(("target_x", "target_y"), ("m", "m"), (-0.5, -0.5), (0.5, 0.5))
    names = config.cameras if config.cameras is not None else (() if config.variant else ("top",))
    unknown = set(names) - {"top"}
    if unknown:
        raise HardwareError(f"RobotConfig.cameras: {sorted(unknown)}; valid for {config.body}: top")
    size = config.image_size or 32
    return RobotSpec(
        name="fake",
        cameras=dict.fromkeys(names, (size, size)),
        state={"joint_pos": joints} | ({"target": target} if config.variant else {}),
        action=joints,
        action_mode="joint_pos",
        rate_hz=config.rate_hz or 10.0,
    )


def build(config: RobotConfig) -> SafeRobot:
    robot_spec = spec(config)
    arm = FakeArm()
    world = ReachWorld(arm)
    cameras = {name: FakeCamera(arm, world, size[0]) for name, size in robot_spec.cameras.items()}
    governor = Governor(ARM, config.limits(LIMITS), robot_spec.action, JointPosition(2, position=tip), 1.0 / robot_spec.rate_hz)

    def read_state(state: ArmState) -> dict[str, np.ndarray]:
        return {"joint_pos": state.q, "target": world.privileged()["target"]}

    return SafeRobot(robot_spec, ArmLoop(arm, SimClock(arm.advance), governor), cameras, read_state, world)
