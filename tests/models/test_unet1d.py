import pytest
import torch

from robolearn.models.unet1d import UNet1d, _Conv


@pytest.fixture
def net() -> UNet1d:
    torch.manual_seed(0)
    return UNet1d(3, 5, widths=(8, 16, 16), embedding=16)


def test_the_convolution_is_torchs():
    conv = _Conv(4, 6, 3)
    reference = torch.nn.Conv1d(4, 6, 3, padding=1)
    with torch.no_grad():
        reference.weight.copy_(conv.linear.weight.view(6, 3, 4).transpose(1, 2))
        reference.bias.copy_(conv.linear.bias)
    x = torch.randn(2, 10, 4)
    assert torch.allclose(conv(x), reference(x.transpose(1, 2)).transpose(1, 2), atol=1e-5)


def test_it_keeps_the_shape_and_depends_on_all_it_is_given(net):
    x, step, cond = torch.randn(2, 12, 3), torch.tensor([3, 50]), torch.randn(2, 5)
    out = net(x, step, cond)
    assert out.shape == x.shape
    assert not torch.allclose(out, net(x, step + 9, cond)) and not torch.allclose(out, net(x, step, cond + 1))
    assert torch.allclose(out[:1], net(x[:1], step[:1], cond[:1]), atol=1e-5), "rows must not see each other"


def test_the_first_action_can_depend_on_the_last(net):
    x = torch.randn(1, 8, 3, requires_grad=True)
    net(x, torch.tensor([1]), torch.zeros(1, 5))[0, 0].sum().backward()
    assert x.grad is not None and x.grad[0, -1].abs().max() > 0


def test_every_parameter_learns(net):
    net(torch.randn(4, 8, 3), torch.arange(4), torch.randn(4, 5)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_a_horizon_it_cannot_halve_is_named(net):
    with pytest.raises(ValueError, match="horizon 6 steps is not divisible by 4"):
        net(torch.zeros(1, 6, 3), torch.zeros(1, dtype=torch.long), torch.zeros(1, 5))
