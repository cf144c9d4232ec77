"""Driving with a leader arm: one that is limp, which a person moves, and the robot follows.

A robot that takes joint positions repeats the leader's, joint by joint: absolute, so that the two look alike and the leader's own
stops are felt where the robot's are. Kept offsets would spare it the way to the leader's pose at engaging, but grow with every
engaging until neither is true any more. So it comes to that pose, slowly, whenever it is engaged, and then follows. Only where a
person takes over from a policy in the middle of a motion is the difference kept, until they let go.

A robot that takes steps of its end effector repeats the displacement of the leader's since it was engaged, times `scale`: relative,
so engaging never jumps, and the two arms need not be alike. Orientation is not followed.
"""

from __future__ import annotations

from types import TracebackType

import numpy as np

from hardware import arms
from hardware.arms.calibrating import HandMoved
from hardware.arms.model import ArmModel
from hardware.calibration import Calibration
from hardware.teleop.keys import Keys, NoKeys
from hardware.teleop.operator import Jog, Operator
from hardware.types import ArmState, HardwareError, Observation, RobotSpec

APPROACH_RAD_S = 0.4  # a joint on its way to the leader's pose
AHEAD_RAD = 0.2  # a held or approaching goal is this far from the measured joints at most: sagging under its weight is less
_LOST_DECISIONS = 3  # without a fresh reading: hold; then it is an error
_LAG_STEPS = 10.0  # the end effector may trail the leader's by this many of its largest steps; what is beyond is forgotten


class Leader:
    """An arm by its name, switched limp."""

    def __init__(self, name: str, address: str, calibration: Calibration | None = None) -> None:
        """Raises HardwareError: an arm that cannot be limp, another arm's calibration."""
        if calibration is not None and calibration.arm != name:
            raise HardwareError(f"leader: calibration of a {calibration.arm}; expected of a {name}")
        arm = arms.drive(name, address, calibration)
        if not isinstance(arm, HandMoved):
            valid = ", ".join(known for known in arms.names() if arms.find(known)[1].zero)
            raise HardwareError(f"leader: a {name} cannot be moved by hand; valid: {valid}")
        self.arm, self.model = arm, arms.find(name)[1]
        self._lost, self._seq = 0, 0

    def open(self) -> None:
        """Raises HardwareError that says that it is the leader, which may be of the same kind as the robot."""
        try:
            self.arm.connect()
            self.arm.limp()
        except HardwareError as error:
            raise HardwareError(f"leader: {error}") from error
        self._lost, self._seq = 0, 0

    def close(self) -> None:
        self.arm.close()

    def read(self) -> ArmState | None:
        """None: nothing fresh. Raises HardwareError for a fault, and where nothing fresh came for too long."""
        name = self.model.spec.name
        state, why = None, f"{name}: its measurements stand still"
        try:
            state = self.arm.read()
        except HardwareError as error:
            why = str(error)
        if state is not None and state.fault:
            raise HardwareError(f"leader: {name}: {state.fault}")
        if state is not None and state.seq != self._seq:
            self._lost, self._seq = 0, state.seq
            return state
        self._lost += 1
        if self._lost > _LOST_DECISIONS:
            raise HardwareError(f"leader: {why}")
        return None


class LeaderArm(Operator):
    """The robot follows while engaged: c engages and releases. Released it holds, and the leader may be moved anywhere.

    Without a terminal (keys None) it is engaged from the start of each episode.
    """

    help = "c engage/release · move the leader arm, its gripper too"

    def __init__(self, spec: RobotSpec, leader: Leader, keys: Keys | None = None, scale: float = 1.0) -> None:
        """scale: of the end effector's displacement. Raises HardwareError where this leader cannot lead that robot."""
        super().__init__(NoKeys() if keys is None else keys)
        self.leader, self.engaged, self._begins = leader, False, True
        self._grip: Grip | None = None  # None: the robot's gripper opens as far as the leader's
        if spec.action_mode == "joint_pos":
            if scale != 1.0:
                raise HardwareError(f"leader.scale: {scale}; valid for a robot that takes joint positions: 1")
            self._follower: ByJoints | ByTool = ByJoints(spec, leader.model)
        else:
            self._follower = ByTool(spec, leader.model, scale)

    def __enter__(self) -> LeaderArm:
        self.leader.open()
        try:
            super().__enter__()
        except BaseException:
            self.leader.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        super().__exit__(kind, error, trace)
        self.leader.close()

    def reset(self) -> None:
        super().reset()
        self.engaged, self._begins, self._grip = isinstance(self.keys, NoKeys), True, None
        self._follower.reset()

    def take(self, action: np.ndarray) -> None:
        self._begins, self._grip = False, Grip()
        self.openness = self._follower.take(action)

    def clutch(self) -> bool:
        return self.engaged

    def act(self, observation: Observation, pressed: list[str]) -> np.ndarray:
        if "c" in pressed:
            self.engaged = not self.engaged
            self._follower.release()
        if self._begins and "gripper" in observation.state:
            self.openness = float(observation.state["gripper"][0])  # held, too
        self._begins = False
        state, follower = self.leader.read(), self._follower
        if state is None or not self.engaged or self.verdict:
            return follower.action(follower.hold(observation), self.openness)
        motion = follower.follow(observation, state)
        if follower.arrived:
            self.openness = state.gripper if self._grip is None else self._grip.move(self.openness, state.gripper)
        return follower.action(motion, self.openness)


