"""Old and new rows in one batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from robolearn.agents.axes import Replay as Mix
from robolearn.core.types import Batch, concat
from robolearn.data.replay import Replay


class Mixing:
    """Draws batches of what was recorded before (`old`) and what the robot does now (`new`), by the replay axis.

    A part that is still empty leaves the batch to the other one.
    """

    def __init__(self, mix: Mix, old: Replay, new: Replay, rng: np.random.Generator, turn: int = 1):
        """turn: draws from one part before it is the other's turn."""
        self.mix, self.old, self.new, self.rng, self.turn = mix, old, new, rng, turn
        self.keeps_old = True  # the online phase may drop it
        self.draws = 0

    def draw(self, count: int, rows: int) -> Batch:
        """`count` sequences of `rows` actions; `fresh` says which are new."""
        new = self._new_share(count)
        self.draws += 1
        parts = [self._part(self.old, count - new, rows, fresh=False), self._part(self.new, new, rows, fresh=True)]
        parts = [part for part in parts if part is not None]
        return parts[0] if len(parts) == 1 else concat(*parts)

    def _new_share(self, count: int) -> int:
        old, new = len(self.old) * self.keeps_old, len(self.new)
        if not new or not old:
            return count if new else 0
        match self.mix.mix:
            case "append":
                return int(self.rng.binomial(count, new / (new + old)))
            case "alternate":
                return count * (self.draws // self.turn % 2)
        share = 1 - self.mix.offline
        return max(1, round(count * share * (min(1.0, new / self.mix.ramp) if self.mix.ramp else 1.0)))

    def _part(self, replay: Replay, count: int, rows: int, fresh: bool) -> Batch | None:
        if count == 0:
            return None
        return replace(replay.draw(count, rows, self.rng), fresh=torch.full((count,), fresh))
