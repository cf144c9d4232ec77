"""How bold to be, state by state (Wang et al. 2023, FamO2O)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robolearn.models.ensemble import EnsembleMlp
from robolearn.models.waves import waves


class BetaPicker(nn.Module):
    """A family of policies is told its beta; this picks the member: the beta whose action the critics like best."""

    WAVES = 4

    def __init__(self, betas: tuple[float, float], latent: int, width: int):
        super().__init__()
        self.low, self.high = betas
        self.told = 2 * self.WAVES
        self.net = EnsembleMlp(1, latent, width, 1, zero_last=True)

    def forward(self, z: Float[Tensor, "N L"]) -> Float[Tensor, " N"]:
        return self.low + (self.high - self.low) * self.net.all(z)[0, :, 0].sigmoid()

    def draw(self, rows: int, generator: torch.Generator, device: torch.device) -> Float[Tensor, " N"]:
        """Betas to train the family with, all alike likely."""
        return self.low + (self.high - self.low) * torch.rand(rows, generator=generator).to(device)

    def beside(self, z: Float[Tensor, "N L"], beta: Float[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """The latent and the beta as sines and cosines."""
        share = (beta - self.low) / (self.high - self.low)
        return torch.cat([z, waves(share, self.WAVES)], -1)
