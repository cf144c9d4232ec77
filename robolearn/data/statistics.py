"""What a dataset's numbers look like, column by column and episode by episode. For people: normalizers are fitted elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hardware.types import ArraySpec, RobotSpec
from robolearn.data.episode import Episode
from robolearn.data.store import EpisodeStore

IDLE = 1e-3  # of a state's range in the data
AT_LIMIT = 1e-3  # of the distance between the limits
QUANTILES = (0.01, 0.5, 0.99)


@dataclass(frozen=True)
class ColumnStatistics:
    """One element of a state or action vector, in its unit."""

    name: str
    unit: str
    low: float  # the spec's limits
    high: float
    minimum: float
    q01: float
    median: float
    q99: float
    maximum: float
    mean: float
    std: float
    saturated: float  # share of rows at a limit or beyond it


@dataclass(frozen=True)
class EpisodeStatistics:
    """What to look at before trusting an episode."""

    index: int
    rows: int
    seconds: float
    success: bool | None  # None: not known
    reward: float  # sum
    rate_hz: float  # rows per second, from the median step
    jitter_ms: float  # standard deviation of the steps
    longest_step_ms: float
    idle: float  # share of steps in which no state moved by more than 0.1 % of its range (1st to 99th percentile)
    overruled: float  # share of rows whose executed action is not the requested one
    duplicated: Mapping[str, float]  # camera -> share of frames equal to the one before, bit for bit
    frozen: Mapping[str, int]  # camera -> rows in its longest run of equal frames
    sources: Mapping[int, int]  # hardware.types.Source -> rows


def column_statistics(values: np.ndarray, spec: ArraySpec) -> list[ColumnStatistics]:
    """values (N, D), N > 0 -> one entry for each of the D elements. Rows that are not finite are left out."""
    found = []
    for i, (name, unit, low, high) in enumerate(zip(spec.names, spec.units, spec.low, spec.high, strict=True)):
        column = values[:, i].astype(np.float64)
        column = column[np.isfinite(column)]
        if not len(column):
            column = np.full(1, np.nan)
        margin = AT_LIMIT * (high - low) if np.isfinite(high - low) else 0.0
        q01, median, q99 = (float(q) for q in np.quantile(column, QUANTILES))
        found.append(
            ColumnStatistics(
                name,
                unit,
                float(low),
                float(high),
                float(column.min()),
                q01,
                median,
                q99,
                float(column.max()),
                float(column.mean()),
                float(column.std()),
                float(((column <= low + margin) | (column >= high - margin)).mean()),
            )
        )
    return found


def state_scale(store: EpisodeStore) -> np.ndarray:
    """(S,) how far each state ranges, 1st to 99th percentile of all rows; infinite where it never moves."""
    low, high = np.quantile(store.lowdim("state"), (0.01, 0.99), axis=0)
    return np.where(high > low, high - low, np.inf)


def episode_statistics(index: int, episode: Episode, spec: RobotSpec, scale: np.ndarray) -> EpisodeStatistics:
    """scale: see `state_scale`. An episode of one row has no steps: its rate is the spec's, its jitter 0."""
    steps = np.diff(episode.time)
    state = np.concatenate([episode.state[name] for name in spec.state], axis=1) if spec.state else np.zeros((len(episode), 0))
    moved = (np.abs(np.diff(state, axis=0)) / scale).max(axis=1, initial=0.0)
    same = {name: (frames[1:] == frames[:-1]).all(axis=(1, 2, 3)) for name, frames in episode.images.items()}
    asked = episode.requested_action
    kinds, counts = np.unique(episode.source, return_counts=True)
    return EpisodeStatistics(
        index=index,
        rows=len(episode),
        seconds=float(episode.time[-1] - episode.time[0] + (np.median(steps) if len(steps) else 1 / spec.rate_hz)),
        success=episode.meta.get("success"),
        reward=float(episode.reward.sum()),
        rate_hz=float(1 / np.median(steps)) if len(steps) else spec.rate_hz,
        jitter_ms=float(1e3 * steps.std()) if len(steps) else 0.0,
        longest_step_ms=float(1e3 * steps.max()) if len(steps) else 0.0,
        idle=float((moved < IDLE).mean()) if len(steps) else 0.0,
        overruled=float((~np.isclose(asked, episode.action, rtol=1e-5, atol=1e-6)).any(axis=1).mean()),
        duplicated={name: float(equal.mean()) if len(equal) else 0.0 for name, equal in same.items()},
        frozen={name: _longest_run(equal) for name, equal in same.items()},
        sources={int(kind): int(count) for kind, count in zip(kinds, counts, strict=True)},
    )


def _longest_run(equal: np.ndarray) -> int:
    """Frames in the longest run of frames that show the same: 1 where none repeats."""
    ends = np.flatnonzero(np.diff(np.concatenate([[False], equal, [False]]).astype(np.int8)))
    return int((ends[1::2] - ends[::2]).max(initial=0)) + 1
