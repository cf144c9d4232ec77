"""A simulated arm as a driver: setpoints in, measurements out, the same contract as a real one."""

from __future__ import annotations

import mujoco
import numpy as np

from hardware.mujoco.scene import SETPOINT_HZ, Scene
from hardware.types import ArmSpec, ArmState, Clock, HardwareError

# Franka Emika's published limits of the Panda (Franka Control Interface documentation, "Robot and interface specifications").
PANDA_V = np.array([2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61])  # rad/s
PANDA_A = np.array([15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0])  # rad/s2
PANDA_J = np.array([7500.0, 3750.0, 5000.0, 6250.0, 7500.0, 10000.0, 10000.0])  # rad/s3
# Used: shares that leave a reserve to a controller's own reflexes and keep the servos inside their torque limits.
V_SHARE, A_SHARE, J_SHARE = 0.7, 0.9, 0.3
_DIVERGED = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)


class MujocoArm:
    """The scene's arm. Reading costs nothing; time passes only through the clock that advances the scene."""

    def __init__(self, scene: Scene, clock: Clock) -> None:
        self._scene, self._clock, self._halted = scene, clock, False
        low, high = scene.model.jnt_range[scene.joint_ids].T
        self.spec = ArmSpec(
            name="panda (mujoco)",
            joints=scene.arm_joints,
            units="rad",
            q_min=low.copy(),
            q_max=high.copy(),
            v_max=V_SHARE * PANDA_V,
            a_max=A_SHARE * PANDA_A,
            j_max=J_SHARE * PANDA_J,
            home=scene.home,
            rate_hz=SETPOINT_HZ,
        )

    def connect(self) -> None:
        self._halted = False

    def close(self) -> None: ...

    def read(self) -> ArmState:
        """Joints as they are now; a diverged simulation (MuJoCo resets itself) is a fault."""
        scene, data = self._scene, self._scene.data
        diverged = any(data.warning[kind].number for kind in _DIVERGED)
        return ArmState(
            time=self._clock.now(),
            seq=scene.steps,
            q=data.qpos[scene.qpos_index],
            dq=data.qvel[scene.dof_index],
            gripper=scene.gripper(),
            fault="simulation diverged" if diverged else None,
        )

    def write(self, q: np.ndarray, gripper: float) -> None:
        """One setpoint: joints (J,) [rad], gripper 0..1. Raises HardwareError rather than clip."""
        self.spec.check(q, gripper)
        if self._halted:
            raise HardwareError(f"{self.spec.name}: halted; connect again")
        self._scene.control(q, gripper)

    def halt(self) -> None:
        """Hold the joints where they are until connected again; the gripper keeps its grip."""
        self._halted = True
        self._scene.hold()
