"""A task: how an episode starts, what it earns, when it is done."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import hardware
from hardware import arms
from hardware.robot import SafeRobot
from hardware.types import Observation
from robolearn.core.errors import UserError

REAL_S = 60.0  # time limit on a real arm, where nothing else is said
REACH_S = 6.0  # for reach:ARM, simulated or on its double: thrice what the longest way takes


@dataclass(frozen=True)
class Outcome:
    """What a step led to. reward 0..1 per step; terminal: the task itself ended, which a time limit never means."""

    reward: float
    success: bool
    terminal: bool


@dataclass(frozen=True)
class Task:
    """reset, success and reward come from the body's world. On a real robot, which has none, the operator's word ends
    an episode; success earns 1, and nothing is earned until then."""

    name: str
    instruction: str  # in words, stored with every episode
    time_limit_s: float  # then the episode is truncated

    def reset(self, robot: SafeRobot, rng: np.random.Generator) -> None:
        """A new starting situation, drawn from `rng`; the arm at rest at its start."""
        robot.reset(rng)

    def judge(self, robot: SafeRobot, observation: Observation) -> Outcome:
        """What the newest observation is worth. Success ends the episode."""
        if robot.world is None:
            return Outcome(0.0, False, False)
        success = robot.world.success()
        return Outcome(robot.world.reward(), success, terminal=success)


_TASKS = {
    "robosuite:Lift": Task("lift", "lift the red cube", 8.0),
    "robosuite:Stack": Task("stack", "stack the red cube on the green one", 20.0),
    "robosuite:Reach": Task("reach", "bring the hand to the green ball", 5.0),
    "robosuite:Push": Task("push", "push the red cube onto the green disc", 8.0),
    "robosuite:Door": Task("door", "open the door", 20.0),
    "robosuite:NutAssembly": Task("nut_assembly", "put each nut on its peg", 60.0),
    "robosuite:NutAssemblySquare": Task("nut_assembly_square", "put the square nut on its peg", 30.0),
    "robosuite:NutAssemblyRound": Task("nut_assembly_round", "put the round nut on its peg", 30.0),
    "robosuite:PickPlace": Task("pick_place", "put each object into its bin", 80.0),
    "robosuite:PickPlaceCan": Task("pick_place_can", "put the can into its bin", 30.0),
    "robosuite:PickPlaceMilk": Task("pick_place_milk", "put the milk into its bin", 30.0),
    "pusht": Task("pusht", "push the T onto its mark", 30.0),
    "fake": Task("reach", "touch the target", 5.0),
}


def task_for(body: str) -> Task:
    """The task of a body such as RobotConfig.body; `:state` and `:pose` are other observations and actions, not other tasks.

    On a real arm it is whatever the person says. Raises UserError.
    """
    if hardware.in_real_time(body):
        return Task(body, "", REAL_S)
    if body in (f"reach:{name}" for name in arms.names()):
        return Task("reach", "bring the hand to the green ball", REACH_S)
    try:
        return _TASKS[body.removesuffix(":state").removesuffix(":pose")]
    except KeyError:
        raise UserError(f"body: {body!r} has no task; valid: {', '.join(_TASKS)}, reach:ARM, {', '.join(arms.names())}, remote") from None
