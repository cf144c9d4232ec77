"""Against scipy's Welch test, by coverage, and on the cases that tempt: no spread, and hardly any episodes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from robolearn.core.errors import UserError
from robolearn.evaluation.regime import Regime, regime

RETURNS = st.lists(st.integers(-50, 50).map(float), min_size=2, max_size=30)


def successes(won, episodes):
    return [1.0] * won + [0.0] * (episodes - won)


@pytest.mark.parametrize(
    ("policy", "data", "expected"),
    [
        (successes(19, 20), successes(25, 50), Regime.POLICY),
        (successes(8, 20), successes(50, 50), Regime.DATA),  # demonstrations that all succeed
        (successes(13, 20), successes(30, 50), Regime.EITHER),
        (successes(19, 20), successes(50, 50), Regime.EITHER),
    ],
)
def test_the_better_one_is_kept(policy, data, expected):
    assert regime(policy, data).regime is expected


def test_the_interval_is_welchs():
    rng = np.random.default_rng(3)
    policy, data = rng.normal(2, 3, 9), rng.normal(1, 0.5, 40)
    theirs = stats.ttest_ind(policy, data, equal_var=False).confidence_interval(0.9)
    assert regime(policy, data, confidence=0.9).interval == pytest.approx((theirs.low, theirs.high))


def test_the_data_count_by_their_mean_not_by_their_best():
    data = np.r_[np.full(10, 100.0), np.zeros(90)]
    assert regime(np.random.default_rng(0).normal(60, 5, 20), data).regime is Regime.POLICY


@pytest.mark.parametrize("draw", ["binary", "unlike"])
def test_equals_are_told_apart_no_more_often_than_promised(draw):
    rng = np.random.default_rng(5)
    if draw == "binary":
        pairs = [(rng.random(20) < 0.7, rng.random(60) < 0.7) for _ in range(2000)]
    else:
        pairs = [(rng.normal(0, 10, 10), rng.normal(0, 1, 100)) for _ in range(2000)]
    wrong = sum(regime(p.astype(float), d.astype(float)).regime is not Regime.EITHER for p, d in pairs)
    assert stats.binomtest(wrong, 2000, 0.06, alternative="greater").pvalue > 1e-3


def test_a_clear_difference_is_found_with_twenty_episodes():
    rng = np.random.default_rng(6)
    found = [regime(rng.binomial(1, 0.9, 20).astype(float), rng.binomial(1, 0.4, 50).astype(float)).regime for _ in range(200)]
    assert found.count(Regime.POLICY) > 190


def test_a_sample_without_spread_is_no_certainty():
    assert regime(successes(2, 2), successes(35, 50)).regime is Regime.EITHER
    assert regime([0.0, 0.0], successes(50, 50)).regime is Regime.EITHER
    assert regime([0.0] * 5, successes(50, 50)).regime is Regime.DATA
    assert regime([0.3] * 3, [0.3] * 4).interval == (0.0, 0.0)


@given(RETURNS, RETURNS, st.sampled_from((0.8, 0.95)))
def test_sides_exchanged_units_changed(policy, data, confidence):
    here = regime(policy, data, confidence)
    there = regime(data, policy, confidence)
    swap = {Regime.POLICY: Regime.DATA, Regime.DATA: Regime.POLICY, Regime.EITHER: Regime.EITHER}
    assert there.regime is swap[here.regime]
    assert there.interval == pytest.approx((-here.interval[1], -here.interval[0]))
    scaled = regime(np.array(policy) * 4 + 8, np.array(data) * 4 + 8, confidence)
    assert scaled.regime is here.regime and scaled.interval == pytest.approx(tuple(4 * end for end in here.interval))
    low, high = here.interval
    assert here.regime is (Regime.POLICY if low > 0 else Regime.DATA if high < 0 else Regime.EITHER)


def test_one_line_says_all():
    assert regime(successes(19, 20), successes(25, 50)).sentence() == (
        "policy 0.95 (20 episodes) against data 0.5 (50), difference +0.276 to +0.624 at 95 %: "
        "keep the policy (online warm-up, no offline replay)"
    )


@pytest.mark.parametrize(
    ("policy", "data", "confidence", "field"),
    [
        ([1.0], [1.0, 0.0], 0.95, "policy_returns"),
        ([1.0, 0.0], [], 0.95, "data_returns"),
        ([1.0, float("nan")], [1.0, 0.0], 0.95, "policy_returns"),
        ([1.0, 0.0], np.ones((2, 2)), 0.95, "data_returns"),
        ([1.0, 0.0], [1.0, 0.0], 1.0, "confidence"),
    ],
)
def test_errors_name_the_field(policy, data, confidence, field):
    with pytest.raises(UserError, match=f"regime.{field}: "):
        regime(policy, data, confidence)
