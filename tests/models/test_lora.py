import copy

import pytest
import torch
from torch import nn

from robolearn.models.lora import LoraConv2d, LoraLinear, adapt, merge


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.GroupNorm(2, 8),
        nn.Conv2d(8, 8, 3, groups=8, bias=False),
        nn.Conv2d(8, 4, 1, bias=False),
        nn.Flatten(),
        nn.Linear(4 * 3 * 3, 5),
    )


def learned(net: nn.Module) -> nn.Module:
    for name, p in net.named_parameters():
        if "lora" in name:
            nn.init.normal_(p, std=0.1)
    return net


def test_at_first_it_changes_nothing_and_only_the_sums_learn():
    plain, x = network(), torch.randn(2, 3, 10, 10)
    net = copy.deepcopy(plain)
    assert adapt(net, rank=2) == 3, "not the grouped convolution"
    assert torch.equal(net(x), plain(x))
    net(x).square().sum().backward()
    with_gradient = {name for name, p in net.named_parameters() if p.grad is not None}
    assert with_gradient == {f"{i}.lora_{part}" for i in (0, 3, 5) for part in ("down", "up")}
    assert sum(p.numel() for n, p in net.named_parameters() if n in with_gradient) == 2 * (27 + 8) + 2 * (8 + 4) + 2 * (36 + 5)


def test_a_plain_checkpoint_fills_it_under_the_same_names():
    net, other = network(), network()
    nn.init.ones_(other[5].weight)
    adapt(net, 2)
    missing, unexpected = net.load_state_dict(other.state_dict(), strict=False)
    assert not unexpected and all("lora_" in name for name in missing)
    assert torch.equal(net[5].weight, torch.ones(5, 36))


def test_it_learns_within_its_rank():
    torch.manual_seed(0)
    layer, target = nn.Linear(6, 6), torch.randn(6, 1) @ torch.randn(1, 6)
    net = nn.Sequential(layer)
    before = layer.weight.clone()
    adapt(net, rank=1)
    optimizer, x = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=0.05), torch.randn(64, 6)
    for _ in range(300):
        loss = (net(x) - x @ (before + target).T - layer.bias).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1e-4 and torch.equal(layer.weight, before)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_merged_it_is_plain_and_says_the_same(precision):
    net, x = network(), torch.randn(2, 3, 10, 10)
    adapt(net, 2)
    with torch.no_grad(), torch.autocast("cpu", precision, enabled=precision != torch.float32):
        expected = learned(net)(x)
        merge(net)
        assert torch.allclose(net(x), expected, atol=1e-5 if precision == torch.float32 else 0.05)
    assert not [m for m in net.modules() if isinstance(m, LoraLinear | LoraConv2d)]
    assert set(net.state_dict()) == set(network().state_dict())
