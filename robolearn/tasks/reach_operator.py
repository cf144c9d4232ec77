"""A scripted operator for the fake arm: goes for the target, at its own speed, with an unsteady hand."""

from __future__ import annotations

import numpy as np

from hardware.robot import SafeRobot
from hardware.types import Command, Observation, Source


class ReachOperator:
    """Each episode its own speed, reaction time and bias, which shrinks as the tip comes near. robot: the fake body."""

    NOISE = 0.02  # rad, correlated from step to step
    CORRELATION = 0.8

    def __init__(self, robot: SafeRobot, rng: np.random.Generator) -> None:
        if robot.world is None:
            raise ValueError("a scripted operator needs the simulator's state; this robot has no world")
        self._world, self._spec, self._rng = robot.world, robot.spec, rng
        self.reset()

    def reset(self) -> None:
        self._wait_s = self._rng.uniform(0.0, 0.4)
        self._gain = self._rng.uniform(0.2, 0.5)  # share of the way per decision
        self._bias = self._rng.normal(0.0, 0.1, 2)
        self._wobble = np.zeros(2)
        self._start: float | None = None

    def decide(self, observation: Observation) -> Command:
        self._start = observation.time if self._start is None else self._start
        q = observation.state["joint_pos"].astype(np.float64)
        self._wobble = self.CORRELATION * self._wobble + np.sqrt(1 - self.CORRELATION**2) * self._rng.normal(0.0, self.NOISE, 2)
        goal = q
        if observation.time - self._start >= self._wait_s:
            self._bias *= 0.85
            goal = q + self._gain * (self._world.privileged()["q_target"] + self._bias - q)
        action = np.clip(goal + self._wobble, self._spec.action.low, self._spec.action.high)
        return Command(observation.time, action.astype(np.float32), Source.SCRIPTED)
