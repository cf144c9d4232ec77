"""Checked against published and independent numbers, and by what an interval promises: coverage."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from robolearn.evaluation.statistics import fisher_p, mean_interval, paired_p, success_interval


def wilson(k, n, z=1.959963984540054):
    p = k / n
    centre, half = (p + z * z / 2 / n), z * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_formula(pair):
    k, n = pair
    low, high = success_interval(k, n)
    assert (low, high) == pytest.approx(wilson(k, n), abs=1e-9)
    assert 0 <= low <= k / n + 1e-12 and k / n - 1e-12 <= high <= 1


def test_no_trials_say_nothing_and_all_successes_do_not_say_certain():
    assert success_interval(0, 0) == (0.0, 1.0)
    assert success_interval(20, 20)[0] < 0.85


def test_over_all_rates_the_interval_covers_the_truth_as_often_as_it_says():
    intervals = np.array([success_interval(k, 30) for k in range(31)])
    truths = np.linspace(0.02, 0.98, 97)
    covered = (intervals[:, :1] <= truths) & (truths <= intervals[:, 1:])
    exact = (stats.binom.pmf(np.arange(31)[:, None], 30, truths) * covered).sum(axis=0)
    assert 0.945 < exact.mean() < 0.965


def test_the_bootstrap_of_a_mean_covers_too_and_repeats():
    rng = np.random.default_rng(1)
    samples = rng.normal(2.0, 1.0, (100, 30))
    hits = [low <= 2.0 <= high for low, high in map(mean_interval, samples)]
    assert 0.88 < np.mean(hits) < 0.99
    assert mean_interval(samples[0]) == mean_interval(samples[0])


def test_means_of_nothing_or_of_equal_values_need_no_resampling():
    assert mean_interval([0.5] * 4) == (0.5, 0.5)
    assert mean_interval([3.0]) == (3.0, 3.0)
    assert all(map(math.isnan, mean_interval([])))


def test_fisher_on_the_lady_tasting_tea():
    assert fisher_p(3, 4, 1, 4) == pytest.approx(34 / 70)
    assert fisher_p(10, 20, 10, 20) == pytest.approx(1.0)
    assert fisher_p(5, 20, 19, 20) < 1e-4


def test_pairs_that_did_not_change_say_nothing():
    assert paired_p([True] * 5 + [False] * 5, [True] * 5 + [False] * 5) == 1.0
    assert paired_p([False] * 6 + [True], [True] * 7) == pytest.approx(2 * 0.5**6)
