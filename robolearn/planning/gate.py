"""When to fly a plan: a threshold on novelty with a known false-alarm rate, and what to do above it.

Split conformal prediction (Vovk et al. 2005): of n held-out scores and one new score, exchangeable, each is equally likely to be
the largest, the second largest and so on. So the new one exceeds the ceil((n + 1) (1 - risk))-th smallest of the n with a
probability of at most `risk`, whatever the novelty measures and however badly. That is an average over held-out sets: with one
set at hand the rate of alarms is itself random, Beta distributed if scores have no ties (mean `risk` or a little below).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from robolearn.core.errors import UserError, require_at_least

Novelties = Sequence[float] | np.ndarray  # of one episode's decisions, in their order


class Decision(Enum):
    """What the gate advises, from the boldest to the most careful."""

    PLAN = "plan"  # fly the planner's plan
    POLICY = "policy"  # fly the policy prior's own action
    HOLD = "hold"  # stay where it is
    ASK = "ask"  # stay, and ask the human


Cause = Literal["above_threshold", "not_finite", "patience", "unanswered"]


@dataclass(frozen=True)
class GateConfig:
    """How often a gate may err on the side of caution, and how long it waits before it calls a human."""

    risk: float = 0.05
    """Share of familiar episodes (or decisions, see `decision_threshold`) that may raise an alarm, above 0 and below 1."""
    patience: int = 10
    """Consecutive holds before the human is asked; 0 asks at once [decisions]."""


@dataclass(frozen=True)
class Trigger:
    """One decision that was not to fly the plan."""

    step: int  # decisions made before it
    decision: Decision
    cause: Cause
    plan_novelty: float
    policy_novelty: float
    threshold: float


def conformal_threshold(scores: Novelties, risk: float) -> float:
    """The ceil((n + 1) (1 - risk))-th smallest of n exchangeable scores. A score that is not finite counts as above all others.

    UserError where n is too small for the risk (n + 1 < 1 / risk), or where so many scores are not finite that the threshold is not.
    """
    if not 0 < risk < 1:
        raise UserError(f"gate.risk: {risk}; expected more than 0 and less than 1")
    values = np.sort(_or_infinite(scores))
    exact = Fraction(str(float(risk)))  # 0.05 is a twentieth here, so that 19 scores are enough
    rank = len(values) + 1 - math.floor((len(values) + 1) * exact)
    if rank > len(values):
        raise UserError(f"gate.risk: {risk} from {len(values)} held-out scores; needs at least {math.ceil(1 / exact) - 1}, one per episode")
    if not math.isfinite(values[rank - 1]):
        bad, most = int(np.isinf(values).sum()), len(values) - rank
        raise UserError(f"held-out scores: {bad} of {len(values)} are not finite; at a risk of {risk} at most {most} may be")
    return float(values[rank - 1])


def episode_threshold(episodes: Sequence[Novelties], risk: float) -> float:
    """Calibrated on each held-out episode's largest novelty: at most `risk` of new episodes have any decision above it.

    New episodes must be exchangeable with the held-out ones: the same robot, task and pilot, none of them trained on, none cut
    short by an alarm. Episodes of a human say little of what a planner will meet.
    """
    return conformal_threshold([float(_or_infinite(episode).max()) for episode in _with_decisions(episodes)], risk)


def decision_threshold(episodes: Sequence[Novelties], risk: float) -> float:
    """Calibrated on all decisions pooled: about `risk` of new decisions lie above it, so that a long episode has several alarms.

    Only about: decisions of one episode are alike and so not exchangeable with a new episode's. The promise of
    `conformal_threshold` does not hold, and few episodes make a threshold as unsure as few scores, however long they are.
    """
    return conformal_threshold(np.concatenate([_or_infinite(episode) for episode in _with_decisions(episodes)]), risk)


class Gate:
    """Advice on what to fly, above the governor and never in place of it: nothing here bounds what the robot can do.

    At or below the threshold, the plan. Above it, the policy's own action if that one is familiar; else hold, and after
    `patience` holds in a row ask the human, until `answered`. A novelty that is not finite counts as above.
    """

    def __init__(self, config: GateConfig, threshold: float):
        require_at_least("gate.patience", config.patience, 0, "decisions")
        self.config = config
        self.threshold = _finite(threshold)
        self.asking = False
        self._holds = self._steps = 0
        self._log: list[Trigger] = []

    def decide(self, plan_novelty: float, policy_novelty: float) -> Decision:
        """Advice on one decision, from the novelty of the plan and of the policy's own action, in the threshold's units."""
        novelties = float(plan_novelty), float(policy_novelty)
        decision, cause = self._judge(*novelties)
        if cause is not None:
            self._log.append(Trigger(self._steps, decision, cause, *novelties, self.threshold))
        self.asking = decision is Decision.ASK
        self._holds = self._holds + 1 if decision is Decision.HOLD else 0
        self._steps += 1
        return decision

    def answered(self) -> None:
        """The human has answered: ask no more, and count holds afresh."""
        self.asking, self._holds = False, 0

    def reset(self) -> None:
        """A new episode, which answers for whatever was asked in the last one. The log and the counts go on."""
        self.answered()

    @property
    def log(self) -> tuple[Trigger, ...]:
        """Every decision other than PLAN, oldest first. It only ever grows."""
        return tuple(self._log)

    @property
    def counts(self) -> Counter[Decision]:
        """How often each decision was made."""
        return Counter(trigger.decision for trigger in self._log) + Counter({Decision.PLAN: self._steps - len(self._log)})

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts."""
        log = [{**asdict(trigger), "decision": trigger.decision.value} for trigger in self._log]
        state = {"risk": self.config.risk, "threshold": self.threshold, "asking": self.asking}
        return state | {"holds": self._holds, "steps": self._steps, "log": log}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """UserError where the state was calibrated at another risk."""
        if state["risk"] != self.config.risk:
            raise UserError(f"gate.risk: {self.config.risk}; the saved threshold was calibrated at {state['risk']}")
        self.threshold = _finite(state["threshold"])
        self.asking, self._holds, self._steps = state["asking"], state["holds"], state["steps"]
        self._log = [Trigger(**{**entry, "decision": Decision(entry["decision"])}) for entry in state["log"]]

    def _judge(self, plan: float, policy: float) -> tuple[Decision, Cause | None]:
        if self.asking:
            return Decision.ASK, "unanswered"
        if self._familiar(plan):
            return Decision.PLAN, None
        if self._familiar(policy):
            return Decision.POLICY, "above_threshold" if math.isfinite(plan) else "not_finite"
        if self._holds >= self.config.patience:
            return Decision.ASK, "patience"
        return Decision.HOLD, "above_threshold" if math.isfinite(plan) and math.isfinite(policy) else "not_finite"

    def _familiar(self, novelty: float) -> bool:
        return math.isfinite(novelty) and novelty <= self.threshold


def _or_infinite(novelties: Novelties) -> np.ndarray:
    values = np.asarray(novelties, dtype=np.float64)
    return np.where(np.isfinite(values), values, np.inf)


def _with_decisions(episodes: Sequence[Novelties]) -> Sequence[Novelties]:
    empty = [i for i, episode in enumerate(episodes) if len(episode) == 0]
    if empty or not len(episodes):
        raise UserError(f"held-out episodes: {len(episodes)}, without decisions {empty}; expected at least one decision in each of them")
    return episodes


def _finite(threshold: float) -> float:
    if not math.isfinite(threshold):
        raise UserError(f"gate threshold: {threshold}; expected a finite number, as episode_threshold gives")
    return float(threshold)
