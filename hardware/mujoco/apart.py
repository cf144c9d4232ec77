"""An arm alone in MuJoCo, its parts as capsules around their meshes: where tool and elbow are, how far parts are apart, and from a table.

A capsule covers more than its mesh does, and looking at all of them takes 9 microseconds where meshes take 300. (Boxes would
fit closer, but between boxes some distance apart MuJoCo reports contacts that are none.)
"""

from __future__ import annotations

from itertools import combinations, product

import mujoco
import numpy as np

from hardware.arms.model import TOOL, ArmModel
from hardware.mujoco.reach import apart, reach

_KEPT = (mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtGeom.mjGEOM_SPHERE, mujoco.mjtGeom.mjGEOM_PLANE)
SEEN = 0.3  # m: parts further apart than this are not measured


class ArmGeometry:
    """Kinematics of joints q (J,) [rad] in the arm's own frame, and the room between its parts."""

    def __init__(self, arm: ArmModel, table_z: float | None = None, tolerance: float = 0.02) -> None:
        """table_z: height of a table's top [m], which everything but a fixed base keeps above; None: there is none."""
        spec = mujoco.MjSpec.from_string(arm.mjcf())
        _cover(spec)
        if table_z is not None:
            spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1], pos=[0, 0, table_z])
        self._build(spec, arm)
        # Neighbours, whose capsules overlap wherever the arm is: what is this close at home is not looked at.
        near = {(c.geom1, c.geom2) for c in self._contacts(arm.spec.home) if c.dist < 2 * tolerance}
        bodies = {tuple(sorted(self.model.body(self.model.geom_bodyid[g]).name for g in pair)) for pair in near}
        for one, other in sorted(bodies):
            spec.add_exclude(bodyname1=one, bodyname2=other)
        self._build(spec, arm)
        self.unseen: frozenset[tuple[str, ...]] = frozenset(bodies)
        pairs = self._pairs()
        self.pair_reach = np.array([apart(self.model, self.joints, *pair) for pair in pairs]).reshape(len(pairs), len(self.joints))
        self._row = np.full((self.model.ngeom, self.model.ngeom), len(pairs))  # the last row is for contacts that nobody asks for
        for row, (one, other) in enumerate(pairs):
            self._row[one, other] = self._row[other, one] = row

    def _build(self, spec: mujoco.MjSpec, arm: ArmModel) -> None:
        for geom in spec.geoms:
            geom.margin = SEEN / 2  # two of them add up; set before compiling, which makes bodies' margins of them
        self.model = spec.compile()
        self.data, self._placed = mujoco.MjData(self.model), b""
        self.joints = [self.model.joint(name).id for name in arm.spec.joints]
        self._qpos = self.model.jnt_qposadr[self.joints]
        site = self.model.site(TOOL).id
        self._tool = self.data.site_xpos[site]
        offset = float(np.linalg.norm(self.model.site_pos[site]))
        self.tool_reach = reach(self.model, self.joints, int(self.model.site_bodyid[site]), offset)
        self._elbow = [self.model.body(name).id for name in arm.elbow]
        self.elbow_reach = np.array([reach(self.model, self.joints, elbow) for elbow in self._elbow]).reshape(-1, len(self.joints))

    def _pairs(self) -> list[tuple[int, int]]:
        """Geoms that MuJoCo tests against each other."""
        model = self.model
        excluded = set(model.exclude_signature.tolist())
        found = []
        for one, other in combinations(range(model.ngeom), 2):
            a, b = sorted((int(model.geom_bodyid[one]), int(model.geom_bodyid[other])))
            weld_a, weld_b = int(model.body_weldid[a]), int(model.body_weldid[b])
            neighbours = weld_a and weld_b and weld_a == int(model.body_weldid[model.body_parentid[weld_b]])
            tested = (model.geom_contype[one] & model.geom_conaffinity[other]) | (model.geom_contype[other] & model.geom_conaffinity[one])
            if weld_a != weld_b and not neighbours and tested and (a << 16) + b not in excluded:
                found.append((one, other))
        return found

    def tool(self, q: np.ndarray) -> np.ndarray:
        """End effector (3,) [m]."""
        self._place(q)
        return self._tool.copy()

    def elbow(self, q: np.ndarray) -> np.ndarray:
        """The bodies that have to stay inside the workspace, too, (P, 3) [m]."""
        self._place(q)
        return self.data.xpos[self._elbow]

    def rooms(self, q: np.ndarray) -> np.ndarray:
        """Of every two parts, and of parts and the table: their distance (R,) [m], SEEN at most; below 0 where they overlap."""
        contacts = self._contacts(q)
        rooms = np.full(len(self.pair_reach) + 1, SEEN)
        if len(contacts):
            pairs = contacts.geom
            np.minimum.at(rooms, self._row[pairs[:, 0], pairs[:, 1]], contacts.dist)
        return rooms[:-1]

    def _place(self, q: np.ndarray) -> None:
        if (pose := q.tobytes()) != self._placed:  # tool, elbow and rooms are asked for at the same pose
            self.data.qpos[self._qpos] = q
            mujoco.mj_kinematics(self.model, self.data)
            self._placed = pose

    def _contacts(self, q: np.ndarray):
        self._place(q)
        mujoco.mj_collision(self.model, self.data)
        return self.data.contact


