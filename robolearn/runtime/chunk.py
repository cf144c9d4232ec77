"""Receding horizon: plan many actions, do a few, plan again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


class ChunkRunner:
    """Hands out the first `execute` actions of each planned chunk, one per call, then has the next one planned.

    Chi et al., Diffusion Policy, 2023, section II-C ("closed-loop action-sequence prediction").
    """

    def __init__(self, execute: int) -> None:
        if execute < 1:
            raise ValueError(f"chunk: {execute} actions per inference; expected at least 1")
        self.execute = execute
        self.reset()

    def reset(self) -> None:
        """Forget what was planned: a new episode never begins with an old plan."""
        self._chunk = np.empty((0, 0), dtype=np.float32)
        self.position = 0  # of the action handed out last, within its chunk

    @property
    def empty(self) -> bool:
        return self.position + 1 >= len(self._chunk)

    def next(self, plan: Callable[[], np.ndarray]) -> np.ndarray:
        """The next action, float32 (A,). plan: called only where a new chunk (H, A) is due."""
        if self.empty:
            chunk = np.asarray(plan(), dtype=np.float32)
            if chunk.ndim != 2 or len(chunk) < self.execute:
                raise ValueError(f"chunk: planned {chunk.shape}; expected at least {self.execute} actions (H, A)")
            self._chunk, self.position = chunk[: self.execute], 0
        else:
            self.position += 1
        return self._chunk[self.position]
