"""What a handful of trials can and cannot tell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy

Interval = tuple[float, float]


def success_interval(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a success rate: honest at 0 and 1, where the normal approximation is not (Wilson 1927)."""
    if trials == 0:
        return 0.0, 1.0
    interval = scipy.stats.binomtest(successes, trials).proportion_ci(confidence_level=confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mean_interval(values: Sequence[float] | np.ndarray, seed: int = 0, confidence: float = 0.95) -> Interval:
    """Bootstrap interval (percentile, 9999 resamples) of a mean; for returns and coverages, which are not yes or no."""
    sample = np.asarray(values, dtype=np.float64)
    if len(sample) < 2 or np.ptp(sample) == 0:  # nothing to resample
        mean = float(sample.mean()) if len(sample) else float("nan")
        return mean, mean
    result = scipy.stats.bootstrap((sample,), np.mean, confidence_level=confidence, method="percentile", rng=np.random.default_rng(seed))
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def fisher_p(successes_a: int, trials_a: int, successes_b: int, trials_b: int) -> float:
    """Two-sided p of Fisher's exact test: could a and b be one and the same success rate?"""
    table = [[successes_a, trials_a - successes_a], [successes_b, trials_b - successes_b]]
    return float(scipy.stats.fisher_exact(table).pvalue)  # pyright: ignore[reportAttributeAccessIssue]


def paired_p(before: Sequence[bool], after: Sequence[bool]) -> float:
    """Two-sided p of McNemar's exact test for trials paired on the same starts: only pairs that changed count."""
    better = sum(a and not b for b, a in zip(before, after, strict=True))
    worse = sum(b and not a for b, a in zip(before, after, strict=True))
    return float(scipy.stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0
