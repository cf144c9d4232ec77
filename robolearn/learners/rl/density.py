"""How likely an action is under the data: a conditional variational autoencoder (Wu et al. 2022, SPOT)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robolearn.agents.actors import noise
from robolearn.models.ensemble import EnsembleMlp


class ActionDensity(nn.Module):
    """`elbo` bounds log p(a | z) from below, per action dimension and in SPOT's own units: squared error and half the divergence."""

    KL = 0.5  # weight of the prior

    def __init__(self, latent: int, action: int, width: int):
        super().__init__()
        self.codes = 2 * action
        self.encoder = EnsembleMlp(1, latent + action, width, 2 * self.codes)
        self.decoder = EnsembleMlp(1, latent + self.codes, width, action)

    def elbo(self, z: Float[Tensor, "N L"], action: Float[Tensor, "N A"], generator: torch.Generator) -> Float[Tensor, " N"]:
        mean, log_std = self.encoder.all(torch.cat([z, action], -1))[0].chunk(2, -1)
        log_std = log_std.clamp(-4, 4)
        code = mean + log_std.exp() * noise(mean.shape, generator, mean.device)
        rebuilt = self.decoder.all(torch.cat([z, code], -1))[0].tanh()
        kl = 0.5 * (mean.square() + (2 * log_std).exp() - 2 * log_std - 1).mean(-1)
        return -(rebuilt - action).square().mean(-1) - self.KL * kl
