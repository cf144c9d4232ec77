import math

import pytest
import torch
from torch.nn import functional as F

from robolearn.core.errors import UserError
from robolearn.models.ensemble import EnsembleMlp
from robolearn.planning.calibration import calibrate, scale_free
from robolearn.planning.uncertainty import MEASURES, residual_std

names = pytest.mark.parametrize("name", MEASURES)
DISAGREEMENT = [name for name in MEASURES if name not in ("max_aleatoric", "mixture_std")]  # the others count the heads' own noise, too


def answers(heads=4, rows=6, dim=3):
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(heads, rows, dim, generator=generator)
    return mean, 0.1 + torch.rand(heads, rows, dim, generator=generator)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("max_aleatoric", math.sqrt(13)),  # |(2, 3)|, not |(1, 1)|
        ("ensemble_variance", (2.0 + 8.0) / 2),  # of (0, 2) and of (0, 4), n - 1 below
        ("ensemble_std", math.sqrt(5)),
        ("mixture_std", math.sqrt(((1 + 2.5) + (4 + 5)) / 2)),  # variances 1 and 4, n below; mean squares of (1, 2) and (1, 3)
        ("max_pairwise_difference", math.sqrt(20)),
        # Two heads: the other is the rest. log(s'/s) + (s^2 + d^2) / (2 s'^2) - 1/2, where the logarithms cancel over both heads.
        ("leave_one_out_kl", ((1 + 4) / 8 + (1 + 16) / 18 + (4 + 4) / 2 + (9 + 16) / 2 - 4 * 0.5) / 2),
    ],
)
def test_two_heads_by_hand(name, expected):
    mean = torch.tensor([[[0.0, 0.0]], [[2.0, 4.0]]])
    std = torch.tensor([[[1.0, 1.0]], [[2.0, 3.0]]])
    torch.testing.assert_close(MEASURES[name](mean, std), torch.tensor([expected]))


def test_the_left_out_head_is_held_against_the_others_merged_into_one_gaussian():
    mean, std = (x.double() for x in answers(heads=5, rows=1, dim=2))
    expected = 0.0
    for k in range(5):
        others = [j for j in range(5) if j != k]
        merged = torch.stack([std[j].square() + mean[j].square() for j in others]).mean(0) - mean[others].mean(0).square()
        rest = torch.distributions.Normal(mean[others].mean(0), merged.sqrt())
        expected += torch.distributions.kl_divergence(torch.distributions.Normal(mean[k], std[k]), rest).sum(-1) / 5
    torch.testing.assert_close(MEASURES["leave_one_out_kl"](mean, std), expected)


def test_the_largest_difference_is_found_between_any_two_heads():
    mean = torch.tensor([[[0.0]], [[-3.0]], [[1.0]], [[2.0]]])
    assert MEASURES["max_pairwise_difference"](mean, torch.ones(1, 1, 1)).item() == 5.0


@pytest.mark.parametrize("name", DISAGREEMENT)
def test_equal_heads_are_sure(name):
    mean, std = answers()
    got = MEASURES[name](mean[:1].expand(4, -1, -1), std[:1])
    torch.testing.assert_close(got, torch.zeros(6), atol=1e-6, rtol=0)


def test_equal_heads_still_know_their_noise():
    mean, std = answers()
    mean, std = mean[:1].expand(4, -1, -1), std[:1].expand(4, -1, -1)
    torch.testing.assert_close(MEASURES["max_aleatoric"](mean, std), std[0].norm(dim=-1))
    torch.testing.assert_close(MEASURES["mixture_std"](mean, std), std[0].square().mean(-1).sqrt())


@names
def test_the_order_of_heads_and_a_common_shift_mean_nothing(name):
    mean, std = answers()
    order = torch.tensor([2, 0, 3, 1])
    got = MEASURES[name](mean, std)
    assert got.shape == (6,) and (got > 0).all()
    torch.testing.assert_close(MEASURES[name](mean[order], std[order]), got)
    torch.testing.assert_close(MEASURES[name](mean + torch.tensor([5.0, -3.0, 1.0]), std), got, rtol=1e-4, atol=1e-5)


