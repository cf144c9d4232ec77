"""A person who watches a policy and may take the robot from it at any moment, and give it back."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from hardware.robot import SafeRobot
from hardware.teleop.operator import Operator, Verdict
from hardware.types import Command, HardwareError, NoDecision, Observation, Pilot, Source

ANSWER_S = 2.0  # a policy that is given the robot back has so long to answer; then its silence counts


class Interruptible(Pilot, Protocol):
    """A pilot that can be set aside: PolicyPilot, GatedPilot, RandomPilot."""

    def seed(self, seed: int) -> None: ...
    def watch(self, observation: Observation) -> None: ...  # keeps up with what is seen while somebody else decides
    def forget(self) -> None: ...  # thinks anew at the next decision
    def feedback(self, executed: np.ndarray, reward: float) -> None: ...


class Takeover:
    """The policy flies, except while the person has the robot in hand: holds their device's clutch, or moves it where there is none.

    Neither change is a jump. The person's commands start from the pose that is commanded when they take it, its gripper kept.
    Given back, the policy forgets its plans and thinks of what it sees then; the robot rests until it has answered. Commands are labelled
    by who gave them.

    A device that fails stops the robot: whoever relied on it must not find the policy flying.
    """

    def __init__(self, pilot: Interruptible, operator: Operator, robot: SafeRobot) -> None:
        self.pilot, self.operator, self.robot = pilot, operator, robot
        self._given_back: tuple[float, np.ndarray] | None = None  # (when, the action that holds it there) while the answer is awaited

    @property
    def verdict(self) -> Verdict | None:
        return self.operator.verdict

    def seed(self, seed: int) -> None:
        self.pilot.seed(seed)

    def reset(self) -> None:
        self._given_back = None
        self.operator.reset()
        self.pilot.reset()

    def decide(self, observation: Observation) -> Command:
        held = self.operator.holds
        if not held:
            self.operator.take(self.robot.hold())
        command = self._of_person(observation)
        if self.operator.holds:
            self._given_back = None
            self.pilot.watch(observation)
            return command
        if held:
            self._given_back = observation.time, self.robot.hold()
            self.pilot.forget()
        return self._of_policy(observation)

    def feedback(self, executed: Any, reward: float) -> None:
        self.pilot.feedback(executed, reward)

    def _of_person(self, observation: Observation) -> Command:
        try:
            return self.operator.decide(observation)
        except HardwareError as error:
            self.robot.stop(f"takeover: {error}")
            raise NoDecision(str(error)) from error

    def _of_policy(self, observation: Observation) -> Command:
        try:
            command = self.pilot.decide(observation)
        except NoDecision:
            if self._given_back is None or observation.time - self._given_back[0] > ANSWER_S:
                raise
            return Command(observation.time, self._given_back[1], Source.NONE)
        self._given_back = None
        return command
