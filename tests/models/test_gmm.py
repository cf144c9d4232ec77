import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from robolearn.models.gmm import GmmHead, PointHead, mean_error

HEAD = GmmHead(horizon=3, dim=2, modes=4)


@pytest.fixture
def out() -> torch.Tensor:
    return torch.randn(5, 6, HEAD.params, generator=torch.Generator().manual_seed(0))


def test_the_likelihood_is_torchs(out):
    chunk = torch.randn(5, 6, 3, 2, generator=torch.Generator().manual_seed(1))
    logits, mean, std = HEAD.mixture(out)
    reference = MixtureSameFamily(Categorical(logits=logits), Independent(Normal(mean, std), 2))
    assert torch.allclose(HEAD.error(out, chunk, torch.ones(5, 6, 3, dtype=torch.bool)), -reference.log_prob(chunk), atol=1e-5)


def test_actions_that_are_not_real_have_no_say(out):
    chunk = torch.rand(5, 6, 3, 2)
    real = torch.tensor([True, True, False]).expand(5, 6, 3)
    other = chunk.clone()
    other[..., 2, :] += 7
    for head in (HEAD, PointHead(3, 2, "l1")):
        given = out[..., : head.params]
        assert torch.equal(head.error(given, chunk, real), head.error(given, other, real))
        assert head.error(given, chunk, torch.zeros_like(real)).abs().max() < 1e-6


def test_means_and_deviations_are_robomimics(out):
    _, mean, std = HEAD.mixture(1e3 * out)
    assert mean.abs().max() == 1 and math.isclose(std.min().item(), 1e-4, rel_tol=1e-3)
    free = GmmHead(3, 2, 4, bounded=False).mixture(1e3 * out)[1]
    assert free.abs().max() > 100


def test_samples_are_the_components_by_their_probabilities():
    head = GmmHead(horizon=2, dim=1, modes=3)
    out = torch.zeros(1, head.params)
    out[0, :3] = torch.tensor([0.5, 0.2, 0.3]).log()
    out[0, 3:9] = torch.tensor([-0.8, -0.8, 0.0, 0.0, 0.8, 0.8]).atanh()
    chunks = head.draw(out, 4000, torch.Generator().manual_seed(0))[0, :, :, 0]
    assert (chunks[:, 0] - chunks[:, 1]).abs().max() < 1e-3, "a sample keeps to one plan"
    shares = torch.stack([(chunks[:, 0] - centre).abs() < 1e-3 for centre in (-0.8, 0.0, 0.8)]).float().mean(1)
    assert torch.allclose(shares, torch.tensor([0.5, 0.2, 0.3]), atol=0.03)


def test_bfloat16_outputs_are_judged_in_float32(out):
    chunk, real = torch.rand(5, 6, 3, 2), torch.ones(5, 6, 3, dtype=torch.bool)
    half = out.bfloat16()
    assert HEAD.error(half, chunk, real).dtype == torch.float32
    assert torch.equal(HEAD.error(half, chunk, real), HEAD.error(half.float(), chunk, real))


def test_the_mean_is_per_action_that_counts():
    head = PointHead(2, 1, "mse")
    out, chunk = torch.zeros(2, 2), torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]])
    counts = torch.tensor([[1.0, 1.0], [0.5, 0.0]])
    assert mean_error(head, out, chunk, counts).item() == pytest.approx((1 + 4 + 0.5 * 9) / 2.5)


def test_a_point_is_held_at_the_edge_only_where_there_is_one():
    generator = torch.Generator()
    assert PointHead(1, 2).draw(torch.tensor([[3.0, -0.5]]), 2, generator).tolist() == [[[[1.0, -0.5]]] * 2]
    assert PointHead(1, 2, bounded=False).draw(torch.tensor([[3.0, -0.5]]), 1, generator).tolist() == [[[[3.0, -0.5]]]]
