import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robolearn.runtime.chunk import ChunkRunner


class Plan:
    def __init__(self, horizon=6):
        self.calls, self.horizon, self.told = 0, horizon, []

    def __call__(self, decided):
        self.calls += 1
        self.told.append(decided[:, 0].tolist() if len(decided) else [])
        return np.arange(self.horizon, dtype=np.float32)[:, None] + 100 * self.calls


@pytest.mark.parametrize(
    ("execute", "expected"), [(1, [100, 200, 300, 400]), (3, [100, 101, 102, 200, 201, 202, 300]), (6, [100, 101, 102, 103, 104, 105, 200])]
)
def test_the_first_actions_of_each_chunk_are_handed_out_in_order(execute, expected):
    runner, plan = ChunkRunner(execute), Plan()
    assert [float(runner.next(plan)[0]) for _ in expected] == expected
    assert plan.calls == -(-len(expected) // execute)
    assert all(told == [] for told in plan.told)


@pytest.mark.parametrize("ensemble", [None, 0.1])
def test_a_new_episode_never_begins_with_an_old_plan(ensemble):
    runner, plan = ChunkRunner(4, ensemble=ensemble), Plan()
    runner.next(plan), runner.next(plan)
    assert runner.position == (1 if ensemble is None else 0)
    runner.reset()
    assert runner.next(plan)[0] == 100 * plan.calls and runner.position == 0


def test_a_plan_that_fails_leaves_no_half_chunk():
    runner, plan = ChunkRunner(2), Plan()
    runner.next(plan), runner.next(plan)
    with pytest.raises(ZeroDivisionError):
        runner.next(lambda decided: 1 // 0)
    assert runner.next(plan)[0] == 200


def test_with_a_prefix_the_next_plan_is_asked_for_early_and_what_was_decided_is_flown_first():
    runner, plan = ChunkRunner(3, ahead=2), Plan()
    flown, positions = [], []
    for _ in range(9):
        flown.append(float(runner.next(plan)[0]))
        positions.append(runner.position)
    assert flown == [100, 101, 102, 103, 104, 202, 203, 204, 302]
    assert positions == [0, 1, 2, 0, 1, 2, 0, 1, 2], "counted from the call that planned"
    assert plan.told == [[], [103, 104], [203, 204]]


@given(execute=st.integers(1, 5), ahead=st.integers(0, 4), spare=st.integers(0, 3), calls=st.integers(1, 40), cut=st.integers(0, 40))
def test_every_action_stands_where_its_plan_put_it(execute, ahead, spare, calls, cut):
    """Each plan says the time of every action: what is flown at time t was planned for t, by the newest plan that may speak about it."""
    runner, asked = ChunkRunner(execute, ahead), []
    for start in (0, cut):  # a reset anywhere in between
        runner.reset()
        asked.clear()
        for now in range(start, start + calls):

            def plan(decided, now=now):
                asked.append(now)
                assert [a[0] for a in decided] == list(range(now, now + len(decided)))
                assert len(decided) == (ahead if len(asked) > 1 else 0)
                times = np.arange(now, now + ahead + execute + spare, dtype=np.float32)
                return np.stack([times, np.full_like(times, now)], axis=1)

            time, planned_at = runner.next(plan)
            assert time == now
            answers = [begun for begun in asked if begun == start or begun + ahead <= now]
            assert planned_at == answers[-1]
        assert asked == list(range(start, start + calls, execute))


@given(
    rate=st.floats(-3, 3), horizon=st.integers(1, 8), episodes=st.lists(st.integers(0, 15), min_size=1, max_size=3), seed=st.integers(0, 99)
)
def test_ensembling_is_the_papers_formula(rate, horizon, episodes, seed):
    """sum_i w_i chunk_i[t] / sum_i w_i over all chunks that reach t, w_i = exp(-rate i), i = 0 the oldest (Zhao et al., section IV-B)."""
    rng = np.random.default_rng(seed)
    runner = ChunkRunner(1, ensemble=rate)
    for length in episodes:
        runner.reset()
        chunks = rng.normal(size=(length, horizon, 2)).astype(np.float32)
        for t in range(length):
            action = runner.next(lambda decided, chunk=chunks[t]: chunk)
            about_now = [chunks[begun, t - begun] for begun in range(max(0, t - horizon + 1), t + 1)]
            weights = [np.exp(-rate * i) for i in range(len(about_now))]
            wanted = sum(w * a.astype(np.float64) for w, a in zip(weights, about_now, strict=True)) / sum(weights)
            np.testing.assert_allclose(action, wanted, rtol=1e-5, atol=1e-6)
            assert action.dtype == np.float32 and runner.position == 0


def test_ensembling_counts_the_oldest_most():
    said = [[0.0, 10.0, 20.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    old, new = (ChunkRunner(1, ensemble=rate) for rate in (1.0, -1.0))
    for chunk in said:
        last = [float(r.next(lambda decided, c=chunk: np.array(c)[:, None])[0]) for r in (old, new)]
    assert last[0] == pytest.approx(20 / (1 + np.exp(-1) + np.exp(-2)))
    assert last[1] == pytest.approx(20 / (1 + np.exp(1) + np.exp(2)))


def test_weights_beyond_what_floats_hold_pick_one_answer():
    runner = ChunkRunner(1, ensemble=-5000.0)
    for value in (1.0, 2.0, 3.0):
        action = runner.next(lambda decided, v=value: np.full((4, 1), v))
    assert action == 3.0


def test_an_ensemble_survives_a_plan_that_fails():
    runner = ChunkRunner(1, ensemble=0.0)
    runner.next(lambda decided: np.array([[0.0], [4.0]]))
    with pytest.raises(ZeroDivisionError):
        runner.next(lambda decided: 1 // 0)
    assert runner.next(lambda decided: np.array([[2.0], [0.0]])) == 3.0


def test_what_cannot_be_executed_is_refused():
    with pytest.raises(ValueError, match="chunk: 0 actions.*at least 1"):
        ChunkRunner(0)
    with pytest.raises(ValueError, match="prefix: -1 actions; expected 0 or more"):
        ChunkRunner(1, -1)
    with pytest.raises(ValueError, match="ensemble: nan"):
        ChunkRunner(1, ensemble=float("nan"))
    with pytest.raises(ValueError, match="ensemble: 0.1 with a prefix of 2"):
        ChunkRunner(1, 2, 0.1)
    with pytest.raises(ValueError, match=r"\(6, 1\).*at least 8"):
        ChunkRunner(8).next(Plan())
    with pytest.raises(ValueError, match=r"\(6, 1\).*at least 8"):
        ChunkRunner(5, 3).next(Plan())
