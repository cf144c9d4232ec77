"""Actions drawn uniformly from the whole range: how simulated learning from scratch begins. No pilot for a robot one owns."""

from __future__ import annotations

import numpy as np

from hardware.types import Command, Observation, RobotSpec, Source


class RandomPilot:
    """seed: of all its actions."""

    def __init__(self, spec: RobotSpec, seed: int = 0) -> None:
        self._low, self._high = np.array(spec.action.low), np.array(spec.action.high)
        self.seed(seed)

    def seed(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    # It has no plans, and looks at nothing: whoever takes the robot from it may give it back at any time.

    def reset(self) -> None: ...
    def watch(self, observation: Observation) -> None: ...
    def forget(self) -> None: ...
    def feedback(self, executed: np.ndarray, reward: float) -> None: ...

    def decide(self, observation: Observation) -> Command:
        return Command(observation.time, self._rng.uniform(self._low, self._high).astype(np.float32), Source.SCRIPTED)
