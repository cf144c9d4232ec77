"""A policy at the controls: history in, chunks out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import numpy as np
import torch

from hardware.types import Command, Observation, Source
from robolearn.core.types import Policy
from robolearn.data.tensors import observation_window
from robolearn.runtime.chunk import ChunkRunner


class PolicyPilot:
    """Shows a policy its last observations and executes `chunk` [actions] of each answer before it asks again.

    Observations pass through the transform that made the training batches (robolearn.data.windows).
    seed: of the policy's own noise. source: what the rows of the episode are marked with.
    """

    def __init__(self, policy: Policy, chunk: int = 8, seed: int = 0, source: Source = Source.POLICY) -> None:
        if chunk > policy.horizon:
            raise ValueError(f"chunk: {chunk} actions per inference; the policy predicts {policy.horizon}")
        self.policy = policy.eval()
        self.source = source
        self._runner = ChunkRunner(chunk)
        self._device = next((p.device for p in policy.parameters()), torch.device("cpu"))
        self._history: deque[Observation] = deque(maxlen=policy.history)
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Restart the policy's noise; evaluation does so for each trial, so that a resumed run repeats the whole one."""
        reseed: Callable[[int], None] | None = getattr(self.policy, "seed", None)  # a deterministic policy has none
        if reseed is not None:
            reseed(seed)

    def reset(self) -> None:
        self._history.clear()
        self._runner.reset()

    def decide(self, observation: Observation) -> Command:
        self._history.append(observation)
        started = time.perf_counter()
        action = self._runner.next(self._plan)
        notes = {"inference_ms": 1e3 * (time.perf_counter() - started), "chunk_position": float(self._runner.position)}
        thoughts = getattr(self.policy, "notes", {})  # what a planner thought of its plan holds while the plan is executed
        return Command(observation.time, action, self.source, {**thoughts, **notes})

    def _plan(self) -> np.ndarray:
        obs = observation_window(list(self._history), self.policy.spec, self.policy.history).to(self._device)
        with torch.no_grad():
            return self.policy.act(obs)[0].cpu().numpy()
