import pytest
import torch

from robolearn.models.dit1d import Dit1d, Transformer1d
from robolearn.models.unet1d import UNet1d


def _dit(**options) -> Dit1d:
    return Dit1d(3, 10, horizon=8, width=16, layers=2, heads=2, embedding=16, **options)


def _transformer(**options) -> Transformer1d:
    return Transformer1d(3, 5, history=2, horizon=8, width=16, layers=2, heads=2, embedding=16, **options)


def _unet(**options) -> UNet1d:
    return UNet1d(3, 10, widths=(8, 16), embedding=16, **options)


def _awake(net):
    """adaLN-zero begins as nothing: a few updates make every weight count."""
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        optimizer.zero_grad()
        x = torch.randn(6, 8, 3, generator=generator)
        known = torch.arange(8).expand(6, -1) < 3
        net(x, torch.arange(6), torch.randn(6, 2, 5, generator=generator), known).sub(x.flip(1)).square().mean().backward()
        optimizer.step()
    return net


@pytest.fixture(params=[_dit, _transformer, _unet], ids=["dit", "transformer", "unet"])
def kind(request):
    torch.manual_seed(0)
    return request.param


def test_it_keeps_the_shape_and_depends_on_all_it_is_given(kind):
    net = _awake(kind()).eval()
    x, step, cond = torch.randn(2, 8, 3), torch.tensor([3, 50]), torch.randn(2, 2, 5)
    out = net(x, step, cond)
    assert out.shape == x.shape
    assert not torch.allclose(out, net(x, step + 9, cond)) and not torch.allclose(out, net(x, step, cond + 1))
    assert torch.allclose(out[:1], net(x[:1], step[:1], cond[:1]), atol=1e-5), "rows must not see each other"


def test_what_is_computed_once_per_chunk_gives_the_same(kind):
    net = _awake(kind(prefix=True)).eval()
    x, cond, known = torch.randn(3, 8, 3), torch.randn(3, 2, 5), torch.arange(8).expand(3, -1) < 2
    level, context = net.levels(torch.tensor([7, 90])), net.context(cond)
    for told in (None, known):
        together = net(x, torch.full((3,), 90), cond, told)
        assert torch.allclose(net.denoise(x, level[1:], context, told), together, atol=1e-5)


def test_known_actions_are_told_from_noisy_ones(kind):
    net = _awake(kind(prefix=True)).eval()
    x, step, cond = torch.randn(2, 8, 3), torch.tensor([3, 50]), torch.randn(2, 2, 5)
    known = torch.arange(8).expand(2, -1) < 2
    assert not torch.allclose(net(x, step, cond, known)[:, 2:], net(x, step, cond)[:, 2:])
    assert torch.allclose(net(x, step, cond, torch.zeros_like(known)), net(x, step, cond), atol=1e-6)


def test_without_a_prefix_the_network_has_no_place_for_one(kind):
    sizes = [sum(p.numel() for p in kind(prefix=prefix).parameters()) for prefix in (False, True)]
    assert sizes[0] < sizes[1]


def test_every_parameter_learns(kind):
    net = _awake(kind(prefix=True))
    known = torch.arange(8).expand(4, -1) < 2
    net.zero_grad()
    net(torch.randn(4, 8, 3), torch.arange(4), torch.randn(4, 2, 5), known).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_dit_begins_as_nothing():
    assert not _dit()(torch.randn(2, 8, 3), torch.arange(2), torch.randn(2, 10)).any()


def test_only_a_causal_transformer_hides_the_future():
    torch.manual_seed(0)
    x, step, cond = torch.randn(1, 8, 3, requires_grad=True), torch.tensor([1]), torch.randn(1, 2, 5)
    for causal in (True, False):
        (gradient,) = torch.autograd.grad(_transformer(causal=causal)(x, step, cond)[0, 3].sum(), x)
        assert (gradient[0, :4].abs().sum(-1) > 0).all()
        assert bool(gradient[0, 4:].any()) is not causal
