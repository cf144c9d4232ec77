"""Scripted operators, by body. They see the simulator's state and are always recorded as SCRIPTED, never as a person."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hardware import arms
from hardware.robot import SafeRobot
from hardware.types import Pilot
from robolearn.core.errors import UserError
from robolearn.tasks.lift_operator import LiftOperator
from robolearn.tasks.place_operators import CanOperator, SquareOperator
from robolearn.tasks.reach_operator import ReachOperator
from robolearn.tasks.table_operators import BallOperator, PushOperator

_OPERATORS: dict[str, Callable[[SafeRobot, np.random.Generator], Pilot]] = {
    "robosuite:Lift": LiftOperator,
    "robosuite:Lift:pose": LiftOperator,
    "robosuite:Lift:state": LiftOperator,
    "robosuite:Reach": BallOperator,
    "robosuite:Reach:state": BallOperator,
    "robosuite:Push": PushOperator,
    "robosuite:Push:state": PushOperator,
    "robosuite:PickPlaceCan": CanOperator,
    "robosuite:PickPlaceCan:pose": CanOperator,
    "robosuite:NutAssemblySquare:pose": SquareOperator,
    "fake": ReachOperator,
    **dict.fromkeys(arms.names(), BallOperator),  # reach:ARM, whose spec is the arm's own
}

_KNOWN = [*(name for name in _OPERATORS if name not in arms.names()), "reach:ARM"]


def operator_for(robot: SafeRobot, rng: np.random.Generator) -> Pilot:
    """The scripted operator for what `robot` is; all its noise, moods and mistakes come from `rng`. Raises UserError."""
    name = robot.spec.name
    if robot.world is None:
        raise UserError(
            f"pilot: a scripted operator needs a simulator's state, {name!r} has none; valid: a person's device, or reach:{name}"
        )
    if name in arms.names() and robot.spec.action_mode != "ee_delta":
        raise UserError(f"robot.arm.actions: {robot.spec.action_mode}; the scripted operator of reach:{name} needs ee_delta")
    try:
        return _OPERATORS[robot.spec.name](robot, rng)
    except KeyError:
        message = f"pilot: no scripted operator for {robot.spec.name!r}; valid bodies: {', '.join(_KNOWN)} (or fly it by hand)"
        raise UserError(message) from None
