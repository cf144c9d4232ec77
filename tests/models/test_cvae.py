import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from robolearn.models.cvae import Cvae


def build(modes: int = 4) -> Cvae:
    torch.manual_seed(0)
    return Cvae(dim=2, cond_dim=1, latent=3, hidden=(32,), modes=modes)


def test_the_divergence_is_that_of_the_posterior_from_the_mixture():
    """Its mean over many samples against torch's own densities; with one mode against the closed form."""
    x, cond = torch.randn(1, 2, generator=torch.Generator().manual_seed(1)), torch.zeros(1, 1)
    noise = torch.randn(20000, 3, generator=torch.Generator().manual_seed(2))
    for modes in (1, 4):
        cvae = build(modes).eval()
        with torch.no_grad():
            _, divergence = cvae(x.expand(20000, -1), cond.expand(20000, -1), noise)
            mean, log_std = cvae._gaussian(cvae.posterior(torch.cat([x, cond], 1)))
            weights, means, log_stds = cvae._mixture(cond)
            posterior = Independent(Normal(mean, log_std.exp()), 1)
            prior = MixtureSameFamily(Categorical(logits=weights), Independent(Normal(means, log_stds.exp()), 1))
            z = mean + log_std.exp() * noise
        assert torch.allclose(divergence, posterior.log_prob(z) - prior.log_prob(z), atol=1e-4)
        if modes == 1:
            exact = kl_divergence(posterior, Independent(Normal(means[:, 0], log_stds[:, 0].exp()), 1))
            assert float(divergence.mean()) == pytest.approx(float(exact), abs=0.03)


def test_what_is_drawn_goes_one_of_two_ways_and_never_between():
    """The condition says how far, a coin says which way."""
    cvae, generator = build(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(cvae.parameters(), 3e-3)
    for _ in range(300):
        cond = torch.rand(64, 1, generator=generator) + 0.5
        way = torch.where(torch.rand(64, 1, generator=generator) < 0.5, 1.0, -1.0)
        x = way * cond * torch.tensor([1.0, 0.0])
        decoded, divergence = cvae(x, cond, torch.randn(64, 3, generator=generator))
        optimizer.zero_grad()
        ((decoded - x).square().mean() + 1e-3 * divergence.mean()).backward()
        optimizer.step()
    far, near = cvae.sample(torch.tensor([[1.5], [0.5]]), 200, generator).detach()[..., 0]
    for samples, distance in ((far, 1.5), (near, 0.5)):
        assert ((samples.abs() - distance).abs() < 0.25).float().mean() > 0.9
        assert 0.25 < (samples > 0).float().mean() < 0.75
