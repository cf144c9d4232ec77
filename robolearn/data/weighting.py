"""How much each sample of some Windows counts: arrays for `Windows.weights(rows=...)`; multiply them to combine them."""

from __future__ import annotations

import numpy as np

from hardware.types import Source
from robolearn.core.errors import UserError
from robolearn.data.windows import Windows


def success_only(windows: Windows) -> np.ndarray:
    """1 for the rows of episodes that succeeded, else 0. UserError where none did."""
    won = [float(store.meta(i).get("success") is True) for store in windows.stores for i in range(len(store))]
    return _some(windows.by_episode(won), "success: no episode succeeded")


def intervention_only(windows: Windows) -> np.ndarray:
    """1 for the rows in which a human took over from a policy or planner (HG-DAgger, Kelly et al. 2019), else 0."""
    source, lengths = windows.column("source"), windows.lengths
    had = np.logical_or.reduceat(np.isin(source, (Source.POLICY, Source.PLANNER)), np.cumsum(lengths) - lengths)
    human = (source == Source.HUMAN)[windows.rows]
    return _some((human & windows.by_episode(had)).astype(np.float64), "intervention: in no episode did a human take over from a policy")


def by_return(windows: Windows, temperature: float = 0.1) -> np.ndarray:
    """exp(r / temperature) with r the episode's return scaled to 0..1 over the episodes that take part (trajectory weighting,
    Hong et al. 2023)."""
    if not temperature > 0:
        raise UserError(f"temperature: {temperature}; expected above 0")
    lengths = windows.lengths
    returns = windows.by_episode(np.add.reduceat(windows.column("reward").astype(np.float64), np.cumsum(lengths) - lengths))
    span = np.ptp(returns)
    scaled = (returns - returns.min()) / span if span > 0 else np.zeros(len(returns))
    return np.exp((scaled - 1) / temperature)


def _some(weight: np.ndarray, otherwise: str) -> np.ndarray:
    if not weight.any():
        raise UserError(otherwise)
    return weight
