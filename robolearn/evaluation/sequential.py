"""The improvement gate: may a fine-tuned candidate replace the deployed policy? A look after every episode, tens of episodes in all.

The evidence is the generalised likelihood ratio of "worse by less than the margin, or better" against "worse by the margin or more". Its
boundary is the same at every look, and the chance of ever crossing it in `most` episodes is computed, not bounded, at the worst rates
(maxSPRT, Kulldorff et al., Sequential Analysis 2011; for policies of robots also Snyder et al., RSS 2025). Of five statistics (this ratio,
the score, posteriors under three priors) and three shapes of boundary, so calibrated, it ended soonest at 0.9 and at 0.2 below.

Against a record of 12 of 20, with the defaults: accepted, and mean episodes until any end, by the candidate's true rate; all computed:

    true rate                     0.9           0.75          0.6           0.2          largest chance of accepting a worse one
    this test                     99 % (7.5)    61 % (14)     18 % (14)     0 % (6)      0.100
    mixture e-process             75 % (18)     10 % (15)      1 % (10)     0 % (5)      0.010
    two confidence sequences      70 % (20)      7 % (15)      0 % (10)     0 % (5)      0.004

The other two hold at any number of episodes, with no `most`; here they pay for that with nine tenths of their alpha. They end early at 0.2
because they can no longer accept; this test calls that candidate worse in 64 % of cases.

What no test of this size can do: show that an equally good candidate is not worse. Of equals at 0.6, 18 % are accepted, 7 % called worse
and 75 % end undecided; with 200 episodes of each, still only 56 % are accepted. Against 18 of 20, a candidate of 0.95 passes in 69 %.
The gate lets clear improvements through, and leaves the deployed policy where it is otherwise.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

import numpy as np
import scipy
from jaxtyping import Bool, Float

from robolearn.core.errors import UserError, require_at_least

_RATES = 401  # grid over the deployed policy's unknown rate, on which the worst one is looked for


class Verdict(Enum):
    """Whether the candidate replaces the deployed policy."""

    CONTINUE = "continue"
    ACCEPT = "accept"
    REJECT = "reject"


@dataclass(frozen=True)
class ImprovementConfig:
    """margin: a success rate lower by this much still counts as not worse. alpha: chance at most of accepting a candidate that is worse by
    the margin or more; beta: of calling one worse that is as good; both over records and episodes, per candidate. most: episodes; then the
    deployed policy stays. UserError: a share outside its range, no episode."""

    margin: float = 0.1
    alpha: float = 0.1
    beta: float = 0.1
    most: int = 30

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= 0.5:
            raise UserError(f"improvement.margin: {self.margin} of the episodes; expected 0 to 0.5")
        for name in ("alpha", "beta"):
            if not 0 < getattr(self, name) < 0.5:
                raise UserError(f"improvement.{name}: {getattr(self, name)}; expected above 0 and below 0.5")
        require_at_least("improvement.most", self.most, 1, "episodes")


@dataclass(frozen=True)
class Boundaries:
    """Where a test ends against one record, (episodes, successes) of the candidate. open: it could yet be accepted."""

    accept: Bool[np.ndarray, "episodes successes"]
    worse: Bool[np.ndarray, "episodes successes"]
    open: Bool[np.ndarray, "episodes successes"]


class Improvement:
    """One candidate against the deployed policy's record: `successes` of `episodes`, a number fixed before they were flown.

    Episodes must be fresh and alike (starts, judge), the candidate must not change, and `most` must not be raised under way.
    The promises are averages over records: one that was unlucky (8 of 20 at 0.6) lets 35 % of candidates at 0.5 pass, and every candidate
    meets the same record, so it should grow while its policy is deployed. The few episodes that got a policy accepted are a flattering
    and short record: against it, 3 % of equals pass. UserError: no record, or more successes than episodes.
    """

    def __init__(self, config: ImprovementConfig, successes: int, episodes: int) -> None:
        require_at_least("deployed.episodes", episodes, 1, "episodes")
        if not 0 <= successes <= episodes:
            raise UserError(f"deployed.successes: {successes} of {episodes} episodes; expected 0 to {episodes}")
        self.config, self.deployed = config, (successes, episodes)
        self._boundaries = boundaries(config, successes, episodes)
        self._restart()

    def add(self, success: bool) -> Verdict:
        """The verdict after one more episode of the candidate. UserError: it is final already."""
        if self.verdict is not Verdict.CONTINUE:
            raise UserError(f"{self.sentence()}: the test is over; start another for another candidate")
        self.outcomes.append(bool(success))
        self._judge()
        return self.verdict

    def sentence(self) -> str:
        """What was flown and what follows, in one line."""
        flown = f"candidate {sum(self.outcomes)} of {len(self.outcomes)} against {self.deployed[0]} of {self.deployed[1]}"
        if self.verdict is Verdict.CONTINUE:
            return f"{flown}: not decided, at most {self.config.most - len(self.outcomes)} more episodes"
        if self.verdict is Verdict.ACCEPT:
            return f"{flown}: accepted"
        return f"{flown}: rejected, {'worse' if self.cause == 'worse' else f'undecided ({self.config.most} episodes are too few)'}"

    def state_dict(self) -> dict[str, Any]:
        """Plain data; the verdict follows from the outcomes."""
        return {"config": asdict(self.config), "deployed": list(self.deployed), "outcomes": list(self.outcomes)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """UserError: the state of another test; what it promises would not hold."""
        for name, own in (("config", asdict(self.config)), ("deployed", list(self.deployed))):
            if state[name] != own:
                raise UserError(f"improvement.{name}: saved with {state[name]}, now {own}; a test under way keeps its terms")
        self._restart()
        for success in state["outcomes"]:
            self.add(success)

    def _restart(self) -> None:
        self.outcomes: list[bool] = []
        self._judge()

    def _judge(self) -> None:
        look, ends = (len(self.outcomes), sum(self.outcomes)), self._boundaries
        self.verdict, self.cause = Verdict.CONTINUE, ""
        if ends.accept[look]:
            self.verdict, self.cause = Verdict.ACCEPT, "not worse"
        elif ends.worse[look]:
            self.verdict, self.cause = Verdict.REJECT, "worse"
        elif not ends.open[look]:
            self.verdict, self.cause = Verdict.REJECT, "undecided"


@lru_cache(maxsize=16)
def boundaries(config: ImprovementConfig, successes: int, episodes: int) -> Boundaries:
    """The looks at which a candidate is accepted, found worse, or can no longer be accepted even if it never fails again."""
    n, most = episodes, config.most
    accept = evidence(n, most, config.margin)[successes] >= _threshold(n, most, config.margin, config.alpha)
    # "Worse" is "not worse" with success and failure exchanged and no margin, so one calibration serves both.
    worse = evidence(n, most, 0.0)[successes] <= -_threshold(n, most, 0.0, config.beta)
    hopeful = np.zeros_like(accept)
    for k in reversed(range(most)):
        hopeful[k, : k + 1] = (accept | hopeful)[k + 1, 1 : k + 2]
    return Boundaries(accept, worse, hopeful)


def evidence(n: int, most: int, margin: float) -> Float[np.ndarray, "records episodes successes"]:
    """Log likelihood ratio for the candidate's rate being above the deployed one's less the margin (positive) or below (negative).

    At each record m of n and each s of k: the best two rates over the best two that differ by exactly the margin.
    """
    table = np.zeros((n + 1, most + 1, most + 1))
    m = np.arange(n + 1)[:, None]
    for k in range(1, most + 1):
        s = np.arange(k + 1)
        p = _rate_on_the_edge(m, n, s, k, margin)
        ratio = _loglik(m, n, m / n) + _loglik(s, k, s / k) - _loglik(m, n, p) - _loglik(s, k, p - margin)
        table[:, k, : k + 1] = np.sign(s / k - m / n + margin) * np.maximum(ratio, 0)
    return table


@lru_cache(maxsize=16)
def _threshold(n: int, most: int, margin: float, level: float) -> float:
    """The least evidence that a candidate worse by exactly the margin reaches at any look with a chance of `level` at most."""
    table = evidence(n, most, margin)
    low, high = 0.0, float(table.max()) + 1
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if _largest_error(table >= middle, margin) <= level else (middle, high)
    return high


def _largest_error(crossed: Bool[np.ndarray, "records episodes successes"], margin: float) -> float:
    """Chance of ever crossing, of the worst pair of rates that differ by the margin.

    Successes are sufficient: of all orders of s successes in `most` episodes, the share that never crosses is the same at any rate.
    """
    n, most = crossed.shape[0] - 1, crossed.shape[1] - 1
    s = np.arange(most + 1)
    inside = np.ones((n + 1, most + 1))
    for k in range(1, most + 1):
        last = np.minimum(s / k, 1)  # the chance that the last of k was one of the s
        inside = ((1 - last) * inside + last * np.roll(inside, 1, axis=1)) * ~crossed[:, k]
    p = np.linspace(margin, 1, _RATES)
    records, flown = (scipy.stats.binom.pmf(np.arange(trials + 1)[:, None], trials, rate) for trials, rate in ((n, p), (most, p - margin)))
    return float(1 - (records * (inside @ flown)).sum(axis=0).min())


def _rate_on_the_edge(m: np.ndarray, n: int, s: np.ndarray, k: int, margin: float) -> np.ndarray:
    """The deployed policy's likeliest rate if the candidate's is lower by the margin: the root of a falling score, by bisection."""
    low, high = np.full(np.broadcast_shapes(m.shape, s.shape), float(margin)), 1.0
    for _ in range(40):
        p = (low + high) / 2
        q = p - margin
        rising = m / p - (n - m) / (1 - p) + s / q - (k - s) / (1 - q) > 0
        low, high = np.where(rising, p, low), np.where(rising, high, p)
    return (low + high) / 2


def _loglik(successes: np.ndarray, episodes: int, rate: np.ndarray) -> np.ndarray:
    return scipy.special.xlogy(successes, rate) + scipy.special.xlog1py(episodes - successes, -rate)
