"""A double's physics: the arm in MuJoCo, firm servos at its joints, caught up with the wall clock whenever somebody looks."""

from __future__ import annotations

import threading
from time import monotonic

import mujoco
import numpy as np

from hardware.arms.model import ArmModel
from hardware.doubles.panel import Panel

BANDWIDTH = 60.0  # of the servos [rad/s], critically damped
GRIPPER_S = 0.4  # from closed to open
LONGEST_S = 0.5  # of physics made up for at once: after a longer pause the rest of it never was


class Chain:
    """`servo` says where the joints shall be, `measure` where they are. Threads may share it: every call takes one lock."""

    def __init__(self, arm: ArmModel, panel: Panel) -> None:
        self.arm, self.panel = arm, panel
        self.model = arm.compile()
        self.data = mujoco.MjData(self.model)
        ids = np.array([self.model.joint(name).id for name in arm.spec.joints])
        self._qpos, self._dof = self.model.jnt_qposadr[ids], self.model.jnt_dofadr[ids]
        self._torque_max = np.array(arm.torque_max or (100.0,) * len(ids))
        self._lock, self._began = threading.RLock(), monotonic()
        self.data.qpos[self._qpos] = arm.spec.home
        mujoco.mj_forward(self.model, self.data)
        self._goal, self._gripper, self._gripper_goal = arm.spec.home.copy(), 0.0, 0.0
        self._mass = np.zeros((self.model.nv, self.model.nv))
        self.powered = True
        self._publish()

    def servo(self, q: np.ndarray | None = None, gripper: float | None = None, joint: int | None = None) -> None:
        """New goals: all joints (J,) [rad], or q[0] for one of them; NaN moves nothing, as a motor's registers would not hold it."""
        with self._lock:
            self._catch_up()
            if q is not None:
                places = slice(None) if joint is None else slice(joint, joint + 1)
                values = np.asarray(q, dtype=np.float64)
                self._goal[places] = np.where(np.isfinite(values), values, self._goal[places])
                self.panel.writes += 1
            if gripper is not None and np.isfinite(gripper):
                self._gripper_goal = float(np.clip(gripper, 0.0, 1.0))

    def measure(self) -> tuple[np.ndarray, np.ndarray, float]:
        """(q, dq, gripper), now."""
        with self._lock:
            self._catch_up()
            return self.data.qpos[self._qpos].copy(), self.data.qvel[self._dof].copy(), self._gripper

    def hold(self) -> None:
        """Stay where the joints are."""
        with self._lock:
            self._catch_up()
            self._goal = self.data.qpos[self._qpos].copy()

    def place(self, q: np.ndarray, gripper: float | None = None) -> None:
        """At rest at q at once, as a person's hands could put it; the gripper, too, where one is given."""
        with self._lock:
            self._catch_up()
            self.data.qpos[self._qpos], self.data.qvel[:] = q, 0.0
            self._goal = np.array(q, dtype=np.float64)
            if gripper is not None:
                self._gripper = self._gripper_goal = gripper
            self._publish()

    @property
    def goal(self) -> np.ndarray:
        return self._goal.copy()

    @property
    def torque(self) -> np.ndarray:
        """Of the servos, (J,) [N m]."""
        return self.data.qfrc_applied[self._dof].copy()

    def _catch_up(self) -> None:
        now, dt = monotonic(), self.model.opt.timestep
        due = min(now - self._began, LONGEST_S)
        steps = int(due / dt)
        self._began = now - (due - steps * dt) if due < LONGEST_S else now
        if not steps:
            return
        if self.panel.hold:
            self.data.qvel[:] = 0.0
        else:
            self._walk(steps)
        way = steps * dt / GRIPPER_S
        if not self.panel.jam:
            self._gripper += float(np.clip(self._gripper_goal - self._gripper, -way, way))
        self._publish()

    def _walk(self, steps: int) -> None:
        """Computed torque: inertia times the servo's acceleration, gravity and Coriolis compensated, within what the motors can do."""
        model, data, dof = self.model, self.data, self._dof
        for _ in range(steps):
            mujoco.mj_step1(model, data)
            torque = np.zeros(len(dof))
            if self.powered:
                mujoco.mj_fullM(model, self._mass, data.qM)
                wanted = BANDWIDTH**2 * (self._goal - data.qpos[self._qpos]) - 2 * BANDWIDTH * data.qvel[dof]
                servo = self._mass[np.ix_(dof, dof)] @ wanted
                torque = np.clip(servo, -self._torque_max, self._torque_max) + data.qfrc_bias[dof]
            torque[min(1, len(dof) - 1)] += self.panel.push
            data.qfrc_applied[dof] = torque
            mujoco.mj_step2(model, data)
            self.panel.contacts += data.ncon > 0

    def _publish(self) -> None:
        panel = self.panel
        panel.publish(self.data.qpos[self._qpos], self.data.qvel[self._dof], self._goal)
        panel.gripper, panel.powered = self._gripper, float(self.powered)
