"""How far points move when joints turn: what bounds how quickly room can run out."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np


def reach(model: mujoco.MjModel, joints: Sequence[int], body: int, offset: float = 0.0, than: int = 0) -> np.ndarray:
    """(J,) [m per rad]: no point within `offset` [m] of a body's origin moves further than reach @ |dq|, seen from the body `than`
    (0: the world)."""
    return np.array([_lever(model, j, body, than) + offset * _carries(model, j, body, than) for j in joints])


def apart(model: mujoco.MjModel, joints: Sequence[int], one: int, other: int) -> np.ndarray:
    """(J,) [m per rad]: the distance of two geoms shrinks by no more than apart @ |dq|."""
    bodies = [int(model.geom_bodyid[geom]) for geom in (one, other)]
    size = [np.linalg.norm(model.geom_pos[geom]) + model.geom_rbound[geom] for geom in (one, other)]
    return reach(model, joints, bodies[0], size[0], bodies[1]) + reach(model, joints, bodies[1], size[1], bodies[0])


def _carries(model: mujoco.MjModel, joint: int, body: int, than: int) -> bool:
    """Does the joint move a body, seen from another?"""
    carrier = int(model.jnt_bodyid[joint])
    return carrier in _ancestors(model, body) and carrier not in _ancestors(model, than)


def _lever(model: mujoco.MjModel, joint: int, body: int, than: int) -> float:
    """From a joint's axis to a body's origin, at most [m]."""
    if not _carries(model, joint, body, than):
        return 0.0
    way = _ancestors(model, body)
    way = way[: way.index(int(model.jnt_bodyid[joint]))]
    return float(np.linalg.norm(model.jnt_pos[joint]) + sum(np.linalg.norm(model.body_pos[b]) for b in way))


def _ancestors(model: mujoco.MjModel, body: int) -> list[int]:
    """The body itself first, the world last."""
    chain = [body]
    while chain[-1]:
        chain.append(int(model.body_parentid[chain[-1]]))
    return chain
