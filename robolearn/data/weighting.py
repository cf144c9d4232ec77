"""How much each sample of some Windows counts: arrays for `Windows.weights(rows=...)`; multiply them to combine them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hardware.types import Source
from robolearn.core.errors import UserError
from robolearn.data.store import EpisodeStore
from robolearn.data.windows import Windows


def success_only(windows: Windows) -> np.ndarray:
    """1 for the rows of episodes that succeeded, else 0. UserError where none did."""
    return _some(_by_episode(windows, lambda store, i: store.meta(i).get("success") is True), "success: no episode succeeded")


def intervention_only(windows: Windows) -> np.ndarray:
    """1 for the rows in which a human took over from a policy or planner (HG-DAgger, Kelly et al. 2019), else 0."""
    source = np.concatenate([store.lowdim("source") for store in windows.stores])
    learned = np.isin(source, (Source.POLICY, Source.PLANNER))
    lengths = np.concatenate([store.lengths for store in windows.stores])
    ends = np.cumsum(lengths)
    had = np.array([learned[end - length : end].any() for end, length in zip(ends, lengths, strict=True)])
    weight = ((source == Source.HUMAN) & np.repeat(had, lengths))[windows.rows].astype(np.float64)
    return _some(weight, "intervention: in no episode did a human take over from a policy")


def by_return(windows: Windows, temperature: float = 0.1) -> np.ndarray:
    """exp(r / temperature) with r the episode's return scaled to 0..1 over the episodes that take part (trajectory weighting,
    Hong et al. 2023)."""
    if not temperature > 0:
        raise UserError(f"temperature: {temperature}; expected above 0")
    reward = np.concatenate([store.lowdim("reward") for store in windows.stores])
    lengths = np.concatenate([store.lengths for store in windows.stores])
    returns = np.add.reduceat(reward.astype(np.float64), np.cumsum(lengths) - lengths)
    returns = np.repeat(returns, lengths)[windows.rows]
    span = np.ptp(returns)
    scaled = (returns - returns.min()) / span if span > 0 else np.zeros(len(returns))
    return np.exp((scaled - 1) / temperature)


def _by_episode(windows: Windows, value: Callable[[EpisodeStore, int], bool]) -> np.ndarray:
    values = [float(value(store, i)) for store in windows.stores for i in range(len(store))]
    return np.repeat(values, np.concatenate([store.lengths for store in windows.stores]))[windows.rows]


def _some(weight: np.ndarray, otherwise: str) -> np.ndarray:
    if not weight.any():
        raise UserError(otherwise)
    return weight
