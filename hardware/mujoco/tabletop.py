"""Two more tasks on the table of robosuite's Lift, whose goal cameras see: a body called `goal`, which collides with nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from robosuite.environments.manipulation.lift import Lift
from robosuite.models.objects import BallObject, CylinderObject, PrimitiveObject

from hardware.mujoco.robosuite import TABLE_BOX, TOOL_SITE

GREEN = (0.1, 0.8, 0.2, 1.0)
REACH_MARGIN = 0.03  # m from the walls of the table box, where the governor brakes
REACH_LEAST = 0.10  # m of way at least
PUSH_WAY = (0.10, 0.20)  # m from the cube's start to its goal
# Where cube and goal lie, x then y [m]: the tool still finds room behind the cube, seen from the goal, and inside the table box.
CUBE_AREA = ((-0.10, 0.02), (-0.10, 0.10))
GOAL_AREA = ((-0.18, 0.10), (-0.18, 0.18))
# Sliding, torsional, rolling, of cube and table: wood on wood. With Lift's 1.0 a cube pushed above its middle tips over.
FRICTION = (0.3, 5e-3, 1e-4)


class GoalTask(Lift):
    """What both share: a goal that only a reset moves, and success once the way to go is shorter than NEAR."""

    NEAR: float  # m
    sim: Any
    cube: Any
    placement_initializer: Any

    def _add_goal(self, shape: Any, size: list[float]) -> PrimitiveObject:
        marker = shape("goal", size=size, rgba=GREEN, obj_type="visual", joints=None)
        marker.get_obj().set("mocap", "true")
        self.model.merge_objects([marker])
        self.model.mujoco_objects.append(marker)
        return marker

    def _place_goal(self, position: np.ndarray) -> None:
        self.sim.data.set_mocap_pos("goal_main", position)

    def _goal(self) -> np.ndarray:
        return self.sim.data.get_body_xpos("goal_main")

    def _tool(self) -> np.ndarray:
        return self.sim.data.get_site_xpos(TOOL_SITE)

    def _way(self) -> float:
        """To go, m."""
        raise NotImplementedError

    def _check_success(self) -> bool:
        return self._way() < self.NEAR


class Reach(GoalTask):
    """Bring the tool's centre into a green ball in the air, anywhere in the table box. There is no cube."""

    NEAR = 0.03  # at 0.05 even a careless hand succeeds every time

    def _load_model(self) -> None:
        super()._load_model()
        self.model.worldbody.remove(self.cube.get_obj())
        self.model.mujoco_objects.clear()
        self.placement_initializer.reset()
        self.cube = self._add_goal(BallObject, [self.NEAR])  # Lift looks for one

    def _reset_internal(self) -> None:
        super()._reset_internal()
        self.sim.forward()
        goal = tool = self._tool()
        while np.linalg.norm(goal - tool) < REACH_LEAST:
            goal = self.rng.uniform(TABLE_BOX.low + REACH_MARGIN, TABLE_BOX.high - REACH_MARGIN)
        self._place_goal(goal)

    def reward(self, action: object = None) -> float:
        """Falls with the way to go, 1.0 at success."""
        return 1.0 if self._check_success() else _near(self._way())

    def _way(self) -> float:
        return float(np.linalg.norm(self._tool() - self._goal()))


class Push(GoalTask):
    """Push the cube along the table until its centre lies over a green disc."""

    NEAR = 0.05

    def _load_model(self) -> None:
        self.table_friction = FRICTION
        super()._load_model()
        for geom in self.cube.get_obj().iter("geom"):
            geom.set("friction", " ".join(map(str, FRICTION)))
        sampler = self.placement_initializer
        (sampler.x_range, sampler.y_range), sampler.rotation = CUBE_AREA, 0.0
        self._add_goal(CylinderObject, [self.NEAR, 0.001])

    def _reset_internal(self) -> None:
        super()._reset_internal()
        start = self.sim.data.get_joint_qpos(self.cube.joints[0])[:2]
        low, high = np.transpose(GOAL_AREA)
        goal = np.full(2, np.inf)
        while not ((low < goal) & (goal < high)).all():
            way, angle = self.rng.uniform(*PUSH_WAY), self.rng.uniform(0, 2 * np.pi)
            goal = start + way * np.array([np.cos(angle), np.sin(angle)])
        self._place_goal(np.append(goal, self.table_offset[2] + 0.001))

    def reward(self, action: object = None) -> float:
        """A third for the tool near the cube, two thirds for the cube near its goal, 1.0 at success."""
        if self._check_success():
            return 1.0
        return (_near(float(np.linalg.norm(self._tool() - self._cube()))) + 2 * _near(self._way())) / 3

    def _way(self) -> float:
        return float(np.linalg.norm((self._cube() - self._goal())[:2]))

    def _cube(self) -> np.ndarray:
        return self.sim.data.get_body_xpos(self.cube.root_body)


def _near(way: float) -> float:
    """1 at no distance, 0.76 at 5 cm, 0.24 at 20 cm."""
    return 1.0 - float(np.tanh(5.0 * way))
