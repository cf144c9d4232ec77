"""OpenArm and YAM: which motors they are made of, their gains and limits. Data only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hardware.arms.damiao_bus import DM4310, DM4340, DM8009, Motor
from hardware.arms.model import ArmModel, limits, own
from hardware.calibration import Calibration
from hardware.types import ArmSpec

RATE_HZ = 100.0  # sixteen frames a round: a fifth of what a bus of 1 Mbit/s carries


@dataclass(frozen=True)
class MotorChain:
    """The motors of an arm: joints first, the gripper last, with CAN ids from 1 on."""

    motors: tuple[Motor, ...]
    kp: tuple[float, ...]  # N m/rad
    kd: tuple[float, ...]  # N m s/rad
    gripper: tuple[float, float]  # raw readings closed and open [rad]
    gripper_known: bool  # the same for every arm of this type


# Motors and gains of OpenArm 1.0 as LeRobot drives it (openarm_follower); of YAM as I2RT does (i2rt, config/yam.yml, linear_4310.yml).
CHAINS = {
    "openarm": MotorChain(
        motors=(DM8009, DM8009, DM4340, DM4340, DM4310, DM4310, DM4310, DM4310),
        kp=(240.0, 240.0, 240.0, 240.0, 24.0, 31.0, 25.0, 25.0),
        kd=(5.0, 5.0, 3.0, 5.0, 0.3, 0.3, 0.3, 0.3),
        gripper=(0.0, -1.0472),
        gripper_known=True,
    ),
    "yam": MotorChain(
        motors=(DM4340, DM4340, DM4340, DM4310, DM4310, DM4310, DM4310),
        kp=(80.0, 80.0, 80.0, 40.0, 10.0, 10.0, 20.0),
        kd=(5.0, 5.0, 5.0, 1.5, 1.5, 1.5, 0.5),
        gripper=(0.0, 6.57),  # its motor turns more than once, from wherever it was switched on
        gripper_known=False,
    ),
}
# No maker publishes accelerations: these are ours. Speeds: half of what the slowest motor, a DM4340, does without load (5.45 rad/s).
V_MAX, A_MAX, J_MAX = 2.7, 10.0, 100.0
MODELS = {
    "openarm": ArmModel(
        spec=ArmSpec(
            name="openarm",
            joints=tuple(f"joint{i}" for i in range(1, 8)),
            units="rad",
            rate_hz=RATE_HZ,
            **limits(  # ranges of the published model of one arm (openarm_mujoco)
                q_min=(-1.396, -1.745, -1.571, 0.0, -1.571, -0.785, -1.571),
                q_max=(3.491, 1.745, 1.571, 2.443, 1.571, 0.785, 1.571),
                v_max=[V_MAX] * 7,
                a_max=[A_MAX] * 7,
                j_max=[J_MAX] * 7,
                home=(0.0, 0.0, 0.0, np.pi / 2, 0.0, 0.0, 0.0),
            ),
        ),
        mjcf=own("openarm"),
        elbow=("link4",),
        torque_max=(40.0, 40.0, 27.0, 27.0, 7.0, 7.0, 7.0),
        gripper_max_m=0.088,
        zero="stretched straight away from its base, every link in line, the fingers opening to the left and right",
    ),
    "yam": ArmModel(
        spec=ArmSpec(
            name="yam",
            joints=tuple(f"joint{i}" for i in range(1, 7)),
            units="rad",
            rate_hz=RATE_HZ,
            **limits(  # ranges of the published model (i2rt; mujoco_menagerie)
                q_min=(-2.618, 0.0, 0.0, -1.571, -1.571, -2.094),
                q_max=(3.054, 3.665, 3.665, 1.571, 1.571, 2.094),
                v_max=[V_MAX] * 6,
                a_max=[A_MAX] * 6,
                j_max=[J_MAX] * 6,
                home=(0.0, 1.047, 1.047, 0.0, 0.0, 0.0),
            ),
        ),
        mjcf=own("yam"),
        elbow=("link3",),
        torque_max=(27.0, 27.0, 27.0, 7.0, 7.0, 7.0),
        gripper_max_m=0.096,
        zero="folded: upper arm level and pointing back, forearm level above it and pointing ahead, gripper level and ahead, the fingers "
        "opening up and down (what its gripper reads is right until the arm is switched off)",
    ),
}


def calibration(name: str) -> Calibration:
    """Of an arm whose motors were zeroed in the pose of its model."""
    joints, chain = len(MODELS[name].spec.joints), CHAINS[name]
    return Calibration(
        arm=name,
        channel=tuple(range(1, joints + 1)),
        offset=(0.0,) * joints,
        sign=(1,) * joints,
        scale=(1.0,) * joints,
        gripper=joints + 1,
        gripper_closed=chain.gripper[0],
        gripper_open=chain.gripper[1],
    )
