import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from robolearn.core.errors import UserError
from robolearn.planning.gate import (
    Decision,
    Gate,
    GateConfig,
    Trigger,
    conformal_threshold,
    decision_threshold,
    episode_threshold,
)

PLAN, POLICY, HOLD, ASK = Decision.PLAN, Decision.POLICY, Decision.HOLD, Decision.ASK
NOT_FINITE = (math.nan, math.inf, -math.inf)
below = st.one_of(st.just(1.0), st.floats(-1e9, 1))
above = st.one_of(st.just(math.nextafter(1, 2)), st.floats(1, 1e9, exclude_min=True), st.sampled_from(NOT_FINITE))
lost, any_novelty = st.tuples(above, above), st.one_of(above, below)
flight = st.lists(st.one_of(lost, st.tuples(any_novelty, any_novelty)), max_size=40)  # of a gate whose threshold is 1


# The threshold


@pytest.mark.parametrize(
    ("n", "risk", "rank"), [(19, 0.05, 19), (39, 0.05, 38), (40, 0.05, 39), (9, 0.1, 9), (149, 0.18, 123), (3, 0.5, 2)]
)
def test_the_threshold_is_the_score_of_the_right_rank(n, risk, rank):
    scores = np.random.default_rng(0).permutation(n) + 1.0
    assert conformal_threshold(scores, risk) == rank == math.ceil(round((n + 1) * (1 - risk), 9))


@pytest.mark.parametrize(("risk", "needed"), [(0.05, 19), (0.1, 9), (0.01, 99), (0.3, 3), (0.07, 14), (0.001, 999)])
def test_too_few_episodes_for_the_risk_are_refused_by_number(risk, needed):
    assert conformal_threshold(np.arange(needed), risk) == needed - 1
    with pytest.raises(UserError, match=f"gate.risk: {risk} from {needed - 1} held-out scores; needs at least {needed}, one per episode"):
        conformal_threshold(np.arange(needed - 1), risk)


@pytest.mark.parametrize("risk", [0.0, 1.0, -0.1, math.nan])
def test_a_risk_is_a_share(risk):
    with pytest.raises(UserError, match="gate.risk: .*; expected more than 0 and less than 1"):
        conformal_threshold(np.arange(100), risk)


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_scores_that_are_not_finite_lie_above_all_others(bad):
    scores = [float(i) for i in range(38)] + [bad]
    assert conformal_threshold(scores, 0.05) == 37
    with pytest.raises(UserError, match="held-out scores: 2 of 39 are not finite; at a risk of 0.05 at most 1 may be"):
        conformal_threshold([bad, *scores[1:]], 0.05)


@pytest.mark.parametrize(("n", "risk"), [(19, 0.05), (50, 0.1), (99, 0.05), (120, 0.2)])
def test_new_scores_raise_as_many_alarms_as_promised(n, risk):
    """Exchangeable and far from normal: alarms are Binomial(repetitions, floor((n + 1) risk) / (n + 1)), whatever the distribution."""
    rng, repetitions = np.random.default_rng(n), 4000
    scores = rng.lognormal(sigma=2, size=(repetitions, 1)) * rng.gamma(0.5, size=(repetitions, n + 1))  # alike within a repetition
    alarms = sum(row[-1] > conformal_threshold(row[:-1], risk) for row in scores)
    exact = math.floor(round((n + 1) * risk, 9)) / (n + 1)
    assert exact <= risk
    low, high = stats.binom.interval(0.999, repetitions, exact)
    assert low <= alarms <= high


def test_with_one_set_of_scores_the_rate_of_alarms_is_beta_distributed():
    n, risk = 59, 0.1
    rng = np.random.default_rng(0)
    rates = [1 - conformal_threshold(rng.random(n), risk) for _ in range(2000)]  # of uniform scores: what lies above
    rank = 54
    assert stats.kstest(rates, stats.beta(n + 1 - rank, rank).cdf).pvalue > 0.001


def flights(rng, episodes, steps=30):
    """Novelties of episodes that differ from each other more than their decisions do."""
    return np.exp(rng.normal(size=(episodes, 1)) + 0.3 * rng.normal(size=(episodes, steps)))


def test_an_episode_threshold_bounds_the_episodes_with_any_alarm():
    rng, repetitions = np.random.default_rng(1), 2000
    alarms = sum(bool((flights(rng, 1) > episode_threshold(list(flights(rng, 39)), 0.05)).any()) for _ in range(repetitions))
    low, high = stats.binom.interval(0.999, repetitions, 0.05)
    assert low <= alarms <= high


def test_a_decision_threshold_bounds_decisions_only():
    rng = np.random.default_rng(2)
    calibration, fresh = flights(rng, 2000), flights(rng, 2000)
    threshold = decision_threshold(list(calibration), 0.05)
    assert (fresh > threshold).mean() == pytest.approx(0.05, abs=0.02)
    assert (fresh > threshold).any(axis=1).mean() > 0.1  # many more than 5 % of the episodes
    assert threshold < episode_threshold(list(calibration), 0.05)


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_an_episode_with_one_novelty_that_is_not_finite_lies_above_all_others(bad):
    episodes = [[float(i), 0.0] for i in range(39)]
    assert episode_threshold([*episodes[:-1], [bad, 0.0]], 0.05) == 37


def test_episodes_of_any_length_count_once():
    episodes = [[float(i)] * (1 + 7 * (i % 3)) for i in range(19)]
    assert episode_threshold(episodes, 0.05) == 18
    with pytest.raises(UserError, match="from 18 held-out scores; needs at least 19"):
        episode_threshold(episodes[1:], 0.05)