class Grip:
    """Takes over a gripper that is open otherwise than the leader's: it stays until that one is moved, and then goes with it, so that
    both reach an end together."""

    STILL = 0.02  # of full opening: nobody moved it

    def __init__(self) -> None:
        self._leader: float | None = None

    def move(self, openness: float, leader: float) -> float:
        """How far open the robot's shall be, where it is told to be open by `openness` now; all 0 to 1."""
        before = leader if self._leader is None else self._leader
        if self._leader is not None and abs(leader - before) < self.STILL:
            return openness
        self._leader = leader
        if leader < before:
            return openness * leader / before
        return 1.0 - (1.0 - openness) * (1.0 - leader) / (1.0 - before) if leader > before else openness


class ByJoints:
    """Joint by joint: by name where the leader has all the robot's joints, else in order where they are as many."""

    def __init__(self, spec: RobotSpec, leader: ArmModel) -> None:
        names = [name for name in spec.action.names if "grip" not in name]
        theirs = leader.spec.joints
        if not set(names) <= set(theirs) and len(names) != len(theirs):
            raise HardwareError(
                f"leader: a {leader.spec.name} has {len(theirs)} joints, {spec.name} has {len(names)}; expected as many, or the same names"
            )
        if "joint_pos" not in spec.state:
            raise HardwareError(f"leader: {spec.name} does not show its joint_pos; valid state: {', '.join(spec.state)}")
        self._of_leader = [theirs.index(name) for name in names] if set(names) <= set(theirs) else list(range(len(names)))
        self._joints = [spec.action.names.index(name) for name in names]
        self._gripper = [index for index, name in enumerate(spec.action.names) if "grip" in name]
        self._low, self._high = np.array(spec.action.low), np.array(spec.action.high)
        self._step = APPROACH_RAD_S / spec.rate_hz
        self.reset()

    def reset(self) -> None:
        self._goal: np.ndarray | None = None
        self._offset: np.ndarray | None = np.zeros(len(self._joints))  # None: the next goal is the last one, wherever the leader is
        self.arrived = False

    def take(self, action: np.ndarray) -> float:
        """Follow from `action` (A,) on, with the leader's difference to it at that moment. Returns its gripper's opening."""
        self._goal, self._offset, self.arrived = action[self._joints].astype(np.float64), None, True
        return float(action[self._gripper[0]]) if self._gripper else 1.0

    def release(self) -> None:
        """The next time it is led, it approaches first."""
        self.arrived = False

    def hold(self, observation: Observation) -> np.ndarray:
        """Joints (J,), where it is."""
        self._goal = self._near(observation)
        return self._goal

    def follow(self, observation: Observation, state: ArmState) -> np.ndarray:
        """Joints (J,), the leader's, or on the way there; the gripper is led from then on."""
        led = state.q[self._of_leader]
        if self._offset is None:
            self._offset = self._near(observation) - led
        led = np.clip(led + self._offset, self._low[self._joints], self._high[self._joints])
        if not self.arrived:
            start = self._near(observation)
            goal = start + np.clip(led - start, -self._step, self._step)
            self.arrived = bool((np.abs(led - goal) < self._step).all())
            led = goal
        self._goal = led
        return led

    def _near(self, observation: Observation) -> np.ndarray:
        """The last goal, or as much of the way to it as is near the measured joints."""
        measured = observation.state["joint_pos"].astype(np.float64)
        return measured if self._goal is None else np.clip(self._goal, measured - AHEAD_RAD, measured + AHEAD_RAD)

    def action(self, joints: np.ndarray, openness: float) -> np.ndarray:
        action = np.zeros(len(self._low))
        action[self._joints], action[self._gripper] = joints, openness
        return np.clip(action, self._low, self._high).astype(np.float32)


class ByTool:
    """The displacement of the end effector, by the leader's forward kinematics."""

    arrived = True  # wherever it is

    def __init__(self, spec: RobotSpec, leader: ArmModel, scale: float) -> None:
        from hardware.mujoco.apart import ArmGeometry

        self._jog, self._scale, self._position = Jog(spec), scale, ArmGeometry(leader).tool
        self.reset()

    def reset(self) -> None:
        self._last: np.ndarray | None = None
        self._owed = np.zeros(3)

    release = reset

    def take(self, action: np.ndarray) -> float:
        """Follow from here on. Returns the opening of the gripper in `action` (A,)."""
        self.reset()
        return self._jog.openness(action)

    def hold(self, observation: Observation) -> np.ndarray:
        """A step (3,) [m], of zeros."""
        return np.zeros(3)

    def follow(self, observation: Observation, state: ArmState) -> np.ndarray:
        """A step (3,) [m]."""
        here, limit = self._position(state.q), self._jog.limit_m()
        if self._last is not None:
            self._owed = np.clip(self._owed + self._scale * (here - self._last), -_LAG_STEPS * limit, _LAG_STEPS * limit)
        self._last = here
        step = np.clip(self._owed, -limit, limit)
        self._owed = self._owed - step
        return step

    def action(self, step: np.ndarray, openness: float) -> np.ndarray:
        return self._jog.action(step, np.zeros(3), openness)
