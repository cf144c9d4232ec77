"""A policy at the controls: history in, chunks out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import numpy as np
import torch

from hardware.types import Command, Observation, Source
from robolearn.core.types import Obs, Past, Policy
from robolearn.data.tensors import observation_window
from robolearn.models.precision import Precision
from robolearn.policies._action_space import ActionSpace
from robolearn.runtime.answers import Answers
from robolearn.runtime.chunk import ChunkRunner, Mean
from robolearn.runtime.past import PastRecord


class PolicyPilot:
    """Shows a policy its last observations and executes `chunk` [actions] of each answer before it asks again.

    Observations pass through the transform that made the training batches (robolearn.data.windows).
    seed: of the policy's own noise. source: what the rows of the episode are marked with.
    ensemble: ask at every step instead and average what the answers say about now (see ChunkRunner). prefix: ask that many actions
    before the last answer runs out and tell the policy which they are, as where its answers come late.
    goal: what is wanted, an observation of one time step, B = 1. target: the rewards wanted of an episode, for a policy that looks at
    what was earned (None: its own `target`, if it has one, else 0). precision: of the answers; bfloat16 keeps the policy's weights so.
    """

    def __init__(
        self,
        policy: Policy,
        chunk: int = 8,
        seed: int = 0,
        source: Source = Source.POLICY,
        *,
        ensemble: float | None = None,
        prefix: int = 0,
        goal: Obs | None = None,
        target: float | None = None,
        precision: Precision = "float32",
    ) -> None:
        if ensemble is None and chunk + prefix > policy.horizon:
            after = f" after a prefix of {prefix}" if prefix else ""
            raise ValueError(f"chunk: {chunk} actions per inference{after}; the policy predicts {policy.horizon}")
        if prefix > (most := getattr(policy, "prefix", 0)):
            raise ValueError(f"prefix: {prefix} actions; {type(policy).__name__} was trained for at most {most}")
        self.policy, self._answers = policy, Answers(policy, precision)
        self.source = source
        space = getattr(policy, "space", None)
        self._runner = ChunkRunner(chunk, prefix, ensemble, None if space is None else _mean_in(space))
        self._history: deque[Observation] = deque(maxlen=policy.history)
        self._goal = None if goal is None else goal.to(self._answers.device)
        self._past: PastRecord | None = None
        if getattr(policy, "sees_past", False):
            wanted = target if target is not None else getattr(policy, "target", 0.0)
            self._past = PastRecord(policy.history, policy.spec.action.dim, wanted)
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Restart the policy's noise; evaluation does so for each trial, so that a resumed run repeats the whole one."""
        reseed: Callable[[int], None] | None = getattr(self.policy, "seed", None)  # a deterministic policy has none
        if reseed is not None:
            reseed(seed)

    def reset(self) -> None:
        self._history.clear()
        if self._past is not None:
            self._past.reset()
        self.forget()

    def forget(self) -> None:
        """Think anew at the next decision. What was seen, done and earned so far is still known."""
        self._runner.reset()
        begin: Callable[[], None] | None = getattr(self.policy, "reset", None)  # a planner forgets its plan
        if begin is not None:
            begin()

    def rest(self) -> None:
        """Wait until it thinks of nothing: before its policy is changed."""

    def close(self) -> None:
        """It thinks no more."""

    def watch(self, observation: Observation) -> None:
        """Keep up with what is seen, where somebody else decides."""
        self._history.append(observation)
        if self._past is not None:
            self._past.begin_row()

    def decide(self, observation: Observation) -> Command:
        self.watch(observation)
        started = time.perf_counter()
        action = self._runner.next(self._plan)
        notes = {"inference_ms": 1e3 * (time.perf_counter() - started), "chunk_position": float(self._runner.position)}
        if self._past is not None:
            self._past.took(action)
        thoughts = getattr(self.policy, "notes", {})  # what a planner thought of its plan holds while the plan is executed
        return Command(observation.time, action, self.source, {**thoughts, **notes})

    def feedback(self, executed: np.ndarray, reward: float) -> None:
        """What the governor made of the last command, (A,), and what it earned. Untold: the command itself, and nothing."""
        if self._past is not None:
            self._past.took(executed)
            self._past.earned(reward)
        self._tell(executed)

    def own(self) -> np.ndarray:
        """What the policy itself would do now, (A,), where a planner decided."""
        return cast(torch.Tensor, self.policy.own)[self._runner.position].cpu().numpy()

    def _tell(self, executed: np.ndarray) -> None:
        hear: Callable[[torch.Tensor], None] | None = getattr(self.policy, "executed", None)  # a planner that checks its model
        if hear is not None:
            hear(torch.from_numpy(np.asarray(executed, np.float32)))

    def _plan(self, decided: np.ndarray) -> np.ndarray:
        return self._answer(list(self._history), self._done(), decided)

    def _done(self) -> Past | None:
        return None if self._past is None else self._past.past()

    def _answer(self, history: list[Observation], past: Past | None, decided: np.ndarray) -> np.ndarray:
        """The chunk (H, A) for what was seen, oldest first; decided: its first actions (D, A) are flown whatever it says."""
        obs = observation_window(history, self.policy.spec, self.policy.history)
        return self._answers.chunk(replace(obs, goal=self._goal, past=past), decided)


def _mean_in(space: ActionSpace) -> Mean:
    return lambda action, weight: space.mean(torch.from_numpy(action), torch.from_numpy(weight)).numpy()
