import torch
from torch import nn

from robolearn.models.ema import ema
from robolearn.models.normalizer import Normalizer


def test_the_average_follows_the_warm_up_formula():
    module = nn.Linear(1, 1, bias=False)
    average = ema(module, power=0.75)
    expected = None
    for n in range(5):
        with torch.no_grad():
            module.weight.fill_(float(n))
        average.update_parameters(module)
        decay = 1 - (1 + n) ** -0.75
        expected = float(n) if expected is None else decay * expected + (1 - decay) * n
    assert abs(average.module.weight.item() - expected) < 1e-6


def test_buffers_are_copied_and_nothing_of_it_is_trained():
    module = nn.Sequential(nn.Linear(2, 2), Normalizer(2))
    average = ema(module)
    average.update_parameters(module)
    module[1].fit(torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
    average.update_parameters(module)
    assert torch.equal(average.module[1].offset, module[1].offset) and bool(average.module[1].fitted)
    assert not any(p.requires_grad for p in average.parameters()) and not average.module.training


def test_what_is_not_trained_is_copied_once_and_not_averaged():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[0].requires_grad_(False)
    average = ema(module)
    with torch.no_grad():
        module[0].weight.fill_(3.0)  # loaded after the copy was made
    average.update_parameters(module)
    assert torch.equal(average.module[0].weight, module[0].weight)
    with torch.no_grad():
        module[0].weight.fill_(5.0)
        module[1].weight.fill_(5.0)
    average.update_parameters(module)
    assert average.module[0].weight.eq(3.0).all() and average.module[1].weight.ne(5.0).all()


def test_a_loaded_average_goes_on():
    def train(average, module, numbers):
        for n in numbers:
            with torch.no_grad():
                module.weight.fill_(float(n))
            average.update_parameters(module)

    module = nn.Linear(1, 1, bias=False)
    straight, first = ema(module), ema(module)
    train(straight, module, range(6))
    train(first, module, range(3))
    second = ema(nn.Linear(1, 1, bias=False))
    second.load_state_dict(first.state_dict())
    train(second, module, range(3, 6))
    assert torch.equal(second.module.weight, straight.module.weight) and int(second.n_averaged) == 6
