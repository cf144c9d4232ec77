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
