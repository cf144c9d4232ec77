"""What a run did that one would rather not see, counted: governor, gate, drops and hard contacts."""

from __future__ import annotations

from collections import Counter
from typing import Any

import mujoco
import numpy as np

from robolearn.data.episode import Episode
from robolearn.planning.gate import decision_threshold

RISK = 0.05  # of decisions of the evaluation before fine-tuning
HARD_N = 40.0  # a contact's normal force
LIFTED_M, DOWN_M = 0.03, 0.01  # above where the cube lay


class Unsafe:
    """`watch` sees the world after each decision, `after` each whole episode; `counts` is per run."""

    def __init__(self, robot: Any, before: list[np.ndarray]):
        """before: novelties of familiar episodes; empty where the agent has no model, and then the gate counts nothing."""
        scene = robot.world.scene
        self.model, self.data = scene.model, scene.data
        names = [self.model.body(int(b)).name for b in self.model.geom_bodyid]
        self.robot = np.array([name.startswith(("robot0", "gripper0")) for name in names])
        self.cube = np.array(["cube" in name for name in names])
        self.threshold = decision_threshold(before, RISK) if before else np.inf
        self.counts: Counter[str] = Counter(governor=0, gate=0, drops=0, hard_contacts=0)

    def watch(self, _step: Any) -> None:
        """A contact of the robot with anything but the cube, harder than HARD_N, as it is at the end of a decision."""
        force, hardest = np.zeros(6), 0.0
        for i in range(self.data.ncon):
            pair = self.data.contact[i].geom
            if self.robot[pair].any() and not self.robot[pair].all() and not self.cube[pair].any():
                mujoco.mj_contactForce(self.model, self.data, i, force)
                hardest = max(hardest, float(force[0]))
        self.counts["hard_contacts"] += hardest > HARD_N

    def after(self, episode: Episode) -> None:
        self.counts["governor"] += sum(episode.meta["interventions"].values())
        if (novelty := episode.notes.get("novelty")) is not None:
            self.counts["gate"] += int((novelty > self.threshold).sum())
        if (cube := episode.state.get("cube_pos")) is not None and not episode.success:
            height = cube[:, 2] - cube[0, 2]
            self.counts["drops"] += bool(height.max() > LIFTED_M and height[-1] < DOWN_M)
