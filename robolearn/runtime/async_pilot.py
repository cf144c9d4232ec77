"""A policy that thinks beside the loop: the robot goes on while the next chunk is computed, and what comes too late is dropped."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch

from hardware.types import Command, NoDecision, Observation
from robolearn.core.types import Past, Policy
from robolearn.runtime.chunk import Mean, plain_mean
from robolearn.runtime.policy_pilot import PolicyPilot


@dataclass(frozen=True)
class Thought:
    """An answer and what belongs to it: the policy may think of the next while this one is flown."""

    rows: np.ndarray  # (H, A)
    spent_ms: float
    notes: Mapping[str, float]
    own: np.ndarray | None  # (H, A), a planner's policy's


@dataclass(frozen=True)
class Chunk:
    """Row k is for the time `began` + k / rate [s]."""

    began: float
    thought: Thought

    def row(self, time: float, rate_hz: float) -> int | None:
        """Which of its rows is for `time`; None where none is."""
        index = round((time - self.began) * rate_hz)
        return index if 0 <= index < len(self.thought.rows) else None


class AsyncPilot(PolicyPilot):
    """Receding horizon in real time. `decide` never waits but for an episode's first chunk.

    A chunk's rows carry times: the first is for the observation it was computed from, so that as many rows as the answer took are past
    when it comes, and are dropped. The next is asked for when `execute` rows of the newest were due, less `ahead`; one at a time. Where
    nothing new comes (a policy that hangs, or died), the last chunk is flown to its end; then there is NoDecision, and the governor stops
    the robot for silence. So it does after `forget`, until the first answer is there.

    ensemble: the mean of what all chunks say about now, weighted exp(-ensemble i), i = 0 the oldest (ACT, Zhao et al. 2023). prefix: the
    policy is told that many rows which will be flown meanwhile (training-time real-time chunking, Black et al. 2025), and fits its answer
    to them; choose it no smaller than the answer's delay in rows.
    """

    def __init__(
        self,
        policy: Policy,
        execute: int = 8,
        seed: int = 0,
        *,
        ensemble: float | None = None,
        prefix: int = 0,
        ahead: int = 1,
        **options: Any,
    ) -> None:
        self._thinker = ThreadPoolExecutor(1, thread_name_prefix="policy")  # what it does, it does one after the other
        super().__init__(policy, execute, seed, ensemble=ensemble, prefix=prefix, **options)
        self.execute, self.ensemble, self.prefix, self.ahead = execute, ensemble, prefix, max(ahead, prefix)
        space = getattr(policy, "space", None)
        self._mean: Mean = plain_mean if space is None else self._runner.mean
        self._forgot: Future[None] | None = None
        self._pending: Future[Thought] | None = None
        self._chunks: deque[Chunk] = deque(maxlen=policy.horizon)
        self._flown: Thought | None = None  # what the last decision came of
        self._position = 0  # and its row
        self._done_since: list[np.ndarray] = []  # (A,) each, since the policy was asked last
        self.late_rows = 0

    def seed(self, seed: int) -> None:
        self._thinker.submit(super().seed, seed).result()

    def reset(self) -> None:
        if self._pending is not None and not self._pending.cancel():
            self._pending.exception()  # there is one policy: it ends its thought first
        self.late_rows = 0
        super().reset()
        self._waits = True

    def forget(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None  # what it still thinks of is not heard
        self._chunks.clear()
        self._done_since = []
        self._waits = False  # the robot may be moving
        self._forgot = self._thinker.submit(super().forget)  # after that thought: there is one policy

    def decide(self, observation: Observation) -> Command:
        self.watch(observation)
        now, rate = observation.time, self.policy.spec.rate_hz
        self._take(wait=self._waits, now=now)
        if self._pending is None and self._is_due(now, rate):
            self._ask(observation, rate)
            self._take(wait=self._waits, now=now)
        about_now = [(chunk, row) for chunk in self._chunks if (row := chunk.row(now, rate)) is not None]
        if not about_now:
            raise NoDecision(f"policy: no answer for {now - self._asked_at:.2f} s")
        self._flown, self._position = newest, position = about_now[-1][0].thought, about_now[-1][1]
        notes = {"inference_ms": newest.spent_ms, "late_rows": float(self.late_rows), "chunk_position": float(position)}
        actions = np.stack([chunk.thought.rows[row] for chunk, row in about_now])
        if self.ensemble is None:
            action = actions[-1]
        else:
            action = self._mean(actions.astype(np.float64), np.exp(-self.ensemble * np.arange(len(actions)))).astype(np.float32)
        return Command(now, action, self.source, {**newest.notes, **notes})

    def own(self) -> np.ndarray:
        assert self._flown is not None and self._flown.own is not None
        return self._flown.own[self._position]

    def rest(self) -> None:
        self._thinker.submit(int).result()

    def close(self) -> None:
        self._thinker.shutdown(wait=False, cancel_futures=True)

    def _is_due(self, now: float, rate: float) -> bool:
        if not self._chunks or self.ensemble is not None:
            return True
        return (now - self._chunks[-1].began) * rate >= self.execute - self.ahead - 1e-6

    def _ask(self, observation: Observation, rate: float) -> None:
        decided = np.empty((0, self.policy.spec.action.dim), np.float32)
        if self.prefix and self._chunks and (row := self._chunks[-1].row(observation.time, rate)) is not None:
            decided = self._chunks[-1].thought.rows[row : row + self.prefix]
        self._asked_at = observation.time
        executed, self._done_since = self._done_since, []
        self._pending = self._thinker.submit(self._think, list(self._history), self._done(), decided, executed)

    def _tell(self, executed: np.ndarray) -> None:
        self._done_since.append(executed)  # the policy hears of it when it is asked next, of what was seen after it

    def _think(self, history: list[Observation], past: Past | None, decided: np.ndarray, executed: list[np.ndarray]) -> Thought:
        began = perf_counter()
        if self._forgot is not None:
            self._forgot.result()  # raises what its reset raised: a server may have another checkpoint
        for action in executed:
            super()._tell(action)
        rows = np.asarray(self._answer(history, past, decided), np.float32)
        own: torch.Tensor | None = getattr(self.policy, "own", None)
        spent_ms = 1e3 * (perf_counter() - began)
        return Thought(rows, spent_ms, dict(getattr(self.policy, "notes", {})), None if own is None else own.cpu().numpy())

    def _take(self, wait: bool, now: float) -> None:
        """What was thought meanwhile, if anything: a policy elsewhere may not have answered. Raises what the policy raised."""
        pending = self._pending
        if pending is None or not (wait or pending.done()):
            return
        try:
            thought = pending.result()
        except NoDecision:
            return
        finally:
            self._pending = None if pending.done() else pending  # Ctrl-C while it waits
        self._waits = False
        chunk = Chunk(self._asked_at, thought)
        self.late_rows += min(max(round((now - chunk.began) * self.policy.spec.rate_hz), 0), len(thought.rows))
        self._chunks.append(chunk)

    _waits = True  # the answer is an episode's first: the robot rests, and has time
    _asked_at = 0.0
