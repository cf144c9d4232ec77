import pytest
import torch

from robolearn.models.expectile_value import ExpectileValue


def build(expectile: float = 0.5, target_rate: float = 0.005) -> ExpectileValue:
    torch.manual_seed(0)
    return ExpectileValue(2, (16,), discount=0.9, expectile=expectile, target_rate=target_rate)


def constant(net: torch.nn.Sequential, value: float) -> None:
    with torch.no_grad():
        net[-1].weight.zero_()
        net[-1].bias.fill_(value)


def test_a_value_is_the_discounted_reward_and_what_comes_after():
    """A value of nothing, so that its error is all it should be; in units of the largest reward, 2, earned for ever."""
    value = build()
    value.scale.fill_(2.0)
    constant(value.net, 0.0)
    constant(value.target, 0.5)
    reward = torch.tensor([[0.0, 2, 0, 4], [2, 2, 9, 9], [2, 2, 9, 9], [4, 9, 9, 9], [1, 1, 1, 1]])
    there = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]]) > 0
    terminal = torch.zeros(5, 4) > 0
    terminal[1, 1] = True
    wanted = torch.tensor(
        [
            0.1 * (0.9 * 1 + 0.9**3 * 2) + 0.9**4 * 0.5,  # goes on: the value of where it got to
            0.1 * (1 + 0.9 * 1),  # ended by the task: nothing more
            0.1 * (1 + 0.9 * 1) + 0.9**2 * 1,  # cut off: its last reward for ever
            0.1 * 2 + 0.9 * 2,  # its last row
            0.5,  # the same reward for ever
        ]
    )
    errors = value.errors(torch.zeros(5, 5, 2), reward, terminal, there)
    assert torch.allclose((2 * errors).sqrt(), wanted, atol=1e-5)


@pytest.mark.parametrize("expectile", [0.5, 0.9])
def test_the_expectile_leans_towards_the_best_of_what_was_earned(expectile):
    """From the same place half of the episodes earn 1 for ever, the others nothing."""
    value = build(expectile)
    reward = (torch.arange(32) % 2).float().unsqueeze(1)
    last = torch.zeros(32, 1) > 0
    optimizer = torch.optim.Adam(value.net.parameters(), 1e-2)
    value.follow(reward)
    for _ in range(200):
        optimizer.zero_grad()
        value.errors(torch.zeros(32, 2, 2), reward, last, last).mean().backward()
        optimizer.step()
    assert value(torch.zeros(2)).item() == pytest.approx(expectile, abs=0.02)


def test_a_reward_travels_back_over_more_rows_than_one_look_spans():
    """A corridor of ten rooms, the last one pays once and ends it; each look spans two rooms."""
    value = build(target_rate=0.1)
    rooms = torch.stack([torch.linspace(-1, 1, 10), torch.ones(10)], dim=1)
    first, after = torch.arange(10), torch.arange(10)[:, None] + torch.arange(1, 3)
    rows = rooms[torch.cat([first[:, None], after], dim=1).clamp(max=9)]
    pays = torch.cat([first[:, None], after[:, :1]], dim=1) == 9
    optimizer = torch.optim.Adam(value.net.parameters(), 1e-2)
    for _ in range(500):
        value.follow(pays.float())
        optimizer.zero_grad()
        value.errors(rows, pays.float(), pays, after <= 9).mean().backward()
        optimizer.step()
    wanted = 0.1 * 0.9 ** torch.arange(9, -1, -1)
    assert torch.allclose(value(rooms), wanted, atol=0.02)


def test_the_target_follows_slowly_and_takes_no_gradient():
    value = build()
    assert not any(p.requires_grad for p in value.target.parameters())
    weight = value.target[0].weight.clone()
    with torch.no_grad():
        value.net[0].weight.add_(1.0)
    value.follow(torch.tensor([[-3.0, 1.0]]))
    assert torch.allclose(value.target[0].weight, weight + 0.005, atol=1e-6) and value.scale == 3.0
    value.follow(torch.tensor([[2.0, 1.0]]))
    assert value.scale == 3.0


def test_without_rewards_there_is_no_value():
    value = build()
    constant(value.net, 0.0)
    constant(value.target, 0.0)
    last = torch.zeros(3, 2) > 0
    assert torch.equal(value.errors(torch.zeros(3, 3, 2), torch.zeros(3, 2), last, last), torch.zeros(3))


def test_judged_by_validation_what_comes_after_is_the_values_own():
    """The averaged copy that is validated has a target as it stood when training began."""
    value, rows = build(), torch.randn(4, 3, 2)
    reward, there = torch.zeros(4, 2), torch.ones(4, 2, dtype=torch.bool)
    constant(value.target, 5.0)
    constant(value.net, 0.0)
    assert value.train().errors(rows, reward, ~there, there).min() > 1
    assert value.eval().errors(rows, reward, ~there, there).max() == 0