def test_an_episode_without_decisions_has_no_score():
    with pytest.raises(UserError, match=r"held-out episodes: 2, without decisions \[1\]"):
        episode_threshold([[1.0], []], 0.5)
    with pytest.raises(UserError, match="held-out episodes: 0"):
        decision_threshold([], 0.5)


# The decisions


def gate(patience=2, threshold=1.0):
    return Gate(GateConfig(patience=patience), threshold)


def test_plan_policy_hold_ask():
    g = gate()
    seen = [g.decide(*pair) for pair in [(0.5, 9.0), (1.0, 1.0), (1.1, 1.0), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (0.1, 0.1)]]
    assert seen == [PLAN, PLAN, POLICY, HOLD, HOLD, ASK, ASK]  # at the threshold is not above it; after ASK nothing but an answer helps
    assert g.asking
    assert g.log == (
        Trigger(2, POLICY, "above_threshold", 1.1, 1.0, 1.0),
        Trigger(3, HOLD, "above_threshold", 2.0, 3.0, 1.0),
        Trigger(4, HOLD, "above_threshold", 2.0, 3.0, 1.0),
        Trigger(5, ASK, "patience", 2.0, 3.0, 1.0),
        Trigger(6, ASK, "unanswered", 0.1, 0.1, 1.0),
    )
    assert g.counts == Counter({PLAN: 2, POLICY: 1, HOLD: 2, ASK: 2})


@pytest.mark.parametrize("release", [Gate.answered, Gate.reset])
def test_an_answer_or_a_new_episode_starts_afresh(release):
    g = gate()
    for _ in range(3):
        g.decide(2.0, 2.0)
    release(g)
    assert not g.asking
    assert [g.decide(2.0, 2.0) for _ in range(3)] == [HOLD, HOLD, ASK]
    assert len(g.log) == 6 and g.log[-1].step == 5
    release(g)
    g.decide(2.0, 2.0)
    release(g)  # in the middle of holding, too
    assert [g.decide(2.0, 2.0) for _ in range(3)] == [HOLD, HOLD, ASK]


@pytest.mark.parametrize("between", [(0.5, 2.0), (2.0, 0.5)])
def test_only_holds_in_a_row_wear_out_patience(between):
    g = gate()
    assert [g.decide(2.0, 2.0), g.decide(2.0, 2.0)] == [HOLD, HOLD]
    g.decide(*between)
    assert [g.decide(2.0, 2.0) for _ in range(3)] == [HOLD, HOLD, ASK]


def test_without_patience_the_human_is_asked_at_once():
    assert gate(patience=0).decide(2.0, 2.0) is ASK


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_what_is_not_finite_is_above(bad):
    g = gate()
    assert [g.decide(bad, 0.5), g.decide(bad, bad), g.decide(2.0, bad), g.decide(0.5, bad)] == [POLICY, HOLD, HOLD, PLAN]
    assert [trigger.cause for trigger in g.log] == ["not_finite"] * 3


@pytest.mark.parametrize(("patience", "threshold"), [(-1, 1.0), (2, math.inf), (2, math.nan)])
def test_a_gate_that_cannot_judge_is_not_built(patience, threshold):
    with pytest.raises(UserError, match="gate"):
        gate(patience, threshold)


@given(flight, st.integers(0, 5))
def test_never_a_plan_above_the_threshold_nor_a_policy(pairs, patience):
    g = gate(patience)
    for plan, policy in pairs:
        decision = g.decide(plan, policy)
        if not plan <= 1:
            assert decision is not PLAN
        if not policy <= 1:
            assert decision is not POLICY
        if decision is HOLD:
            assert not (plan <= 1 and math.isfinite(plan)) and not (policy <= 1 and math.isfinite(policy))


@given(flight, st.integers(0, 5))
def test_once_asked_always_asked_and_never_before_patience_is_out(pairs, patience):
    g = gate(patience)
    decisions = [g.decide(*pair) for pair in pairs]
    if ASK in decisions:
        first = decisions.index(ASK)
        assert set(decisions[first:]) == {ASK} and g.asking
        assert decisions[first - patience : first] == [HOLD] * patience
    longest = max((len(run) for run in "".join("h" if d is HOLD else " " for d in decisions).split()), default=0)
    assert longest <= patience


@given(flight, flight, st.integers(0, 5), st.booleans())
def test_a_gate_restored_from_plain_data_goes_on_as_if_nothing_had_happened(before, after, patience, answered):
    g, other = gate(patience), gate(patience, threshold=7.0)
    for pair in before:
        g.decide(*pair)
    if answered:
        g.answered()
    saved, log = json.dumps(g.state_dict()), g.log
    other.load_state_dict(json.loads(saved))
    assert json.dumps(other.state_dict()) == saved
    assert [g.decide(*pair) for pair in after] == [other.decide(*pair) for pair in after]
    assert repr(g.log) == repr(other.log)  # nan is not itself
    assert g.counts == other.counts and sum(g.counts.values()) == len(before) + len(after)
    assert g.log[: len(log)] == log  # it only grows


def test_a_saved_state_shares_nothing_with_the_gate():
    g = gate()
    g.decide(2.0, 2.0)
    saved = g.state_dict()
    g.decide(2.0, 2.0)
    assert len(saved["log"]) == 1


def test_a_threshold_of_another_risk_is_refused():
    state = gate().state_dict()
    with pytest.raises(UserError, match="gate.risk: 0.1; the saved threshold was calibrated at 0.05"):
        Gate(GateConfig(risk=0.1), 1.0).load_state_dict(state)
    with pytest.raises(UserError, match="gate threshold: nan"):
        gate().load_state_dict(state | {"threshold": math.nan})
