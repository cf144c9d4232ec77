import numpy as np
import pytest

from robolearn.runtime.chunk import ChunkRunner


class Plan:
    def __init__(self, horizon=6):
        self.calls, self.horizon = 0, horizon

    def __call__(self):
        self.calls += 1
        return np.arange(self.horizon, dtype=np.float32)[:, None] + 100 * self.calls


@pytest.mark.parametrize(
    ("execute", "expected"), [(1, [100, 200, 300, 400]), (3, [100, 101, 102, 200, 201, 202, 300]), (6, [100, 101, 102, 103, 104, 105, 200])]
)
def test_the_first_actions_of_each_chunk_are_handed_out_in_order(execute, expected):
    runner, plan = ChunkRunner(execute), Plan()
    assert [float(runner.next(plan)[0]) for _ in expected] == expected
    assert plan.calls == -(-len(expected) // execute)


def test_a_new_episode_never_begins_with_an_old_plan():
    runner, plan = ChunkRunner(4), Plan()
    runner.next(plan), runner.next(plan)
    assert runner.position == 1
    runner.reset()
    assert runner.next(plan)[0] == 200 and runner.position == 0


def test_a_plan_that_fails_leaves_no_half_chunk():
    runner, plan = ChunkRunner(2), Plan()
    runner.next(plan), runner.next(plan)
    with pytest.raises(ZeroDivisionError):
        runner.next(lambda: 1 // 0)
    assert runner.next(plan)[0] == 200


def test_what_cannot_be_executed_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        ChunkRunner(0)
    with pytest.raises(ValueError, match=r"\(6, 1\).*at least 8"):
        ChunkRunner(8).next(Plan())
