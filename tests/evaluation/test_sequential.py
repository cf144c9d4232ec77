"""The promises of the gate, by simulation and by other ways of computing them; and what it costs next to tests that hold for ever."""

import json
import math
from functools import lru_cache
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from robolearn.core.errors import UserError
from robolearn.evaluation.sequential import Improvement, ImprovementConfig, Verdict, boundaries, evidence

DEFAULT = ImprovementConfig()
CONFIGS = st.builds(
    ImprovementConfig,
    margin=st.sampled_from((0.0, 0.1, 0.2)),
    alpha=st.sampled_from((0.05, 0.1)),
    beta=st.sampled_from((0.05, 0.1)),
    most=st.sampled_from((6, 12)),
)
RECORDS = st.sampled_from((1, 8, 20)).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
RUNS = 10_000


@lru_cache
def tables(n, config):
    """accept, worse, open of all records: (n + 1, most + 1, most + 1)."""
    every = [boundaries(config, m, n) for m in range(n + 1)]
    return tuple(np.stack([getattr(b, name) for b in every]) for name in ("accept", "worse", "open"))


def fly(gate, records, rate, seed):
    """How many of the walks end accepted and worse, and their mean number of episodes, flown all at once."""
    accept, worse, still_open = gate
    most = accept.shape[1] - 1
    wins = np.cumsum(np.random.default_rng(seed).random((len(records), most)) < rate, axis=1)
    wins = np.concatenate([np.zeros((len(records), 1), int), wins], axis=1)
    look = (records[:, None], np.arange(most + 1)[None], wins)
    accepted, called_worse = accept[look], worse[look]
    over = accepted | called_worse | ~still_open[look]
    end = over.argmax(axis=1)  # the last look is always over
    row = np.arange(len(records))
    return int(accepted[row, end].sum()), int((called_worse & ~accepted)[row, end].sum()), float(end.mean())


def at_most(events, level):
    """Exact: so many events of RUNS are no surprise where the chance is `level` or less."""
    return stats.binomtest(events, RUNS, level, alternative="greater").pvalue > 1e-4


@pytest.mark.parametrize("config", [DEFAULT, ImprovementConfig(margin=0.05, alpha=0.05, beta=0.05, most=20)])
def test_errors_stay_below_alpha_and_beta_at_every_rate(config):
    gate = tables(20, config)
    rng = np.random.default_rng(7)
    largest = 0
    for deployed in (0.15, 0.3, 0.5, 0.6, 0.8, 0.95, 1.0):
        records = rng.binomial(20, deployed, RUNS)
        for worse_by in (config.margin, config.margin + 0.05):
            accepted, _, _ = fly(gate, records, max(deployed - worse_by, 0), 11)
            assert at_most(accepted, config.alpha)
            largest = max(largest, accepted)
        for better_by in (0.0, 0.1):
            _, called_worse, _ = fly(gate, records, min(deployed + better_by, 1), 13)
            assert at_most(called_worse, config.beta)
    assert largest > 0.7 * config.alpha * RUNS  # and alpha is spent


@pytest.mark.parametrize(("side", "margin"), [(0, DEFAULT.margin), (1, 0.0)])
def test_the_exact_error_walked_forward_reaches_its_level_and_nowhere_exceeds_it(side, margin):
    crossed = tables(20, DEFAULT)[side]
    deployed = np.linspace(margin, 1, 333)  # not the rates the boundary was found at
    candidate = (deployed - margin)[:, None]
    walking = np.zeros((21, len(deployed), DEFAULT.most + 1))
    walking[..., 0] = stats.binom.pmf(np.arange(21)[:, None], 20, deployed)
    error = np.zeros_like(deployed)
    for k in range(1, DEFAULT.most + 1):
        step = walking * (1 - candidate)
        step[..., 1:] += (walking * candidate)[..., :-1]
        error += (step * crossed[:, None, k]).sum(axis=(0, 2))
        walking = step * ~crossed[:, None, k]
    assert 0.095 < error.max() < 0.1 + 1e-4


def test_the_ratio_equals_a_brute_force_search():
    n, margin = 7, 0.1
    table = evidence(n, 6, margin)
    rates = np.linspace(margin, 1, 20_001)
    for m, k, s in product(range(n + 1), (1, 4, 6), range(7)):
        if s > k:
            continue
        free = sum(special.xlogy(a, a / b) for a, b in ((m, n), (n - m, n), (s, k), (k - s, k)))
        tied = (
            special.xlogy(m, rates)
            + special.xlog1py(n - m, -rates)
            + special.xlogy(s, rates - margin)
            + special.xlog1py(k - s, margin - rates)
        )
        assert abs(table[m, k, s]) == pytest.approx(free - tied.max(), abs=1e-6)
        assert table[m, k, s] * (s / k - m / n + margin) >= 0


