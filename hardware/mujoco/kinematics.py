"""End-effector deltas for a MuJoCo arm: move the tool by so many metres, turn it or keep its orientation, open or close the gripper."""

from __future__ import annotations

import mujoco
import numpy as np

from hardware.kinematics import Box
from hardware.mujoco.reach import reach
from hardware.types import HardwareError


class EeDelta:
    """action = [dx, dy, dz (m, world axes, relative to the COMMANDED pose), gripper (0 closed .. 1 open)].

    Damped least squares (Wampler 1986) with the spare joint drawn towards home, so that the elbow does not wander:
    0.1 ms per action. mink solves the same problem as a quadratic program; the release that robosuite 1.5 pins needs
    0.5 ms per iteration and three of them, a third of a whole simulated decision with its camera images.

    An arm with fewer than six joints cannot choose place and orientation: it goes where it is told to, and keeps the orientation as far
    as that leaves it free to.
    """

    DAMPING = 1e-2  # m or rad per rad, small against the arm's reach: exact pose wherever the arm can bend
    POSTURE_GAIN = 0.05  # share of the way home per action, in the null space
    TURN_GAIN = 0.2  # with fewer than six joints: step against the orientation's error per action, in the null space of the position
    ITERATIONS = 30
    TOLERANCE = 1e-6  # m, rad: what each action may miss adds up
    REACHED = 1e-3  # m, rad: further from the goal than this after ITERATIONS, it is out of reach

    def __init__(self, model: mujoco.MjModel, joint_ids: np.ndarray, site: str, home: np.ndarray) -> None:
        self._model, self._data = model, mujoco.MjData(model)
        self._qpos, self._dof = model.jnt_qposadr[joint_ids], model.jnt_dofadr[joint_ids]
        self._low, self._high = model.jnt_range[joint_ids].T
        self._site, self._home = model.site(site).id, np.array(home, dtype=np.float64)
        self._rows = 6 if len(joint_ids) >= 6 else 3  # of the error that has to vanish
        self._jacobian, self._solution = np.zeros((6, model.nv)), np.zeros(self._rows)
        tool, offset = int(model.site_bodyid[self._site]), float(np.linalg.norm(model.site_pos[self._site]))
        self.reach = reach(model, joint_ids.tolist(), tool, offset)  # of the tool
        self._damping = self.DAMPING**2 * np.eye(self._rows)
        self._forward(self._home)
        self.home_rotation = self._data.site_xmat[self._site].reshape(3, 3).copy()

    def target(self, action: np.ndarray, q_commanded: np.ndarray, gripper_commanded: float) -> tuple[np.ndarray, float]:
        """Joints (J,) [rad] at the pose commanded plus the delta, and the gripper. Raises HardwareError."""
        goal = self.position(q_commanded) + action[:3]
        rotation = self._rotation(action)
        q = np.array(q_commanded, dtype=np.float64)
        spare: np.ndarray | None = None
        for _ in range(self.ITERATIONS):
            error, turn = np.split(self._error(q, goal, rotation), [self._rows])
            if np.abs(error).max() < self.TOLERANCE:
                break
            mujoco.mj_comPos(self._model, self._data)
            mujoco.mj_jacSite(self._model, self._data, self._jacobian[:3], self._jacobian[3:], self._site)
            jacobian, turning = np.split(self._jacobian[:, self._dof], [self._rows])
            if spare is None:
                spare = self.TURN_GAIN * turning.T @ turn if len(turn) else self.POSTURE_GAIN * (self._home - q)
            damped = jacobian @ jacobian.T + self._damping
            mujoco.mju_cholFactor(damped, 0.0)  # not LAPACK: its threads cost 1 ms here when the machine is busy
            mujoco.mju_cholSolve(self._solution, damped, error - jacobian @ spare)
            q = np.clip(q + spare + jacobian.T @ self._solution, self._low, self._high)
            spare = np.zeros_like(q)  # once: it leaks a little into the pose, which the rest mends
        if np.abs(self._error(q, goal, rotation)[: self._rows]).max() > self.REACHED:
            raise HardwareError(f"action: end effector at {goal.round(3).tolist()} m is out of the arm's reach")
        return q, float(action[-1])

    def hold(self, q_commanded: np.ndarray, gripper_commanded: float) -> np.ndarray:
        return np.array([0.0, 0.0, 0.0, gripper_commanded])

    def position(self, q: np.ndarray) -> np.ndarray:
        """Tool centre (3,) [m, world]."""
        self._forward(q)
        return self._data.site_xpos[self._site].copy()

    def clip(self, action: np.ndarray, q_commanded: np.ndarray, box: Box) -> tuple[np.ndarray, bool]:
        """The delta shortened, axis by axis, to end inside the box; from outside it may only come nearer."""
        start = self.position(q_commanded)
        goal = start + action[:3]
        inside = np.clip(goal, np.minimum(box.low, start), np.maximum(box.high, start))
        clipped = np.array(action, dtype=np.float64)
        clipped[:3] = inside - start
        return clipped, bool((np.abs(inside - goal) > 1e-6).any())

    def _forward(self, q: np.ndarray) -> None:
        self._data.qpos[self._qpos] = q
        mujoco.mj_kinematics(self._model, self._data)

    def _rotation(self, action: np.ndarray) -> np.ndarray:
        """The tool's orientation (3, 3) to reach, right after `position` of the joints commanded: as at home, so that no error adds up."""
        return self.home_rotation

    def _error(self, q: np.ndarray, goal: np.ndarray, rotation: np.ndarray) -> np.ndarray:
        """(6,): metres to go, and the rotation vector to go, small angles, both in world axes."""
        self._forward(q)
        reached = self._data.site_xmat[self._site].reshape(3, 3)
        turn = 0.5 * np.cross(reached, rotation, axis=0).sum(axis=1)
        return np.concatenate([goal - self._data.site_xpos[self._site], turn])


class EePoseDelta(EeDelta):
    """action = [dx, dy, dz (m), rx, ry, rz (rotation vector, rad), gripper (0 closed .. 1 open)], all in world axes and relative to the
    COMMANDED pose: what robosuite's OSC_POSE, and so robomimic's datasets, call their first seven numbers, in SI units."""

    def hold(self, q_commanded: np.ndarray, gripper_commanded: float) -> np.ndarray:
        return np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, gripper_commanded])

    def rotation(self, q: np.ndarray) -> np.ndarray:
        """Tool axes as columns (3, 3), world."""
        self._forward(q)
        return self._data.site_xmat[self._site].reshape(3, 3).copy()

    def _rotation(self, action: np.ndarray) -> np.ndarray:
        turn, angle = np.zeros(9), float(np.linalg.norm(action[3:6]))
        quaternion = np.array([1.0, 0.0, 0.0, 0.0])
        if angle > 0.0:
            mujoco.mju_axisAngle2Quat(quaternion, action[3:6] / angle, angle)
        mujoco.mju_quat2Mat(turn, quaternion)
        return turn.reshape(3, 3) @ self._data.site_xmat[self._site].reshape(3, 3)
