import torch

from robolearn.models.trajectory_transformer import CausalTrajectory, MaskedTrajectory, TrajectoryTransformer


def test_a_token_sees_those_it_may_see_and_itself():
    torch.manual_seed(0)
    net, x = TrajectoryTransformer(16, 2, 2), torch.randn(1, 3, 16)
    seen = torch.tensor([[[False, False, False], [True, False, False], [False, True, False]]])
    before = net(x, seen)
    assert torch.isfinite(before).all(), "one that sees nothing sees itself"
    changed = x.clone()
    changed[:, 0] += 1
    after = net(changed, seen)
    assert not torch.equal(after[:, 0], before[:, 0]) and not torch.equal(after[:, 1], before[:, 1])
    assert not torch.equal(after[:, 2], before[:, 2]), "through the token in between"
    assert torch.equal(net(changed, torch.zeros_like(seen))[:, 1:], net(x, torch.zeros_like(seen))[:, 1:])


def causal():
    torch.manual_seed(0)
    net = CausalTrajectory(row_dim=2, action_dim=1, width=16, layers=2, heads=1, dropout=0.0, steps=10)
    inputs = {
        "to_go": torch.randn(1, 4),
        "row": torch.randn(1, 4, 2),
        "action": torch.randn(1, 4, 1),
        "step": torch.arange(4)[None],
        "real": torch.ones(1, 4) > 0,
    }
    return net, inputs


def test_an_action_is_seen_from_the_next_step_on_and_the_rest_from_its_own():
    net, inputs = causal()
    before = net(**inputs)
    for name, first in (("to_go", 2), ("row", 2), ("action", 3)):
        changed = inputs[name].clone()
        changed[:, 2] += 1
        after = net(**inputs | {name: changed})
        assert torch.allclose(after[:, :first], before[:, :first], atol=1e-6)
        assert not torch.allclose(after[:, first], before[:, first], atol=1e-3)


def test_steps_that_are_not_real_are_seen_by_nobody():
    net, inputs = causal()
    real = torch.tensor([[False, True, True, True]])
    before = net(**inputs | {"real": real})
    for name in ("to_go", "row", "action"):
        changed = inputs[name].clone()
        changed[:, 0] += 1
        assert torch.allclose(net(**inputs | {"real": real, name: changed})[:, 1:], before[:, 1:], atol=1e-6)


def masked():
    torch.manual_seed(0)
    net = MaskedTrajectory(dims=[3, 1], steps=4, width=16, layers=1, decoder_layers=1, heads=2, dropout=0.0)
    parts = [torch.randn(2, 4, 3), torch.randn(2, 4, 1)]
    return net, parts, torch.rand(2, 4, 2) < 0.5, torch.ones(2, 4, 2) > 0


def test_what_is_hidden_has_no_say_in_what_is_completed():
    net, parts, visible, exists = masked()
    before = net(parts, visible, exists)
    assert [tuple(part.shape) for part in before] == [(2, 4, 3), (2, 4, 1)]
    other = [torch.where(visible[:, :, k, None], part, torch.randn_like(part)) for k, part in enumerate(parts)]
    for one, two in zip(before, net(other, visible, exists), strict=True):
        assert torch.allclose(one, two, atol=1e-6)
    shown = net(other, visible | True, exists)
    assert not torch.allclose(before[0], shown[0], atol=1e-3)


def test_nothing_visible_is_still_an_answer():
    net, parts, visible, exists = masked()
    assert all(torch.isfinite(part).all() for part in net(parts, visible & False, exists))


def test_tokens_that_are_not_there_change_nothing_for_the_others():
    net, parts, visible, exists = masked()
    exists = exists.clone()
    exists[:, 3, 1] = False
    visible = visible & exists
    before = net(parts, visible, exists)
    with torch.no_grad():
        net.places[1][3, 1] += 1.0
    after = net(parts, visible, exists)
    assert torch.allclose(before[0], after[0], atol=1e-6) and torch.allclose(before[1][:, :3], after[1][:, :3], atol=1e-6)
