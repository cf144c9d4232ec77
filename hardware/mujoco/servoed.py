"""An arm in MuJoCo with firm servos at its joints: the physics of a double, and of a simulated body. Time passes only by `advance`."""

from __future__ import annotations

import mujoco
import numpy as np

from hardware.arms.model import ArmModel

BANDWIDTH = 60.0  # of the servos [rad/s], critically damped
GRIPPER_S = 0.4  # from closed to open
TORQUE_MAX = 100.0  # N m, of servos that the model names none for


class ServoedArm:
    """Joints go to `goal` (J,) [rad], the gripper to `gripper_goal` (0..1). Starts at rest at home."""

    def __init__(self, arm: ArmModel) -> None:
        self.arm, self.model = arm, arm.compile()
        self.data = mujoco.MjData(self.model)
        ids = np.array([self.model.joint(name).id for name in arm.spec.joints])
        self._qpos, self._dof = self.model.jnt_qposadr[ids], self.model.jnt_dofadr[ids]
        self._torque_max = np.array(arm.torque_max or (TORQUE_MAX,) * len(ids))
        self._mass = np.zeros((self.model.nv, self.model.nv))
        self.powered = True
        self.held = self.jammed = False  # the joints, the gripper: standing still, as against a wall
        self.push = 0.0  # on the second joint [N m], as of a contact
        self.steps = self.contacts = 0  # physics steps so far; those with a part touching another
        self.place(arm.spec.home, 0.0)

    @property
    def q(self) -> np.ndarray:
        return self.data.qpos[self._qpos].copy()

    @property
    def dq(self) -> np.ndarray:
        return self.data.qvel[self._dof].copy()

    @property
    def torque(self) -> np.ndarray:
        """Of the servos, (J,) [N m]."""
        return self.data.qfrc_applied[self._dof].copy()

    def place(self, q: np.ndarray, gripper: float | None = None) -> None:
        """At rest at q (J,) [rad] at once; the gripper, too, where one is given."""
        self.goal = np.array(q, dtype=np.float64)
        self.data.qpos[self._qpos], self.data.qvel[:] = q, 0.0
        if gripper is not None:
            self.gripper = self.gripper_goal = gripper
        mujoco.mj_forward(self.model, self.data)

    def advance(self, steps: int) -> None:
        """Run the physics for so many of `model.opt.timestep`."""
        if self.held:
            self.data.qvel[:] = 0.0
        for _ in range(0 if self.held else steps):
            self._step()
        self.steps += steps
        way = steps * self.model.opt.timestep / GRIPPER_S
        if not self.jammed:
            self.gripper += float(np.clip(self.gripper_goal - self.gripper, -way, way))

    def _step(self) -> None:
        """Computed torque: inertia times the servo's acceleration, gravity and Coriolis compensated, within what the motors can do."""
        model, data, dof = self.model, self.data, self._dof
        mujoco.mj_step1(model, data)
        torque = np.zeros(len(dof))
        if self.powered:
            mujoco.mj_fullM(model, self._mass, data.qM)
            wanted = BANDWIDTH**2 * (self.goal - data.qpos[self._qpos]) - 2 * BANDWIDTH * data.qvel[dof]
            servo = self._mass[np.ix_(dof, dof)] @ wanted
            torque = np.clip(servo, -self._torque_max, self._torque_max) + data.qfrc_bias[dof]
        torque[min(1, len(dof) - 1)] += self.push
        data.qfrc_applied[dof] = torque
        mujoco.mj_step2(model, data)
        self.contacts += data.ncon > 0
