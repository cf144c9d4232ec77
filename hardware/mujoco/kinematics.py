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

    With fewer than six joints the place is exact and the orientation as near to home's as the joints left over can bring it (task
    priority: Nakamura, Hanafusa, Yoshikawa 1987): a five-joint arm keeps its pitch and roll and turns with its base.
    """

    DAMPING = 1e-2  # m or rad per rad, small against the arm's reach: exact pose wherever the arm can bend
    POSTURE_GAIN = 0.05  # share of the way home per action, in the null space
    ITERATIONS = 30
    TOLERANCE = 1e-6  # m, rad: what each action may miss adds up
    TURN_DAMPING = 0.3  # rad per rad, of an orientation that only some joints can bring nearer: the rest is no reason to hurry
    TURNED = 1e-4  # rad: joints that turn it by less per iteration have brought it as near as they can
    REACHED = 1e-3  # m, rad: further from the goal than this after ITERATIONS, it is out of reach

    def __init__(
        self,
        model: mujoco.MjModel,
        joint_ids: np.ndarray,
        site: str,
        home: np.ndarray,
        limits: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        """limits: lowest and highest joints (J,) [rad] to make use of; None: all that the model has."""
        self._model, self._data = model, mujoco.MjData(model)
        self._qpos, self._dof = model.jnt_qposadr[joint_ids], model.jnt_dofadr[joint_ids]
        self._low, self._high = limits or model.jnt_range[joint_ids].T
        self._site, self._home = model.site(site).id, np.array(home, dtype=np.float64)
        self._jacobian = np.zeros((6, model.nv))
        tool, offset = int(model.site_bodyid[self._site]), float(np.linalg.norm(model.site_pos[self._site]))
        self.reach = reach(model, joint_ids.tolist(), tool, offset)  # of the tool
        self._exact = slice(0, 6 if len(self._qpos) >= 6 else 3)  # of the pose's six numbers, those that the joints are enough for
        self._forward(self._home)
        self.home_rotation = self._data.site_xmat[self._site].reshape(3, 3).copy()

    def target(self, action: np.ndarray, q_commanded: np.ndarray, gripper_commanded: float) -> tuple[np.ndarray, float]:
        """Joints (J,) [rad] at the pose commanded plus the delta, and the gripper. Raises HardwareError."""
        goal = self.position(q_commanded) + action[:3]
        rotation = self._rotation(action)
        q = np.array(q_commanded, dtype=np.float64)
        spare, free = self.POSTURE_GAIN * (self._home - q), np.ones(len(q), dtype=bool)
        for _ in range(self.ITERATIONS):
            error = self._error(q, goal, rotation)
            near = np.abs(error[self._exact]).max() < self.TOLERANCE
            if near and self._exact.stop == 6:
                break
            mujoco.mj_comPos(self._model, self._data)
            mujoco.mj_jacSite(self._model, self._data, self._jacobian[:3], self._jacobian[3:], self._site)
            jacobian = self._jacobian[:, self._dof] * free
            if self._exact.stop == 3:
                spare = self._turn(jacobian, error)
                if near and np.abs(spare).max() < self.TURNED:
                    break
            exact = jacobian[self._exact]
            wanted = q + spare + _solve(exact, error[self._exact] - exact @ spare, self.DAMPING)
            q = np.clip(wanted, self._low, self._high)
            free &= q == wanted  # one that came to its limit stays there: the others do the rest
            spare = np.zeros_like(q)  # once: it leaks a little into the pose, which the rest mends
        if np.abs(self._error(q, goal, rotation)[self._exact]).max() > self.REACHED:
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

    def _turn(self, jacobian: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Joints (J,) [rad] that bring the orientation nearer and leave the place where it is. jacobian (6, J), error (6,)."""
        move, turn = jacobian[:3], jacobian[3:]
        to_move = _inverse(move, self.DAMPING)
        free = np.eye(len(to_move)) - to_move @ move
        return free @ _inverse(turn @ free, self.TURN_DAMPING) @ (error[3:] - turn @ to_move @ error[:3])

    def _error(self, q: np.ndarray, goal: np.ndarray, rotation: np.ndarray) -> np.ndarray:
        """(6,): metres to go, and the rotation vector to go, small angles, both in world axes."""
        self._forward(q)
        reached = self._data.site_xmat[self._site].reshape(3, 3)
        turn = 0.5 * np.cross(reached, rotation, axis=0).sum(axis=1)
        return np.concatenate([goal - self._data.site_xpos[self._site], turn])


def _solve(jacobian: np.ndarray, error: np.ndarray, damping: float) -> np.ndarray:
    """Damped least squares: joints (J,) for an error (R,); jacobian (R, J)."""
    solution = np.zeros(len(error))
    mujoco.mju_cholSolve(solution, _factor(jacobian, damping), error)
    return jacobian.T @ solution


def _inverse(jacobian: np.ndarray, damping: float) -> np.ndarray:
    """(J, R): what `_solve` multiplies an error by."""
    units, factor = np.eye(len(jacobian)), _factor(jacobian, damping)
    inverse = np.empty_like(units)
    for row, unit in zip(inverse, units, strict=True):
        mujoco.mju_cholSolve(row, factor, unit)
    return jacobian.T @ inverse


def _factor(jacobian: np.ndarray, damping: float) -> np.ndarray:
    damped = jacobian @ jacobian.T
    damped.flat[:: len(damped) + 1] += damping**2
    mujoco.mju_cholFactor(damped, 0.0)  # not LAPACK: its threads cost 1 ms here when the machine is busy
    return damped


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
