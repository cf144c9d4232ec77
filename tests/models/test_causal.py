import torch

from robolearn.models.causal import CausalTransformer


def net(dropout: float = 0.0) -> CausalTransformer:
    torch.manual_seed(0)
    return CausalTransformer(3, 5, context=6, width=16, layers=2, heads=4, dropout=dropout)


def test_it_looks_back_only():
    x = torch.randn(2, 6, 3, requires_grad=True)
    net()(x)[0, 3].sum().backward()
    assert x.grad is not None
    assert (x.grad[0, :4].abs().sum(1) > 0).all() and not x.grad[0, 4:].any() and not x.grad[1].any()


def test_it_knows_where_a_step_stands():
    model = net()
    with torch.no_grad():
        assert torch.allclose(model(torch.ones(1, 6, 3))[0, 1], model(torch.ones(1, 6, 3))[0, 4], atol=1e-6), "positions start at 0"
        torch.nn.init.normal_(model.position)
        assert not torch.allclose(model(torch.ones(1, 6, 3))[0, 1], model(torch.ones(1, 6, 3))[0, 4], atol=1e-3)


def test_every_parameter_learns_and_no_two_blocks_are_alike():
    model = net(dropout=0.1).train()
    model(torch.randn(4, 6, 3)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert not torch.equal(model.blocks[0].qkv.weight, model.blocks[1].qkv.weight)


def test_it_drops_out_in_training_only():
    model, x = net(dropout=0.5), torch.randn(1, 6, 3)
    assert torch.equal(model.eval()(x), model(x))
    assert not torch.equal(model.train()(x), model(x))
