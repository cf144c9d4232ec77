"""What a dataset's numbers look like, column by column and episode by episode. For people: normalizers are fitted elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hardware.types import ArraySpec, RobotSpec
from robolearn.data.checks.footage import Footage, longest_run, watch
from robolearn.data.checks.motion import at_limits, state_vector, steps_of, still
from robolearn.data.episode import Episode
from robolearn.data.store import EpisodeStore

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
                float(at_limits(column[:, None], ArraySpec((name,), (unit,), (low,), (high,))).mean()),
            )
        )
    return found


def state_scale(store: EpisodeStore) -> np.ndarray:
    """(S,) how far each state ranges, 1st to 99th percentile of all rows; infinite where it never moves."""
    low, high = np.quantile(store.lowdim("state"), (0.01, 0.99), axis=0)
    return np.where(high > low, high - low, np.inf)


def episode_statistics(
    index: int, episode: Episode, spec: RobotSpec, scale: np.ndarray, footage: Mapping[str, Footage] | None = None
) -> EpisodeStatistics:
    """scale: see `state_scale`. An episode of one row has no steps: its rate is the spec's, its jitter 0.

    footage: of each camera, where somebody has watched the frames already.
    """
    steps = np.diff(episode.time)
    footage = {name: watch(frames) for name, frames in episode.images.items()} if footage is None else footage
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
        idle=float(still(steps_of(state_vector(episode, spec), scale)).mean()) if len(steps) else 0.0,
        overruled=float((~np.isclose(asked, episode.action, rtol=1e-5, atol=1e-6)).any(axis=1).mean()),
        duplicated={name: float(film.same.mean()) if len(steps) else 0.0 for name, film in footage.items()},
        frozen={name: longest_run(film.same) + 1 for name, film in footage.items()},
        sources={int(kind): int(count) for kind, count in zip(kinds, counts, strict=True)},
    )
