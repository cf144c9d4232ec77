from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robolearn.data.sampling import Sampler


def drawn(sampler: Sampler, batches: int) -> list[list[int]]:
    return [next(sampler).tolist() for _ in range(batches)]


def test_an_epoch_shows_every_index_once():
    order = sum(drawn(Sampler(10, 4, np.random.default_rng(0)), 5), [])  # 20 = two epochs, the third batch spans both
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10] != order[10:]
    assert len(next(Sampler(3, 8, np.random.default_rng(0)))) == 8


def test_weights_decide_how_often():
    sampler = Sampler(3, 1000, np.random.default_rng(0), np.array([0.0, 0.25, 0.75]))
    counts = np.bincount(next(sampler), minlength=3)
    assert counts[0] == 0 and 200 < counts[1] < 300


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    shares=st.lists(st.floats(0.01, 1), min_size=4, max_size=4),
    batch=st.integers(1, 33),
    batches=st.integers(1, 30),
)
def test_shares_are_exact_whatever_the_batch(sizes, shares, batch, batches):
    groups = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    shares = np.array(shares[: len(sizes)])
    sampler = Sampler(groups, batch, np.random.default_rng(0), shares=shares.tolist())
    seen = np.concatenate([next(sampler) for _ in range(batches)])
    counts = np.array([np.isin(seen, group).sum() for group in groups])
    assert counts.sum() == batch * batches
    np.testing.assert_array_less(np.abs(counts - shares / shares.sum() * len(seen)), 1 + 1e-6)
    for group in groups:  # and within a group every index comes equally often
        often = np.bincount(seen, minlength=sum(sizes))[group]
        assert often.max() - often.min() <= 1


def test_ranks_share_the_same_batches():
    whole = drawn(Sampler(50, 8, np.random.default_rng(3)), 10)
    parts = [drawn(Sampler(50, 8, np.random.default_rng(3), rank=rank, ranks=4), 10) for rank in range(4)]
    for number, batch in enumerate(whole):
        assert sorted(sum((part[number] for part in parts), [])) == sorted(batch)
    with pytest.raises(ValueError, match="a multiple of ranks"):
        Sampler(50, 9, np.random.default_rng(0), ranks=4)


@pytest.mark.parametrize("weights", [None, np.arange(30.0)])
def test_a_state_is_plain_data_and_goes_on_exactly(weights):
    def fresh(seed: int) -> Sampler:
        return Sampler([np.arange(12), np.arange(12, 30)], 7, np.random.default_rng(seed), weights, shares=(0.3, 0.7))

    whole = fresh(0)
    order = drawn(whole, 20)
    first = fresh(0)
    drawn(first, 9)
    state = json.loads(json.dumps(first.state_dict()))
    second = fresh(1)
    drawn(second, 4)
    second.load_state_dict(state)
    assert drawn(second, 11) == order[9:]


def test_what_makes_no_sense_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="saved over 5 samples, now there are 23"):
        Sampler(23, 2, rng).load_state_dict(Sampler(5, 2, rng).state_dict())
    with pytest.raises(ValueError, match="one for each, none negative"):
        Sampler([np.arange(3), np.arange(3)], 2, rng, shares=(1.0,))
    with pytest.raises(ValueError, match="a group without samples"):
        Sampler([np.arange(3), np.arange(0)], 2, rng, shares=(0.5, 0.5))


def test_a_state_of_other_groups_is_refused_and_does_not_hang():
    def fresh(first: int) -> Sampler:
        return Sampler([np.arange(first), np.arange(first, 30)], 6, np.random.default_rng(0))

    long = fresh(10)
    drawn(long, 4)
    with pytest.raises(ValueError, match="the data changed"):
        fresh(25).load_state_dict(long.state_dict())


@pytest.mark.parametrize(
    ("batch", "more", "message"),
    [
        (0, {}, "batch size 0"),
        (-1, {}, "batch size -1"),
        (2, {"ranks": 0}, "rank 0 of 0"),
        (2, {"shares": (np.inf, 1.0)}, "shares"),
        (2, {"weights": np.array([np.nan, 1, 1, 1])}, "weights"),
        (2, {"weights": np.array([-1.0, 1, 1, 1])}, "weights"),
        (2, {"weights": np.ones(3)}, "weights"),
        (2, {"weights": np.array([0.0, 0, 1, 1])}, "no weight above 0 in a group"),
    ],
)
def test_more_that_makes_no_sense_is_refused(batch, more, message):
    with pytest.raises(ValueError, match=message):
        Sampler([np.arange(2), np.arange(2, 4)], batch, np.random.default_rng(0), **more)