@names
@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_over_its_median_a_measure_has_no_scale(name, factor):
    mean, std = answers()
    one, other = MEASURES[name](mean, std), MEASURES[name](factor * mean, factor * std)
    torch.testing.assert_close(scale_free(other, other), scale_free(one, one), rtol=1e-4, atol=1e-5)
    power = {"ensemble_variance": 2, "leave_one_out_kl": 0}.get(name, 1)
    torch.testing.assert_close(other, factor**power * one, rtol=1e-4, atol=1e-8)


@names
def test_a_shared_deviation_stands_for_every_head_and_row(name):
    mean, _ = answers()
    shared = torch.tensor([[[0.1, 0.2, 0.3]]])
    torch.testing.assert_close(MEASURES[name](mean, shared), MEASURES[name](mean, shared.expand(4, 6, 3)))


@names
def test_what_is_not_finite_is_never_sure(name):
    mean, std = answers()
    mean[1, 2], std[1, 2] = torch.nan, torch.nan
    got = MEASURES[name](mean, std)
    assert got.isnan().tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("name", DISAGREEMENT)
def test_one_head_cannot_disagree(name):
    mean, std = answers(heads=1)
    with pytest.raises(UserError, match="heads: 1; they disagree only where there are 2 or more"):
        MEASURES[name](mean, std)


def test_the_shared_deviation_is_the_heads_error_per_dimension():
    mean = torch.tensor([[[1.0, 0.0], [3.0, 0.0]], [[-1.0, 0.0], [1.0, 2.0]]])
    target = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    torch.testing.assert_close(residual_std(mean, target), torch.tensor([[[1.0, 1.0]]]))


def truth(x):
    return torch.stack([torch.sin(2 * x[:, 0]) + 0.5 * x[:, 1], x[:, 0] * x[:, 1]], -1)


@pytest.fixture(scope="module")
def trained():
    """Five heads with a mean and a deviation each, trained on the square [-1, 1]^2 and asked about [-3, 3]^2."""
    torch.manual_seed(0)
    x = 2 * torch.rand(256, 2) - 1
    y = truth(x) + 0.02 * torch.randn(256, 2)
    heads = EnsembleMlp(5, 2, 32, 4)
    optimizer = torch.optim.Adam(heads.parameters(), 3e-3)
    for _ in range(300):
        rows = torch.randint(256, (5, 64))
        mean, raw = heads(x[rows]).chunk(2, -1)
        loss = 5 * F.gaussian_nll_loss(mean, y[rows], F.softplus(raw).square() + 1e-6)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        near, far = 2 * torch.rand(256, 2) - 1, 6 * torch.rand(500, 2) - 3
        shared = residual_std(heads.all(near).chunk(2, -1)[0], truth(near))
        mean, raw = heads.all(far).chunk(2, -1)
        return mean, F.softplus(raw) + 1e-3, shared, (mean.mean(0) - truth(far)).norm(dim=-1), far.abs().amax(-1) < 1


@pytest.mark.parametrize(
    ("name", "own"), [*((name, False) for name in MEASURES if name != "max_aleatoric"), ("max_aleatoric", True), ("mixture_std", True)]
)
def test_every_measure_knows_where_the_model_errs_far_from_its_data(trained, name, own):
    mean, std, shared, error, known = trained
    assert error[~known].mean() > 5 * error[known].mean()
    measure = MEASURES[name](mean, std if own else shared)
    assert calibrate(measure, error).rho > 0.5
    assert measure[~known].median() > 1.5 * measure[known].median()


def test_a_shared_deviation_leaves_the_aleatoric_measure_without_an_order(trained):
    mean, _, shared, error, _ = trained
    assert math.isnan(calibrate(MEASURES["max_aleatoric"](mean, shared), error).rho)
