"""How likely the present dynamics would have made a row: two classifiers, of which one sees where it led (Niu et al. 2022, H2O;
Eysenbach et al. 2021, DARC)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from robolearn.models.ensemble import EnsembleMlp


class DynamicsRatio(nn.Module):
    """P(s' | s, a) of the fresh rows' dynamics over that of the old rows', from classifiers of (s, a, s') and (s, a)."""

    LOW, HIGH = 0.1, 10.0  # a classifier is never sure

    def __init__(self, latent: int, action: int, width: int = 128):
        super().__init__()
        self.led = EnsembleMlp(1, 2 * latent + action, width, 1, zero_last=True)
        self.did = EnsembleMlp(1, latent + action, width, 1, zero_last=True)

    def _logits(self, z: Tensor, action: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        did = torch.cat([z, action], -1)
        return self.led.all(torch.cat([did, after - z], -1))[0, :, 0], self.did.all(did)[0, :, 0]

    def loss(
        self, z: Float[Tensor, "N L"], action: Float[Tensor, "N A"], after: Float[Tensor, "N L"], fresh: Bool[Tensor, " N"]
    ) -> Float[Tensor, ""]:
        led, did = self._logits(z, action, after)
        return F.binary_cross_entropy_with_logits(led, fresh.float()) + F.binary_cross_entropy_with_logits(did, fresh.float())

    @torch.no_grad()
    def forward(self, z: Float[Tensor, "N L"], action: Float[Tensor, "N A"], after: Float[Tensor, "N L"]) -> Float[Tensor, " N"]:
        led, did = self._logits(z, action, after)
        return (led - did).exp().clamp(self.LOW, self.HIGH)
