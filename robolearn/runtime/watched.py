"""A policy under a person's eyes: their word ends an episode, their stop stops the robot."""

from __future__ import annotations

from typing import Any

from hardware.robot import SafeRobot
from hardware.teleop.keys import Keys, PassedKeys
from hardware.teleop.operator import STOPPED_BY_PERSON, VERDICTS, Verdict
from hardware.types import Command, Observation, Pilot
from robolearn.runtime.attended import LiveView, Pace

STOP_KEY = " "
WATCHED_KEYS = "space STOP · s success · f failure · r redo (discard) · q quit"


class Watched:
    """Hands decisions on; keys typed meanwhile are verdicts (s, f, r, q) or the stop (space), which is latched until the next episode.

    keys: none where there is no terminal. view: shows the cameras, if any. others: gets every other key. A simulator is held to real time
    where there are `others`: somebody who may take over.
    """

    def __init__(self, pilot: Pilot, robot: SafeRobot, keys: Keys, view: LiveView | None = None, others: PassedKeys | None = None) -> None:
        self.pilot, self.robot, self.keys, self.view, self.others = pilot, robot, keys, view, others
        self._verdict: Verdict | None = None
        self._pace = None if others is None else Pace()

    @property
    def verdict(self) -> Verdict | None:
        """Typed here, or a word of the pilot's own."""
        return self._verdict or getattr(self.pilot, "verdict", None)

    def seed(self, seed: int) -> None:
        reseed: Any = getattr(self.pilot, "seed", None)
        if reseed is not None:
            reseed(seed)

    def reset(self) -> None:
        self.keys.read()  # what was typed between episodes means nothing
        self._verdict = None
        if self._pace is not None:
            self._pace.reset()
        self.pilot.reset()

    def decide(self, observation: Observation) -> Command:
        if self._pace is not None:
            self._pace.wait(observation.time)
        for key in self.keys.read():
            if key == STOP_KEY:
                self.robot.stop(STOPPED_BY_PERSON)
            elif key in VERDICTS:
                self._verdict = VERDICTS[key]
            elif self.others is not None:
                self.others.put(key)
        if self.view is not None:
            self.view.show(observation.images)
        return self.pilot.decide(observation)

    def feedback(self, executed: Any, reward: float) -> None:
        hear: Any = getattr(self.pilot, "feedback", None)
        if hear is not None:
            hear(executed, reward)
