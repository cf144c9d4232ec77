"""What Franka's control interface (FCI, server version 10) and its gripper (version 3) put on the wire: little endian, packed.

From the headers that Franka publishes under Apache-2.0 (libfranka-common, research_interface); only data, no behaviour.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum

import numpy as np

from hardware.arms.franka import RANGE_MAX, RANGE_MIN, TORQUE_MAX

PORT, GRIPPER_PORT = 1337, 1338  # the SDK knows no others
VERSION, GRIPPER_VERSION = 10, 3
ERRORS, POSITION_LIMITS = 41, 13  # flags, from 1; the one of a target that no joint can reach
SPEED_MAX = (2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26)  # of the FR3's joints, published [rad/s]

HEADER = struct.Struct("<III")  # command, command id, size with this header
GRIPPER_HEADER = struct.Struct("<HII")
CONNECT = struct.Struct("<HH")  # version, port that takes the states
MOVE = struct.Struct("<II6d?7d")  # controller, generator, deviations, asynchronous, velocities [rad/s]
GRIPPER_STATE = struct.Struct("<Idd?H")  # id, opening [m], widest [m], grasped, temperature [C]
COLLISION = struct.Struct("<52d")  # thresholds [N m], [N]


class Ask(IntEnum):
    """Commands over TCP."""

    CONNECT, MOVE, STOP, COLLISION, RECOVER, MODEL = 0, 1, 2, 3, 10, 11


class Moved(IntEnum):
    """Answers to a Move; it gets two of them: started, and how it ended."""

    DONE, STARTED, PREEMPTED, SAFETY_STOPPED, SAFETY_REFUSED, NOT_POSSIBLE = range(6)
    INVALID, REFLEX = 7, 8


class Mode(IntEnum):
    OTHER, IDLE, MOVE, GUIDING, REFLEX, USER_STOPPED, RECOVERING = range(7)


class Hand(IntEnum):
    """Commands to the gripper."""

    CONNECT, HOMING, GRASP, MOVE, STOP = range(5)


STATE = np.dtype(
    [("id", "<u8")]  # milliseconds of the controller's clock
    + [(name, "<f4", 16) for name in ("O_T_EE", "O_T_EE_d", "F_T_EE", "EE_T_K", "F_T_NE", "NE_T_EE")]
    + [(name, "<f4", (size,)) for part in ("ee", "load") for name, size in ((f"m_{part}", 1), (f"I_{part}", 9), (f"F_x_C{part}", 3))]
    + [(name, "<f4", 2) for name in ("elbow", "elbow_d")]
    + [(name, "<f4", 7) for name in ("tau_J", "tau_J_d", "dtau_J", "q", "q_d", "dq", "dq_d", "ddq_d")]
    + [("joint_contact", "<f4", 7), ("cartesian_contact", "<f4", 6), ("joint_collision", "<f4", 7), ("cartesian_collision", "<f4", 6)]
    + [("tau_ext", "<f4", 7), ("O_F_ext", "<f4", 6), ("K_F_ext", "<f4", 6), ("O_dP_EE_d", "<f4", 6), ("O_ddP_O", "<f4", 3)]
    + [(name, "<f4", 2) for name in ("elbow_c", "delbow_c", "ddelbow_c")]
    + [("O_T_EE_c", "<f4", 16), ("O_dP_EE_c", "<f4", 6), ("O_ddP_EE_c", "<f4", 6), ("theta", "<f4", 7), ("dtheta", "<f4", 7)]
    + [("accelerations", "<f4", 36)]
    + [("generator", "u1"), ("controller", "u1"), ("errors", "u1", 41), ("reflex", "u1", 41), ("mode", "u1"), ("success", "<f4")]
)
TARGET = np.dtype(
    [("id", "<u8"), ("q", "<f8", 7), ("dq", "<f8", 7), ("pose", "<f8", 16), ("twist", "<f8", 6), ("elbow", "<f8", 2)]
    + [("has_elbow", "?"), ("finished", "?"), ("torque", "<f8", 7), ("torque_finished", "?")]
)


def urdf() -> str:
    """The least that the SDK reads: a chain of seven joints, and how fast each may go near its ends."""
    joints = "".join(
        f"<link name='fr3_link{i}'/><joint name='fr3_joint{i}' type='revolute'><parent link='fr3_link{i - 1}'/>"
        f"<child link='fr3_link{i}'/><axis xyz='0 0 1'/><limit lower='{RANGE_MIN[i - 1]}' upper='{RANGE_MAX[i - 1]}' "
        f"velocity='{SPEED_MAX[i - 1]}' effort='{TORQUE_MAX[i - 1]}'/>"
        f"<position_based_velocity_limits velocity_offset='0.3' deceleration_limit='6.0'/></joint>"
        for i in range(1, 8)
    )
    flange = "<link name='fr3_link8'/><joint name='fr3_joint8' type='fixed'><parent link='fr3_link7'/><child link='fr3_link8'/></joint>"
    return f"<robot name='fr3'><link name='fr3_link0'/>{joints}{flange}</robot>"


def identity() -> np.ndarray:
    return np.eye(4, dtype=np.float32).ravel()


def messages(pending: bytearray, header: struct.Struct) -> Iterator[tuple[int, int, bytes]]:
    """(command, its id, body) of each whole message, which it takes out of `pending`. Raises ValueError for garbage."""
    while len(pending) >= header.size:
        command, number, size = header.unpack_from(pending)
        if not header.size <= size <= 4096:
            raise ValueError(f"message of {size} bytes")
        if len(pending) < size:
            return
        body = bytes(pending[header.size : size])
        del pending[:size]
        yield command, number, body


def message(header: struct.Struct, command: int, number: int, body: bytes) -> bytes:
    return header.pack(command, number, header.size + len(body)) + body
