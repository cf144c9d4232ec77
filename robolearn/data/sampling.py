"""Which samples make a batch: seeded, in exact shares, split over ranks, resumable to the exact sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class Sampler:
    """Endless index batches, int64 (batch_size / ranks,) each, that depend on `rng` alone: not on workers, nor on who else draws.

    groups: indices to draw from; several are mixed in the `shares` given (default: by their size), exactly: after any number
    of batches no group is a whole sample ahead or behind. Without weights every index of a group comes once before one comes
    twice. weights (by index): drawn with replacement in proportion, within each group.
    rank, ranks: every rank draws the same batches and keeps its own part of each.
    """

    def __init__(
        self,
        groups: int | Sequence[np.ndarray],
        batch_size: int,
        rng: np.random.Generator,
        weights: np.ndarray | None = None,
        shares: Sequence[float] | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        found = [np.arange(groups)] if isinstance(groups, int) else [np.asarray(group) for group in groups]
        share = np.array([len(group) for group in found] if shares is None else shares, np.float64)
        if len(share) != len(found) or not np.all(share >= 0) or not 0 < share.sum() < np.inf:
            raise ValueError(f"shares {share.tolist()} of {len(found)} groups; expected one for each, none negative, one above 0")
        if batch_size < 1 or not 0 <= rank < ranks or batch_size % ranks:
            raise ValueError(f"batch size {batch_size}, rank {rank} of {ranks}; expected a multiple of ranks, and 0 <= rank < ranks")
        if any(len(group) == 0 and part > 0 for group, part in zip(found, share, strict=True)):
            raise ValueError("a group without samples has a share above 0")
        if weights is not None:
            _check_weights(weights, [group for group, part in zip(found, share, strict=True) if part > 0], sum(map(len, found)))
        self.length, self.batch_size, self.rank, self.ranks = sum(map(len, found)), batch_size, rank, ranks
        self.drawn = 0  # batches since it began
        self._share: list[float] = (share / share.sum()).tolist()
        self._owed = [0.0] * len(found)  # samples that each group is behind its share
        streams = rng.spawn(len(found))  # streams of their own: whoever else draws from rng changes nothing here
        self._draws = [_Draw(group, stream, weights) for group, stream in zip(found, streams, strict=True)]

    def __iter__(self) -> Sampler:
        return self

    def __next__(self) -> np.ndarray:
        counts = [0] * len(self._share)
        for _ in range(self.batch_size if len(counts) > 1 else 0):
            counts[self._next_group()] += 1
        counts = counts if len(counts) > 1 else [self.batch_size]
        self.drawn += 1
        drawn = np.concatenate([draw.take(count) for draw, count in zip(self._draws, counts, strict=True)])
        return drawn[self.rank :: self.ranks]

    def _next_group(self) -> int:
        """Whose turn it is: the chairman assignment of Tijdeman (1980), which keeps every group within one sample of its share."""
        slack = 1 / (2 * len(self._share) - 2)
        due = [owed + share for owed, share in zip(self._owed, self._share, strict=True)]
        ready = [i for i, (d, share) in enumerate(zip(due, self._share, strict=True)) if share > 0 and d >= slack - 1e-9]
        chosen = min(ready, key=lambda i: (1 - slack - self._owed[i]) / self._share[i])
        self._owed = due
        self._owed[chosen] -= 1
        return chosen

    def state_dict(self) -> dict[str, Any]:
        """Plain data; a sampler that loads it goes on with the next batch."""
        draws = [draw.state for draw in self._draws]
        return {"length": self.length, "drawn": self.drawn, "owed": list(self._owed), "draws": draws}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["length"] != self.length or len(state["draws"]) != len(self._draws):
            raise ValueError(f"sampler: saved over {state['length']} samples, now there are {self.length}; the data changed")
        if any(saved["of"] != now.state["of"] for saved, now in zip(state["draws"], self._draws, strict=True)):
            raise ValueError("sampler: saved over groups of other sizes; the data changed")
        self.drawn = state.get("drawn", 0)  # absent where an older robolearn saved it
        self._owed = list(state["owed"])
        for draw, saved in zip(self._draws, state["draws"], strict=True):
            draw.restore(saved)


def _check_weights(weights: np.ndarray, groups: Sequence[np.ndarray], length: int) -> None:
    if weights.ndim != 1 or len(weights) < length or not np.all(weights >= 0) or not np.isfinite(weights).all():
        raise ValueError(f"weights {weights.shape}; expected ({length},), all finite and none negative")
    if not all(weights[group].any() for group in groups):
        raise ValueError("weights: no weight above 0 in a group")


class _Draw:
    """One group's indices: shuffled anew for each epoch, or drawn by weight."""

    def __init__(self, indices: np.ndarray, rng: np.random.Generator, weights: np.ndarray | None) -> None:
        self._indices, self._rng = indices, rng
        self._upto = None if weights is None else np.cumsum(weights[indices])
        self._start_epoch()

    def take(self, count: int) -> np.ndarray:
        if self._upto is not None:
            found = np.searchsorted(self._upto, self._rng.random(count) * self._upto[-1], side="right") if count else np.zeros(0, int)
            self._begun = self._rng.bit_generator.state
            return self._indices[np.minimum(found, len(self._indices) - 1)]
        parts = [self._indices[:0]]
        while count:
            part = self._order[self._position : self._position + count]
            parts.append(self._indices[part])
            count -= len(part)
            self._position += len(part)
            if self._position == len(self._order):
                self._start_epoch()
        return np.concatenate(parts)

    @property
    def state(self) -> dict[str, Any]:
        return {"rng": self._begun, "position": self._position, "of": len(self._indices)}

    def restore(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state["rng"]
        self._start_epoch()
        self._position = state["position"]

    def _start_epoch(self) -> None:
        self._begun = self._rng.bit_generator.state
        self._order = self._rng.permutation(len(self._indices)) if self._upto is None else self._indices[:0]
        self._position = 0
