"""Where a feature is, rather than what it is."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class SpatialSoftmax(nn.Module):
    """Feature maps (B, K, H, W) -> expected image coordinates (B, 2 K) in [-1, 1]: x of all K, then y of all K.

    The temperature is learned (Finn et al., Deep Spatial Autoencoders, ICRA 2016, section IV).
    """

    def __init__(self):
        super().__init__()
        self.log_temperature = nn.Parameter(torch.zeros(()))

    def forward(self, maps: Float[Tensor, "B K H W"]) -> Float[Tensor, "B C"]:
        height, width = maps.shape[-2:]
        maps = maps.float() / self.log_temperature.exp()  # bfloat16 would round a coordinate to a third of a pixel
        attention = maps.flatten(2).softmax(-1).unflatten(-1, (height, width))
        x = (attention.sum(2) * torch.linspace(-1, 1, width, device=maps.device)).sum(-1)
        y = (attention.sum(3) * torch.linspace(-1, 1, height, device=maps.device)).sum(-1)
        return torch.cat([x, y], dim=-1)