def _cover(spec: mujoco.MjSpec) -> None:
    """What is no capsule, sphere or plane becomes the smallest of the capsules around it along its own three axes."""
    model = spec.compile()
    for index, geom in enumerate(list(spec.geoms)):
        if geom.type in _KEPT:
            continue
        points = _points(model, index)
        radius, half, centre, axis = min((_capsule(points, axis) for axis in range(3)), key=lambda c: c[0] ** 2 * (c[1] + c[0]))
        frame, turned = np.zeros(9), np.zeros(4)
        mujoco.mju_quat2Mat(frame, model.geom_quat[index])
        rotation = frame.reshape(3, 3)
        mujoco.mju_mat2Quat(turned, np.roll(rotation, 2 - axis, axis=1).flatten())  # the capsule's own axis is z
        shape = {"size": [radius, half, 0], "pos": model.geom_pos[index] + rotation @ centre, "quat": turned}
        geom.parent.add_geom(type=mujoco.mjtGeom.mjGEOM_CAPSULE, contype=geom.contype, conaffinity=geom.conaffinity, **shape)
        spec.delete(geom)


def _points(model: mujoco.MjModel, geom: int) -> np.ndarray:
    """Of a mesh, its vertices; of anything else, the corners of its box: (N, 3) in the geom's frame."""
    mesh = int(model.geom_dataid[geom])
    if mesh < 0:
        return model.geom_aabb[geom, :3] + model.geom_aabb[geom, 3:] * list(product((-1, 1), repeat=3))
    start = model.mesh_vertadr[mesh]
    return np.array(model.mesh_vert[start : start + model.mesh_vertnum[mesh]])


def _capsule(points: np.ndarray, axis: int) -> tuple[float, float, np.ndarray, int]:
    """(radius, half length, centre (3,), axis) of a capsule along an axis around points (N, 3)."""
    middle = 0.5 * (points.min(0) + points.max(0))
    away = points - middle
    beside = np.linalg.norm(np.delete(away, axis, axis=1), axis=1)
    radius = float(beside.max())
    ends = np.abs(away[:, axis]) - np.sqrt(np.maximum(radius**2 - beside**2, 0.0))
    return radius, max(float(ends.max()), 1e-4), middle, axis


class Apart:
    """A clearance: nothing touches."""

    name = "collision"

    def __init__(self, geometry: ArmGeometry, tolerance: float = 0.02) -> None:
        self._geometry, self.tolerance, self.reach = geometry, tolerance, geometry.pair_reach

    def at(self, q: np.ndarray) -> np.ndarray:
        return self._geometry.rooms(q) - self.tolerance
