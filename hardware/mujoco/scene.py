"""A robosuite environment as a scene: its model, objects, placement, reward and success, stepped and driven by ourselves.

robosuite computes its controller in Python at every physics step. Here the arm's motors become position servos inside
MuJoCo and gravity is compensated, as a Franka's own joint controller does, so many steps run in C between setpoints.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

import mujoco
import numpy as np
import robosuite  # noqa: F401  (registers its environments)
from robosuite.environments.base import REGISTERED_ENVS

import hardware.mujoco.tabletop  # noqa: F401  (registers two more)
from hardware.mujoco.meshes import lighten

BANDWIDTH = 20.0  # of the joint servos [rad/s], critically damped: firm in free motion, yielding to a contact
SETPOINT_HZ = 100.0
_ROBOT_PREFIXES = ("robot0_", "gripper0_")


class Scene:
    """One robosuite environment with a Panda, its MuJoCo model and data. `advance` is the only thing that moves time."""

    def __init__(self, environment: str) -> None:
        self.name, self.env = environment, _make(environment)
        self.model, self.data = self.env.sim.model._model, self.env.sim.data._data
        self.steps = 0  # physics steps since the beginning; never goes back
        robot = self.env.robots[0]
        self.arm_joints: tuple[str, ...] = tuple(robot.robot_model.joints)
        self.joint_ids = np.array([self.model.joint(name).id for name in self.arm_joints])
        self.qpos_index, self.dof_index = self.model.jnt_qposadr[self.joint_ids], self.model.jnt_dofadr[self.joint_ids]
        self.home = np.array(robot.robot_model.init_qpos, dtype=np.float64)
        driven = self.model.actuator_trnid[:, 0]
        self._motors = np.array([int(np.flatnonzero(driven == j)[0]) for j in self.joint_ids])
        self._finger_motors = np.setdiff1d(np.arange(self.model.nu), self._motors)
        self._finger_qpos = self.model.jnt_qposadr[driven[self._finger_motors]]
        ranges, fingers = self.model.actuator_ctrlrange[self._finger_motors], np.arange(len(self._finger_motors))
        far = np.abs(ranges).argmax(axis=1)
        self._open, self._closed = ranges[fingers, far], ranges[fingers, 1 - far]
        self._opening_share = 1.0 / (self._open - self._closed) / len(fingers)
        self._ramp = round(1.0 / SETPOINT_HZ / self.model.opt.timestep)  # physics steps from one setpoint to the next
        self._make_servos()
        self.hold()

    def _make_servos(self) -> None:
        """force = kp (ctrl - q) - kd dq, per joint from its own inertia at home; robosuite's torque limits stay."""
        model, data = self.model, mujoco.MjData(self.model)
        data.qpos[self.qpos_index] = self.home
        mujoco.mj_forward(model, data)
        inertia = np.zeros((model.nv, model.nv))
        mujoco.mj_fullM(model, inertia, data.qM)
        inertia, motors = np.diag(inertia)[self.dof_index], self._motors
        model.actuator_forcerange[motors], model.actuator_forcelimited[motors] = model.actuator_ctrlrange[motors], 1
        model.actuator_ctrllimited[motors] = 0
        model.actuator_biastype[motors] = mujoco.mjtBias.mjBIAS_AFFINE
        model.actuator_gainprm[motors, 0] = BANDWIDTH**2 * inertia
        model.actuator_biasprm[motors, 1] = -(BANDWIDTH**2) * inertia
        model.actuator_biasprm[motors, 2] = -2 * BANDWIDTH * inertia

    # Control ----------------------------------------------------------------------------------------------------------

    def control(self, q: np.ndarray, gripper: float) -> None:
        """The next setpoint: joints (J,) [rad] to be at 1/SETPOINT_HZ seconds from now, and gripper 0..1."""
        self._from, self._to, self._moving = self._to, np.array(q, dtype=np.float64), True
        self.data.ctrl[self._finger_motors] = self._closed + gripper * (self._open - self._closed)

    def hold(self) -> None:
        """Stay at the joints as measured; the gripper keeps its grip."""
        self._from = self._to = self.data.qpos[self.qpos_index].copy()
        self._moving = True

    def advance(self, seconds: float) -> None:
        """Run the physics. The servos follow the straight line between setpoints; its velocity, fed forward, cancels their lag."""
        steps = round(seconds / self.model.opt.timestep)
        self.steps += steps
        if self._moving:
            lead = (self._to - self._from) * SETPOINT_HZ * (2 / BANDWIDTH)
            for part in np.arange(1, min(steps, self._ramp) + 1) / self._ramp:
                self.data.ctrl[self._motors] = self._from + part * (self._to - self._from) + lead
                mujoco.mj_step(self.model, self.data)
            steps -= min(steps, self._ramp)
            self._from, self._moving = self._to, False
        if steps:
            self.data.ctrl[self._motors] = self._to
            mujoco.mj_step(self.model, self.data, nstep=steps)

    def gripper(self) -> float:
        """Measured opening, 0 closed .. 1 open."""
        travel = self.data.qpos[self._finger_qpos] - self._closed
        return min(max(float(travel @ self._opening_share), 0.0), 1.0)


def _make(environment: str):
    """The robosuite environment, without its renderer, its meshes lightened and its robot's gravity compensated."""

    class LightScene(REGISTERED_ENVS[environment]):
        def edit_model_xml(self, xml_str: str) -> str:
            return lighten(_compensate_gravity(super().edit_model_xml(xml_str)))

    return LightScene(
        robots="Panda",
        use_camera_obs=False,
        has_renderer=False,
        has_offscreen_renderer=False,
        hard_reset=False,  # a reset keeps the compiled model
        reward_shaping=True,
        ignore_done=True,
        seed=0,  # sizes of objects, drawn once at construction
    )


def _compensate_gravity(xml: str) -> str:
    root = ET.fromstring(xml)
    for body in root.iter("body"):
        if (body.get("name") or "").startswith(_ROBOT_PREFIXES):
            body.set("gravcomp", "1")
    return ET.tostring(root, encoding="unicode")
