"""What to keep when a policy is fine-tuned: the policy or the data, whichever is better (Li et al., "The Three Regimes of
Offline-to-Online Reinforcement Learning", arXiv 2510.01460). Costs one evaluation of the offline policy; run it before every fine-tuning.

J(D) is the expected return of whoever recorded the dataset, taken as the MEAN return of its episodes, not of its best ones. In the paper
the rule is right in 45 of 63 cases and opposite in 3. It sees returns alone: a policy that never succeeds yet gets far counts as worthless.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import scipy

from robolearn.core.errors import UserError
from robolearn.evaluation.statistics import Interval


class Regime(Enum):
    """What is better, and so is kept; the value says how."""

    POLICY = "keep the policy (online warm-up, no offline replay)"
    DATA = "keep the data (offline replay)"
    EITHER = "not distinguishable: keep either"


@dataclass(frozen=True)
class Comparison:
    """policy, data: mean returns over so many episodes; interval: of policy - data."""

    regime: Regime
    policy: float
    policy_episodes: int
    data: float
    data_episodes: int
    interval: Interval
    confidence: float

    def sentence(self) -> str:
        """The numbers and what follows, in one line."""
        low, high = self.interval
        means = f"policy {self.policy:.3g} ({self.policy_episodes} episodes) against data {self.data:.3g} ({self.data_episodes})"
        return f"{means}, difference {low:+.3g} to {high:+.3g} at {100 * self.confidence:g} %: {self.regime.value}"


def regime(
    policy_returns: Sequence[float] | np.ndarray, data_returns: Sequence[float] | np.ndarray, confidence: float = 0.95
) -> Comparison:
    """POLICY or DATA where Welch's interval of the difference of the mean returns excludes 0, else EITHER: which is not "equal".

    A return an episode: whole, undiscounted or discounted alike, with one and the same reward and time limit; or 0 and 1 for success.
    UserError: fewer than 2 episodes, a return that is not finite, a confidence outside 0 to 1.
    """
    if not 0 < confidence < 1:
        raise UserError(f"regime.confidence: {confidence}; expected above 0 and below 1")
    policy, data = _sample("policy_returns", policy_returns), _sample("data_returns", data_returns)
    difference = float(policy.mean() - data.mean())
    half = _half_width(policy, data, confidence)
    better = Regime.POLICY if difference > half else Regime.DATA if difference < -half else Regime.EITHER
    interval = (difference - half, difference + half)
    return Comparison(better, float(policy.mean()), len(policy), float(data.mean()), len(data), interval, confidence)


def _sample(name: str, returns: Sequence[float] | np.ndarray) -> np.ndarray:
    sample = np.asarray(returns, dtype=np.float64)
    if sample.ndim != 1 or len(sample) < 2:
        raise UserError(f"regime.{name}: shape {sample.shape}; expected a return for each of at least 2 episodes")
    if not np.isfinite(sample).all():
        raise UserError(f"regime.{name}: {sample[~np.isfinite(sample)][0]}; expected finite returns")
    return sample


def _half_width(policy: np.ndarray, data: np.ndarray, confidence: float) -> float:
    """Welch (1947). Two of two successes have no spread and are no certainty: a sample without spread takes that of both together."""
    both = np.concatenate([policy, data])
    if np.ptp(both) == 0:
        return 0.0
    of = [(both if np.ptp(sample) == 0 else sample).var(ddof=1) / len(sample) for sample in (policy, data)]
    freedom = sum(of) ** 2 / sum(v**2 / (len(sample) - 1) for v, sample in zip(of, (policy, data), strict=True))
    return float(scipy.stats.t.ppf((1 + confidence) / 2, freedom) * np.sqrt(sum(of)))