def test_a_clear_improvement_is_accepted_and_a_clear_failure_rejected_within_few_episodes():
    gate, records = tables(20, DEFAULT), np.full(RUNS, 12)
    accepted, _, episodes = fly(gate, records, 0.9, 3)
    assert accepted > 0.98 * RUNS and episodes < 8
    accepted, called_worse, episodes = fly(gate, records, 0.2, 3)
    assert accepted < 0.003 * RUNS and called_worse > 0.6 * RUNS and episodes < 7


def test_twenty_episodes_cannot_tell_an_equal_candidate_from_a_slightly_worse_one():
    accepted, called_worse, _ = fly(tables(20, DEFAULT), np.full(RUNS, 12), 0.6, 3)
    assert accepted < 0.2 * RUNS and called_worse < 0.1 * RUNS


def mixture(n, config):
    """An e-process: uniform priors over the alternative, over the likeliest of the null (universal inference, Wasserman et al. 2020)."""
    middle = (np.arange(100) + 0.5) / 100
    alternative = middle[None] > middle[:, None] - config.margin
    edge = np.linspace(config.margin, 1, 401)
    table = np.zeros((n + 1, config.most + 1, config.most + 1))

    def likelihood(k, rate):
        s = np.arange(k + 1)[:, None]
        return np.exp(special.xlogy(s, rate) + special.xlog1py(k - s, -rate))

    for k in range(1, config.most + 1):
        null = (likelihood(n, edge)[:, None] * likelihood(k, edge - config.margin)[None]).max(axis=2)
        own = likelihood(n, np.arange(n + 1) / n).diagonal()[:, None] * likelihood(k, np.arange(k + 1) / k).diagonal()
        below = np.arange(k + 1) / k <= np.arange(n + 1)[:, None] / n - config.margin
        mixed = likelihood(n, middle) @ (alternative / alternative.sum()) @ likelihood(k, middle).T
        table[:, k, : k + 1] = mixed / np.where(below, own, null)
    return table >= 1 / config.alpha


def sequence(n, config):
    """Half of alpha on the record (Clopper-Pearson), half on a uniform-mixture confidence sequence of the candidate (Robbins 1970)."""
    m = np.arange(n)
    upper = np.append(stats.beta.ppf(1 - config.alpha / 2, m + 1, n - m), 1.0)
    rate = np.clip(upper - config.margin, 1e-9, 1 - 1e-9)[:, None]
    table = np.zeros((n + 1, config.most + 1, config.most + 1), bool)
    for k in range(1, config.most + 1):
        s = np.arange(k + 1)
        mixed = special.betaln(s + 1, k - s + 1) + stats.beta.logsf(rate, s + 1, k - s + 1) - np.log1p(-rate)
        table[:, k, : k + 1] = mixed - special.xlogy(s, rate) - special.xlog1py(k - s, -rate) >= math.log(2 / config.alpha)
    return table


@pytest.mark.parametrize(("other", "accepts", "episodes"), [(mixture, 0.75, 17.7), (sequence, 0.70, 19.6)])
def test_it_decides_earlier_than_tests_that_hold_for_ever(other, accepts, episodes):
    accept = other(20, DEFAULT)
    still_open = np.zeros_like(accept)
    for k in reversed(range(DEFAULT.most)):
        still_open[:, k, : k + 1] = (accept | still_open)[:, k + 1, 1 : k + 2]
    other_gate, gate = (accept, np.zeros_like(accept), still_open), tables(20, DEFAULT)
    records = np.full(RUNS, 12)
    theirs, ours = fly(other_gate, records, 0.9, 5), fly(gate, records, 0.9, 5)
    assert theirs[0] / RUNS == pytest.approx(accepts, abs=0.015) and theirs[2] == pytest.approx(episodes, abs=0.3)
    assert ours[0] > 1.2 * theirs[0] and ours[2] < 0.5 * theirs[2]
    wrong = fly(other_gate, np.random.default_rng(1).binomial(20, 0.6, RUNS), 0.5, 6)[0]
    assert wrong < 0.02 * RUNS  # a fifth of what they may


