"""What `train` reads, and how often: further stores in exact shares, weights, latencies, caches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from robolearn.core.errors import UserError
from robolearn.data.goals import GoalRow
from robolearn.data.sampling import Sampler
from robolearn.data.store import EpisodeStore
from robolearn.data.weighting import by_return, intervention_only, success_only
from robolearn.data.windows import Windows


@dataclass(frozen=True)
class ReadingConfig:
    """How training samples are drawn and read."""

    mix: tuple[str, ...] = ()
    """Further stores (paths or URLs) to learn from beside `data`; what the policy sees and does must be the same in all."""
    shares: tuple[float, ...] = ()
    """The share of each store in every batch, `data` first; empty: by their rows."""
    weighting: Literal["uniform", "success", "intervention", "return"] = "uniform"
    """success: only episodes that succeeded; intervention: only rows in which a human took over; return: by exp(return / temperature)."""
    temperature: float = 0.1
    """Of weighting by return; returns are scaled to 0..1 over the episodes."""
    goal: GoalRow = "last"
    """The row whose picture or state a policy is told to reach: the episode's last, or one drawn from the future of each sample."""
    latency_s: Mapping[str, float] = field(default_factory=dict)
    """Camera -> seconds by which its frames shall be older than the row they go with, as on the robot that will be flown."""
    cache_mb: float = 2000.0
    """Ceiling of decoded frames kept ready [MB]; 0: none."""
    cache_folder: Path | None = None
    """Keep them memory-mapped in this folder, shared by processes and found again; None: in RAM."""
    workers: int = 1
    """Threads that read ahead; 0: none. The order of the samples does not depend on it."""


def open_stores(data: Path, config: ReadingConfig) -> list[EpisodeStore]:
    """`data` and what is mixed with it. UserError: an option that makes no sense."""
    if config.shares and len(config.shares) != 1 + len(config.mix):
        raise UserError(f"reading.shares: {len(config.shares)} numbers; expected {1 + len(config.mix)}: data and reading.mix")
    if any(share < 0 for share in config.shares) or (config.shares and sum(config.shares) <= 0):
        raise UserError(f"reading.shares: {list(config.shares)}; expected none negative and one above 0")
    for name, value, least in (("cache_mb", config.cache_mb, 0), ("workers", config.workers, 0)):
        if value < least:
            raise UserError(f"reading.{name}: {value}; expected at least {least}")
    return [EpisodeStore.open(place) for place in (data, *config.mix)]


def sampler(windows: Windows, config: ReadingConfig, batch_size: int, rng: np.random.Generator, rank: int = 0, ranks: int = 1) -> Sampler:
    """Draws `windows` as `config` says; of every batch the part of this rank."""
    match config.weighting:
        case "uniform":
            weights = None
        case "success":
            weights = success_only(windows)
        case "intervention":
            weights = intervention_only(windows)
        case "return":
            weights = by_return(windows, config.temperature)
    groups: int | Sequence[np.ndarray] = windows.groups() if config.shares else len(windows)
    if not isinstance(groups, int) and weights is not None:
        for store, group, share in zip(windows.stores, groups, config.shares, strict=True):
            if share > 0 and not weights[group].any():
                raise UserError(f"{store.url}: reading.weighting {config.weighting!r} leaves no row of it, its share is {share:g}")
    try:
        return Sampler(groups, batch_size, rng, weights, config.shares or None, rank, ranks)
    except ValueError as error:
        raise UserError(f"reading: {error}") from error
