import copy

import pytest
import torch
from torch import nn

from robolearn.models.packed import FEW, LARGE, _Conv2d, _Linear, pack
from robolearn.models.precision import halve

LAYERS = {
    "large": (lambda: nn.Linear(512, LARGE // 512), (3, 2, 512)),
    "small": (lambda: nn.Linear(8, 4), (3, 8)),
    "without bias": (lambda: nn.Linear(1024, 512, bias=False), (5, 1024)),
    "convolution": (lambda: nn.Conv2d(3, 16, 3, stride=2, padding=1), (2, 3, 9, 9)),
    "in groups": (lambda: nn.Conv2d(8, 8, 3, groups=4, dilation=2, bias=False), (1, 8, 11, 7)),
    "one picture": (lambda: nn.Conv2d(3, 8, 1), (3, 6, 6)),
}


@pytest.fixture(params=LAYERS)
def layer(request) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """A plain layer, a packed copy and what both are asked."""
    torch.manual_seed(0)
    make, shape = LAYERS[request.param]
    plain = make()
    packed = copy.deepcopy(plain)
    pack(packed)
    return plain, packed, torch.randn(shape)


@torch.no_grad()
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_answers_as_before(layer, precision):
    plain, packed, x = layer
    half = precision == "bfloat16"
    if half:
        halve(plain)
        halve(packed)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        wanted, found = plain(x), packed(x)
        assert found.shape == wanted.shape and found.dtype == wanted.dtype
        assert torch.allclose(found.float(), wanted.float(), atol=2e-2 if half else 1e-5)
        many = x.repeat(FEW + 1, *[1] * (x.ndim - 1)) if x.ndim != 3 or isinstance(plain, nn.Linear) else x
        assert torch.allclose(packed(many).float(), plain(many).float(), atol=2e-2 if half else 1e-5)


def test_training_and_the_state_are_what_they_were(layer):
    plain, packed, x = layer
    with torch.no_grad():
        packed(x)
    assert packed.state_dict().keys() == plain.state_dict().keys()
    for module in (plain, packed):
        module(x).square().sum().backward()
    assert torch.allclose(packed.weight.grad, plain.weight.grad, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("change", ["in place", "loaded", "replaced"])
def test_weights_that_change_are_laid_out_again(layer, change):
    plain, packed, x = layer
    packed(x)
    for module in (plain, packed):
        if change == "in place":
            module.weight.add_(1.0)
        elif change == "loaded":
            module.load_state_dict({name: value + 1 for name, value in module.state_dict().items()})
        else:
            module.weight = nn.Parameter(module.weight + 1)
    assert torch.allclose(packed(x), plain(x), atol=1e-4)


@torch.no_grad()
def test_a_copy_goes_its_own_way(layer):
    plain, packed, x = layer
    before = packed(x)
    copied = copy.deepcopy(packed)
    copied.weight.add_(1.0)
    plain.weight.add_(1.0)
    assert torch.equal(packed(x), before) and torch.allclose(copied(x), plain(x), atol=1e-4)


@torch.no_grad()
def test_under_autocast_weights_that_were_not_halved_are_cast_as_ever(layer):
    plain, packed, x = layer
    packed(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(packed(x), plain(x))


def test_layers_with_owners_are_left_alone():
    attention = nn.MultiheadAttention(8, 2)
    reflected = nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect")
    net = nn.ModuleList([attention, reflected, nn.Linear(4, 4), nn.Conv2d(3, 4, 3)])
    pack(net)
    assert not isinstance(attention.out_proj, _Linear) and not isinstance(reflected, _Conv2d)
    assert isinstance(net[2], _Linear) and isinstance(net[3], _Conv2d)


def test_without_onednn_nothing_changes(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    layer = nn.Linear(4, 4)
    pack(layer)
    assert type(layer) is nn.Linear