@settings(max_examples=30)
@given(CONFIGS, RECORDS)
def test_more_successes_never_hurt_a_candidate_nor_help_it_against_a_better_record(config, record):
    m, n = record
    gate = boundaries(config, m, n)
    better = boundaries(config, min(m + 1, n), n)
    for k in range(1, config.most + 1):
        assert (np.diff(gate.accept[k, : k + 1].astype(int)) >= 0).all() and (np.diff(gate.worse[k, : k + 1].astype(int)) <= 0).all()
        assert not (better.accept[k] & ~gate.accept[k]).any()
    assert not gate.open[-1].any() and not gate.accept[0].any() and not gate.worse[0].any()


@given(CONFIGS, RECORDS, st.lists(st.booleans(), max_size=12))
def test_a_verdict_is_final_and_survives_being_saved(config, record, outcomes):
    test, gate = Improvement(config, *record), boundaries(config, *record)
    for success in outcomes:
        if test.verdict is not Verdict.CONTINUE:
            before = test.state_dict()
            with pytest.raises(UserError, match="the test is over"):
                test.add(success)
            assert test.state_dict() == before
            break
        assert test.add(success) is test.verdict
        flown, won = len(test.outcomes), sum(test.outcomes)
        assert (test.verdict is Verdict.ACCEPT) == gate.accept[flown, won]
        assert (test.verdict is Verdict.CONTINUE) == (test.cause == "")
    assert len(test.outcomes) <= config.most
    again = Improvement(config, *record)
    again.load_state_dict(json.loads(json.dumps(test.state_dict())))
    assert (again.verdict, again.cause, again.outcomes, again.sentence()) == (test.verdict, test.cause, test.outcomes, test.sentence())


def run(outcomes, record=(12, 20), config=DEFAULT):
    test = Improvement(config, *record)
    for outcome in outcomes:
        if test.add(outcome == "1") is not Verdict.CONTINUE:
            break
    return test


def test_sentences_and_causes():
    assert run("1111").sentence() == "candidate 4 of 4 against 12 of 20: accepted"
    assert run("0111111111").sentence() == "candidate 9 of 10 against 12 of 20: accepted"
    assert run("000").sentence() == "candidate 0 of 3 against 12 of 20: rejected, worse"
    undecided = run("10" * 15)
    assert undecided.verdict is Verdict.REJECT and undecided.cause == "undecided"
    assert undecided.sentence().endswith("against 12 of 20: rejected, undecided (30 episodes are too few)")
    assert run("11").sentence() == "candidate 2 of 2 against 12 of 20: not decided, at most 28 more episodes"


def test_the_order_may_decide_when_but_the_count_alone_decides_at_a_look():
    assert run("1111").verdict is Verdict.ACCEPT and len(run("1111000").outcomes) == 4
    assert run("0001111").cause == "worse"
    assert run("0110111").verdict is run("1101110"[::-1]).verdict is Verdict.CONTINUE


def test_it_stops_as_soon_as_even_a_perfect_rest_would_not_do():
    short = ImprovementConfig(most=8)
    hopeless = Improvement(short, 18, 20)  # before anything is flown
    assert (hopeless.verdict, hopeless.cause, hopeless.outcomes) == (Verdict.REJECT, "undecided", [])
    test = run("1" * 3 + "0" * 5, config=short)
    assert test.cause == "undecided" and len(test.outcomes) < 8
    best = test.outcomes + [True] * (8 - len(test.outcomes))
    assert not boundaries(short, 12, 20).accept[8, sum(best)]


def test_a_state_of_other_terms_is_refused():
    state = run("110").state_dict()
    for other in (Improvement(DEFAULT, 11, 20), Improvement(ImprovementConfig(most=31), 12, 20)):
        with pytest.raises(UserError, match="keeps its terms"):
            other.load_state_dict(state)


@pytest.mark.parametrize("values", [{"margin": -0.1}, {"margin": 0.6}, {"alpha": 0.0}, {"beta": 0.5}, {"most": 0}, {"alpha": math.nan}])
def test_bad_terms_name_their_field(values):
    with pytest.raises(UserError, match=f"improvement.{next(iter(values))}: "):
        ImprovementConfig(**values)


@pytest.mark.parametrize(("record", "field"), [((0, 0), "episodes"), ((21, 20), "successes"), ((-1, 20), "successes")])
def test_a_record_must_be_one(record, field):
    with pytest.raises(UserError, match=f"deployed.{field}: "):
        Improvement(DEFAULT, *record)
