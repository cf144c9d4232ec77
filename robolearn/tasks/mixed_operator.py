"""Demonstrations of mixed quality: a scripted operator as beginners and experts would do its work, a skill drawn anew for every episode."""

from __future__ import annotations

import numpy as np

from hardware.robot import SafeRobot
from hardware.types import Command, Observation, Pilot
from robolearn.core.errors import UserError


class MixedOperator:
    """Between an operator and the robot: noise, a drift, idle moments and early giving up, all of them less with more skill.

    skill: 0 (the clumsiest) .. 1 (the operator itself), uniform, one per episode: a dial, not a chance of success. Decisions stay SCRIPTED.
    """

    NOISE = 0.45  # standard deviation of each axis at no skill, as a share of the action's range; correlated as hand noise is
    CORRELATION = 0.8  # from one tenth of a second to the next
    DRIFT = 0.2  # constant through an episode, any direction, share of the action's range
    IDLE_CHANCE = 0.12  # per tenth of a second
    IDLE_S = (0.3, 1.2)
    GIVE_UP_CHANCE = 0.75
    GIVE_UP_S = (0.2, 2.5)

    def __init__(self, operator: Pilot, robot: SafeRobot, rng: np.random.Generator) -> None:
        if not robot.spec.incremental:
            raise UserError(
                f"pilot: mixed needs a body whose actions are steps, such as robosuite:Lift; {robot.spec.name!r} takes positions"
            )
        self.operator, self._spec, self._rng = operator, robot.spec, rng
        self._steps = robot.spec.steps
        self._reach = np.where(self._steps, robot.spec.action.high, 0.0)
        self.reset()

    def reset(self) -> None:
        """A new episode, another skill."""
        self.operator.reset()
        rng = self._rng
        self.skill = float(rng.uniform())
        self._clumsy = (1.0 - self.skill) ** 1.5
        direction = rng.normal(size=len(self._reach))
        self._drift = self.DRIFT * self._clumsy * self._reach * direction / np.linalg.norm(direction[self._steps])
        self._patience_s = rng.uniform(*self.GIVE_UP_S) if rng.random() < self.GIVE_UP_CHANCE * self._clumsy else np.inf
        self._noise = np.zeros(len(self._reach))
        self._start: float | None = None
        self._idle_until = -np.inf

    def decide(self, observation: Observation) -> Command:
        now, rng = observation.time, self._rng
        self._start = now if self._start is None else self._start
        command = self.operator.decide(observation)
        action = command.action.astype(np.float64)
        tenths = 10.0 / self._spec.rate_hz
        keep = self.CORRELATION**tenths
        self._noise = keep * self._noise + np.sqrt(1 - keep**2) * rng.normal(size=len(action))
        if now >= self._idle_until and rng.random() < self.IDLE_CHANCE * self._clumsy * tenths:
            self._idle_until = now + rng.uniform(*self.IDLE_S)
        if now < self._idle_until or now - self._start > self._patience_s:
            action[self._steps] = 0.0
        else:
            action += self._drift + self.NOISE * self._clumsy * self._reach * self._noise
        action = np.clip(action, self._spec.action.low, self._spec.action.high)
        return Command(command.time, action.astype(np.float32), command.source, command.notes)
