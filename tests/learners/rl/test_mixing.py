from __future__ import annotations

import numpy as np
import pytest
import torch

from robolearn.agents.axes import Replay as Mix
from robolearn.data.replay import Replay
from robolearn.learners.rl.mixing import Mixing
from tests.agents.tiny import SPEC, episode, replay


def rows(count: int, reward: float) -> Replay:
    """`count` rows that all earned the same: by it they are known."""
    made = Replay(SPEC)
    while len(made) < count:
        made.add(episode(len(made), rows=min(8, count - len(made))))
    made.column("reward")[:] = reward
    return made


def mixing(old: int, new: int, turn: int = 1, seed: int = 0, **mix) -> Mixing:
    return Mixing(Mix(**mix), rows(old, -1.0), rows(new, 1.0), np.random.default_rng(seed), turn)


def new_share(of: Mixing, count: int = 64, draws: int = 1) -> list[int]:
    """New rows in each of some batches; and what `fresh` says is so."""
    shares = []
    for _ in range(draws):
        batch = of.draw(count, 2)
        assert batch.fresh is not None and batch.reward is not None and batch.action.shape == (count, 2, 2)
        assert torch.equal(batch.fresh, batch.reward[:, 0] > 0)
        shares.append(int(batch.fresh.sum()))
    return shares


def test_one_pool_has_as_much_new_as_there_is():
    shares = new_share(mixing(300, 100, mix="append"), 100, 100)
    assert np.mean(shares) == pytest.approx(25, abs=1.5) and len(set(shares)) > 5


@pytest.mark.parametrize(("offline", "expected"), [(0.5, 32), (0.25, 48), (0.0, 64), (1.0, 1)])
def test_a_balanced_batch_has_its_share_however_few_new_rows_there_are(offline, expected):
    for new in (1, 1000):
        assert new_share(mixing(500, new, mix="balanced", offline=offline)) == [expected]


def test_on_a_ramp_the_new_share_grows_until_there_are_so_many_new_rows():
    shares = [new_share(mixing(400, new, mix="balanced", ramp=400))[0] for new in (1, 100, 200, 400, 800)]
    assert shares == [1, 8, 16, 32, 32]  # never none: what was just flown is worth a look


def test_alternate_batches_are_all_old_or_all_new_and_take_turns():
    assert new_share(mixing(50, 50, mix="alternate"), 8, 6) == [0, 8, 0, 8, 0, 8]
    assert new_share(mixing(50, 50, turn=3, mix="alternate"), 8, 8) == [0, 0, 0, 8, 8, 8, 0, 0]


@pytest.mark.parametrize("mix", ["append", "balanced", "alternate"])
def test_a_part_that_is_empty_leaves_the_batch_to_the_other(mix):
    assert new_share(mixing(50, 0, mix=mix), 8, 2) == [0, 0]
    assert new_share(mixing(0, 50, mix=mix), 8, 2) == [8, 8]


@pytest.mark.parametrize("mix", ["append", "balanced", "alternate"])
def test_old_rows_that_were_dropped_are_drawn_no_more(mix):
    made = mixing(50, 50, mix=mix)
    made.keeps_old = False
    assert new_share(made, 8, 3) == [8, 8, 8]


def test_with_nothing_recorded_nothing_can_be_drawn():
    with pytest.raises(ValueError):
        mixing(0, 0).draw(8, 1)


def test_a_seed_repeats_the_draws():
    one, same, other = (mixing(50, 50, seed=seed).draw(16, 1) for seed in (0, 0, 1))
    assert torch.equal(one.action, same.action) and not torch.equal(one.action, other.action)


def test_both_parts_bring_everything_along():
    made = Mixing(Mix(mix="balanced"), replay(4, history=2), replay(4, first=50, history=2), np.random.default_rng(0))
    batch = made.draw(10, 3)
    assert batch.obs.state.shape == (10, 2, 2) and batch.future is not None and batch.future.state.shape == (10, 3, 2)
    for name in ("reward", "terminal", "future_mask", "to_go", "source"):
        assert getattr(batch, name).shape == (10, 3), name
    assert batch.fresh is not None and batch.fresh.tolist() == [False] * 5 + [True] * 5
