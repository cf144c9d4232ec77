"""Conditional 1-D U-Net over time with FiLM (Chi et al., Diffusion Policy, RSS 2023, section IV-A), laid out for CPUs.

Time is axis 1 and channels are last, so every convolution is one matrix product, the norm is a LayerNorm over channels,
and halving or doubling the time axis is a reshape: half the time per step of Conv1d and GroupNorm on two cores,
and bfloat16 halves it again where the processor has matrix units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class _Conv(nn.Module):
    """Convolution over time: (B, T, C) -> (B, T, C'), zero padded. Shifted copies side by side, one matrix product."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int):
        super().__init__()
        self.kernel = kernel
        self.linear = nn.Linear(kernel * channels_in, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        steps, half = x.shape[1], self.kernel // 2
        x = F.pad(x, (0, 0, half, half))
        return self.linear(torch.cat([x[:, i : i + steps] for i in range(self.kernel)], dim=-1))


class _Residual(nn.Module):
    """Two convolutions; the condition scales and shifts what lies between them."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int):
        super().__init__()
        self.first = _Conv(channels_in, channels_out, kernel)
        self.first_norm = nn.LayerNorm(channels_out)
        self.second = _Conv(channels_out, channels_out, kernel)
        self.second_norm = nn.LayerNorm(channels_out)
        self.skip = nn.Linear(channels_in, channels_out) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor, film: Tensor) -> Tensor:
        scale, shift = film.unsqueeze(1).chunk(2, dim=-1)
        h = F.silu(self.first_norm(self.first(x)))
        h = torch.addcmul(h + shift, h, scale)
        return F.silu(self.second_norm(self.second(h))) + self.skip(x)


class UNet1d(nn.Module):
    """Noisy chunk (B, H, A), diffusion step (B,), condition (B, C) -> prediction (B, H, A).

    `widths` are the channels of each level, from H steps to H / 2^(levels - 1); H must be divisible by that factor.
    """

    def __init__(self, dim: int, cond_dim: int, widths: Sequence[int] = (64, 128, 256), kernel: int = 3, embedding: int = 128):
        super().__init__()
        self.factor = 2 ** (len(widths) - 1)
        self.embedding = embedding
        self.step_mlp = nn.Sequential(nn.Linear(embedding, 2 * embedding), nn.SiLU(), nn.Linear(2 * embedding, 2 * embedding))
        self.cond_mlp = nn.Sequential(nn.Linear(cond_dim, 2 * embedding), nn.SiLU(), nn.Linear(2 * embedding, 2 * embedding))
        self.down, self.narrow, self.up, self.widen = (nn.ModuleList() for _ in range(4))
        channels = dim
        for width in widths[:-1]:
            self.down.append(_Residual(channels, width, kernel))
            self.narrow.append(nn.Linear(2 * width, width))
            channels = width
        self.middle = nn.ModuleList([_Residual(channels, widths[-1], kernel), _Residual(widths[-1], widths[-1], kernel)])
        channels = widths[-1]
        for width in reversed(widths[:-1]):
            self.widen.append(nn.Linear(channels, 2 * width))
            self.up.append(_Residual(2 * width, width, kernel))
            channels = width
        self.head = nn.Linear(channels, dim)
        self.film_sizes = [2 * w for w in (*widths[:-1], widths[-1], widths[-1], *reversed(widths[:-1]))]
        self.film = nn.Linear(4 * embedding, sum(self.film_sizes))  # every block's scales and shifts in one product

    def forward(self, x: Float[Tensor, "B H A"], step: Int[Tensor, " B"], cond: Float[Tensor, "B C"]) -> Float[Tensor, "B H A"]:
        if x.shape[1] % self.factor:
            raise ValueError(f"unet1d: horizon {x.shape[1]} steps is not divisible by {self.factor} = 2^(levels - 1)")
        embedded = torch.cat([self.step_mlp(_sinusoid(step, self.embedding)), self.cond_mlp(cond)], dim=-1)
        films = iter(self.film(F.silu(embedded)).split(self.film_sizes, dim=-1))
        skips = []
        for block, narrow in zip(self.down, self.narrow, strict=True):
            x = block(x, next(films))
            skips.append(x)
            x = narrow(x.reshape(x.shape[0], x.shape[1] // 2, -1))
        for block in self.middle:
            x = block(x, next(films))
        for block, widen in zip(self.up, self.widen, strict=True):
            x = widen(x).reshape(x.shape[0], 2 * x.shape[1], -1)
            x = block(torch.cat([x, skips.pop()], dim=-1), next(films))
        return self.head(x)


def _sinusoid(step: Tensor, dim: int) -> Tensor:
    frequency = torch.exp(torch.arange(dim // 2, device=step.device) * (-math.log(10000) / (dim // 2 - 1)))
    angle = step.float().unsqueeze(-1) * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
