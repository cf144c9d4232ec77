import torch

from robolearn.models.returns import Returns


def test_it_remembers_the_largest_the_best_and_the_longest():
    returns = Returns()
    to_go, step = torch.tensor([[3.0, 2.0], [-8.0, 1.0]]), torch.tensor([[0, 1], [4, 5]])
    returns.watch(to_go, step, torch.ones(2, 2) > 0)
    assert (returns.scale, returns.best, returns.longest) == (8.0, 3.0, 5)
    returns.watch(torch.tensor([[9.0, -9.0]]), torch.tensor([[0, 9]]), torch.zeros(1, 2) > 0)
    returns.watch(torch.tensor([[2.0]]), torch.tensor([[0]]), torch.ones(1, 1) > 0)
    assert (returns.scale, returns.best, returns.longest) == (8.0, 3.0, 5), "rows that do not count, and smaller ones"
    assert torch.equal(returns.normalize(to_go), to_go / 8)


def test_where_nothing_was_earned_returns_stay_as_they_are():
    returns = Returns()
    returns.watch(torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1) > 0)
    assert torch.equal(returns.normalize(torch.tensor([[0.0, 2.0]])), torch.tensor([[0.0, 2.0]]))
    assert returns.best == 0.0
