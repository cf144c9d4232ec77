"""From features everywhere in an image to one vector for a policy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Mean(nn.Module):
    """What is there, wherever it is."""

    def forward(self, maps: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C"]:
        return maps.mean((2, 3))


class Patches(nn.Module):
    """Everything, one place after the other, for a policy that attends to them."""

    def forward(self, maps: Float[Tensor, "N C h w"]) -> Float[Tensor, "N E"]:
        return maps.flatten(2).transpose(1, 2).flatten(1)


class SpatialSoftmax(nn.Module):
    """Feature maps (B, K, H, W) -> expected image coordinates (B, 2 K) in [-1, 1]: x of all K, then y of all K.

    The temperature is learned (Finn et al., Deep Spatial Autoencoders, ICRA 2016, section IV), or else stays at 1.
    """

    def __init__(self, learned: bool = True):
        super().__init__()
        self.log_temperature = nn.Parameter(torch.zeros(())) if learned else None

    def forward(self, maps: Float[Tensor, "B K H W"]) -> Float[Tensor, "B C"]:
        height, width = maps.shape[-2:]
        maps = maps.float()  # bfloat16 would round a coordinate to a third of a pixel
        if self.log_temperature is not None:
            maps = maps / self.log_temperature.exp()
        attention = maps.flatten(2).softmax(-1).unflatten(-1, (height, width))
        x = (attention.sum(2) * torch.linspace(-1, 1, width, device=maps.device)).sum(-1)
        y = (attention.sum(3) * torch.linspace(-1, 1, height, device=maps.device)).sum(-1)
        return torch.cat([x, y], dim=-1)


class Keypoints(nn.Module):
    """Where each of `count` learned mixtures of channels is strongest; 0: where each channel is."""

    def __init__(self, channels: int, count: int, learned: bool):
        super().__init__()
        self.mix = nn.Conv2d(channels, count, 1) if count else nn.Identity()
        self.softmax = SpatialSoftmax(learned)

    def forward(self, maps: Float[Tensor, "N C h w"]) -> Float[Tensor, "N E"]:
        return self.softmax(self.mix(maps))


class AttentionPool(nn.Module):
    """One learned query looks at every place and takes what it needs, as in CLIP's ResNets (Radford et al., ICML 2021, section 2.4).

    Places have learned positions, so that it can tell where, too.
    """

    def __init__(self, channels: int, places: int, heads: int = 8):
        super().__init__()
        self.heads = next(h for h in range(heads, 0, -1) if channels % h == 0)
        self.query = nn.Parameter(torch.randn(channels) * channels**-0.5)
        self.positions = nn.Parameter(torch.randn(places, channels) * 0.02)
        self.norm, self.keys, self.out = nn.LayerNorm(channels), nn.Linear(channels, 2 * channels), nn.Linear(channels, channels)

    def forward(self, maps: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C"]:
        tokens = self.norm(maps.flatten(2).transpose(1, 2)) + self.positions
        key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.keys(tokens).chunk(2, dim=-1))
        query = self.query.to(key.dtype).view(1, self.heads, 1, -1).expand(len(maps), -1, -1, -1)
        return self.out(F.scaled_dot_product_attention(query, key, value).flatten(1))
