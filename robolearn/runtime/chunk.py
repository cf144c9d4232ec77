"""Chunk execution: which action is flown now, of plans that are longer than what is flown of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Mean = Callable[[np.ndarray, np.ndarray], np.ndarray]


class ChunkRunner:
    """Hands out one action per call and has a new chunk planned where one is due, in one of two ways.

    Receding horizon: `execute` actions of each chunk, then the next (Chi et al., Diffusion Policy, RSS 2023, section II-C). With `ahead`
    the next chunk is asked for while that many actions are left; they are flown whatever it says, as they would be while a robot waits
    for the answer, and so much of its beginning is dropped (Black et al., arXiv:2512.05964, 2025).

    Temporal ensembling: with `ensemble` = m a chunk is planned at every call, and the action is the mean of what all chunks so far say
    about now, weighted exp(-m i), i = 0 being the oldest (Zhao et al., ACT, RSS 2023, section IV-B). `execute` is then without effect.
    mean: how actions (N, A) of weights (N,) are averaged, where rotations among them are no plain numbers.
    """

    def __init__(self, execute: int, ahead: int = 0, ensemble: float | None = None, mean: Mean | None = None) -> None:
        if execute < 1:
            raise ValueError(f"chunk: {execute} actions per inference; expected at least 1")
        if ahead < 0:
            raise ValueError(f"prefix: {ahead} actions; expected 0 or more")
        if ensemble is not None and (ahead or not math.isfinite(ensemble)):
            raise ValueError(f"ensemble: {ensemble} with a prefix of {ahead} actions; expected a finite number, and no prefix")
        self.execute, self.ahead, self.ensemble, self.mean = execute, ahead, ensemble, mean or plain_mean
        self.reset()

    def reset(self) -> None:
        """Forget what was planned: a new episode never begins with an old plan."""
        self._decided = np.empty((0, 0), dtype=np.float32)  # still to be flown
        self._chunks: list[np.ndarray] = []  # ensembling: what is left of each, from the next action on, oldest first
        self.position = 0  # of the action handed out last, counted from the call that planned

    def next(self, plan: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """The next action, float32 (A,).

        plan: called where a new chunk (H, A) is due, with the actions (D, A) that are flown first whatever it answers (D = `ahead`, 0 in
        the beginning); the answer begins with their time, too.
        """
        if self.ensemble is not None:
            return self._mean(self._planned(plan, 1), self.ensemble)
        if len(self._decided) > self.ahead:
            self.position += 1
        else:
            chunk = self._planned(plan, self.ahead + self.execute)
            known = self._decided.reshape(-1, chunk.shape[1])
            self._decided, self.position = np.concatenate([known, chunk[len(known) : self.ahead + self.execute]]), 0
        action, self._decided = self._decided[0], self._decided[1:]
        return action

    def _planned(self, plan: Callable[[np.ndarray], np.ndarray], least: int) -> np.ndarray:
        chunk = np.asarray(plan(self._decided), dtype=np.float32)
        if chunk.ndim != 2 or len(chunk) < least:
            raise ValueError(f"chunk: planned {chunk.shape}; expected at least {least} actions (H, A)")
        return chunk

    def _mean(self, chunk: np.ndarray, rate: float) -> np.ndarray:
        self._chunks.append(chunk)
        exponent = -rate * np.arange(len(self._chunks))
        weight = np.exp(exponent - exponent.max())
        action = self.mean(np.stack([held[0] for held in self._chunks]).astype(np.float64), weight)
        self._chunks = [held[1:] for held in self._chunks if len(held) > 1]
        return action.astype(np.float32)


def plain_mean(action: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return weight @ action / weight.sum()
