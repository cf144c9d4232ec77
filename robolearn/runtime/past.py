"""What was done and earned in the episode that is being flown, for policies that look at it."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch

from robolearn.core.types import Past
from robolearn.data.windows import history_rows


class PastRecord:
    """The last `history` rows as Windows(past=True) will show them once the episode is stored; a test holds the two to equal bits.

    target: the rewards wanted of the whole episode.
    """

    def __init__(self, history: int, action_dim: int, target: float) -> None:
        self.history, self.target = history, target
        self._none = np.zeros(action_dim, np.float32)
        self.reset()

    def reset(self) -> None:
        self._steps, self._earned = 0, 0.0
        self._rows: deque[tuple[int, float, np.ndarray]] = deque(maxlen=self.history)  # step, rewards still wanted, action

    def begin_row(self) -> None:
        """There is a new observation."""
        self._rows.append((self._steps, self.target - self._earned, self._none))
        self._steps += 1

    def took(self, action: np.ndarray) -> None:
        """After the newest observation this action (A,) was taken, physical units; the last word counts."""
        step, to_go, _ = self._rows.pop()
        self._rows.append((step, to_go, np.asarray(action, np.float32)))

    def earned(self, reward: float) -> None:
        self._earned += reward

    def past(self) -> Past:
        """As a batch of one, before the newest row's action is known."""
        newest = len(self._rows) - 1
        seen = history_rows(np.array([newest]), np.array([0]), self.history)[0]
        real = np.arange(newest + 1 - self.history, newest + 1) >= 0
        step, to_go, action = (np.array([self._rows[i][k] for i in seen]) for k in range(3))
        action[~real | (seen == newest)] = 0
        columns = action.astype(np.float32), to_go.astype(np.float32), step.astype(np.int64), real
        return Past(*(torch.from_numpy(column)[None] for column in columns))
