"""A conditional variational autoencoder of vectors, with a learned prior of several modes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robolearn.models.mlp import mlp


class Cvae(nn.Module):
    """x (B, D) given a condition (B, C), through a latent of L dimensions (Kingma and Welling, 2014; Sohn et al., 2015).

    The prior is a mixture of `modes` Gaussians that knows the condition: with a small weight on the divergence, as prediction needs it,
    latents drift away from a fixed normal, and what is drawn from that would be decoded into nothing that ever was.
    """

    def __init__(self, dim: int, cond_dim: int, latent: int, hidden: Sequence[int], modes: int):
        super().__init__()
        self.latent, self.modes = latent, modes
        self.posterior = mlp([dim + cond_dim, *hidden, 2 * latent])
        self.prior = mlp([cond_dim, *hidden, modes * (1 + 2 * latent)])
        self.decoder = mlp([latent + cond_dim, *hidden, dim])

    def forward(
        self, x: Float[Tensor, "B D"], cond: Float[Tensor, "B C"], noise: Float[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, " B"]]:
        """(what is decoded of x, the divergence of its latent from the prior [nat], by the one sample that `noise` makes)."""
        mean, log_std = self._gaussian(self.posterior(torch.cat([x, cond], dim=-1)).float())
        z = mean + log_std.exp() * noise
        weights, means, log_stds = self._mixture(cond)
        prior = torch.logsumexp(weights + _log_density(z.unsqueeze(1), means, log_stds), dim=1)
        return self.decode(z, cond), _log_density(z, mean, log_std) - prior

    def decode(self, z: Float[Tensor, "*B L"], cond: Float[Tensor, "*B C"]) -> Float[Tensor, "*B D"]:
        return self.decoder(torch.cat([z, cond], dim=-1)).float()

    def sample(self, cond: Float[Tensor, "B C"], n: int, generator: torch.Generator) -> Float[Tensor, "B n D"]:
        weights, means, log_stds = self._mixture(cond)
        mode = torch.multinomial(weights.exp().cpu(), n, True, generator=generator).to(cond.device)
        index = mode.unsqueeze(-1).expand(-1, -1, self.latent)
        noise = torch.randn(index.shape, generator=generator).to(cond.device)
        z = means.gather(1, index) + log_stds.gather(1, index).exp() * noise
        return self.decode(z, cond.unsqueeze(1).expand(-1, n, -1))

    def _mixture(self, cond: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights (B, M), means and log deviations (B, M, L)."""
        weights, gaussians = self.prior(cond).float().split([self.modes, self.modes * 2 * self.latent], dim=-1)
        return weights.log_softmax(-1), *self._gaussian(gaussians.unflatten(-1, (self.modes, -1)))

    def _gaussian(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = parameters.chunk(2, dim=-1)
        return mean, 5 * torch.tanh(log_std / 5)  # neither a spike nor a plain


def _log_density(z: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    return (-0.5 * ((z - mean) / log_std.exp()).square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)
