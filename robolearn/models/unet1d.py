"""Conditional 1-D U-Net over time with FiLM (Chi et al., Diffusion Policy, RSS 2023, section IV-A), laid out for CPUs.

Time is axis 1 and channels are last, so every convolution is one matrix product, the norm is a LayerNorm over channels,
and halving or doubling the time axis is a reshape: half the time per step of Conv1d and GroupNorm on two cores,
and bfloat16 halves it again where the processor has matrix units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Real
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


class _Stage(nn.ModuleList):
    """Residual blocks on one level, the first of which changes the channels."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, blocks: int):
        super().__init__(_Residual(channels_out if i else channels_in, channels_out, kernel) for i in range(blocks))

    def forward(self, x: Tensor, films: Iterator[Tensor]) -> Tensor:
        for block in self:
            x = block(x, next(films))
        return x


class UNet1d(nn.Module):
    """Noisy chunk (B, H, A), diffusion step (B,), condition (B, C) -> prediction (B, H, A).

    `widths` are the channels of each level, from H steps to H / 2^(levels - 1); H must be divisible by that factor. blocks: residual
    blocks of each level on the way down and on the way up, twice as many in the middle (2 in the paper's code).
    prefix: some actions may be told beforehand; a channel of the input marks them.

    What scales and shifts the blocks is a sum of two parts: `levels` of the step, `context` of the condition. A sampler computes
    them once per chunk and only calls `denoise` at every step.
    """

    def __init__(
        self,
        dim: int,
        cond_dim: int,
        widths: Sequence[int] = (64, 128, 256),
        kernel: int = 3,
        embedding: int = 128,
        prefix: bool = False,
        blocks: int = 1,
    ):
        super().__init__()
        self.prefix = prefix
        self.factor = 2 ** (len(widths) - 1)
        self.embedding = embedding
        self.step_mlp = nn.Sequential(nn.Linear(embedding, 2 * embedding), nn.SiLU(), nn.Linear(2 * embedding, 2 * embedding))
        self.cond_mlp = nn.Sequential(nn.Linear(cond_dim, 2 * embedding), nn.SiLU(), nn.Linear(2 * embedding, 2 * embedding))
        self.down, self.narrow, self.up, self.widen = (nn.ModuleList() for _ in range(4))
        channels = dim + prefix
        for width in widths[:-1]:
            self.down.append(_Stage(channels, width, kernel, blocks))
            self.narrow.append(nn.Linear(2 * width, width))
            channels = width
        self.middle = _Stage(channels, widths[-1], kernel, 2 * blocks)
        channels = widths[-1]
        for width in reversed(widths[:-1]):
            self.widen.append(nn.Linear(channels, 2 * width))
            self.up.append(_Stage(2 * width, width, kernel, blocks))
            channels = width
        self.head = nn.Linear(channels, dim)
        self.film_sizes = [2 * w for w in (*widths, *reversed(widths)) for _ in range(blocks)]
        self.film = nn.Linear(4 * embedding, sum(self.film_sizes))  # every block's scales and shifts in one product

    def forward(
        self,
        x: Float[Tensor, "B H A"],
        step: Real[Tensor, " B"],
        cond: Float[Tensor, "B ..."],
        known: Bool[Tensor, "B H"] | None = None,
    ) -> Float[Tensor, "B H A"]:
        embedded = torch.cat([self.step_mlp(sinusoid(step, self.embedding)), self.cond_mlp(cond.flatten(1))], dim=-1)
        return self._blocks(x, self.film(F.silu(embedded)), known)

    def levels(self, step: Real[Tensor, " S"]) -> Float[Tensor, "S F"]:
        """What the step adds to every block's scales and shifts."""
        half = 2 * self.embedding
        return F.linear(F.silu(self.step_mlp(sinusoid(step, self.embedding))), self.film.weight[:, :half], self.film.bias)

    def context(self, cond: Float[Tensor, "B ..."]) -> Float[Tensor, "B F"]:
        """What the condition adds to them."""
        return F.linear(F.silu(self.cond_mlp(cond.flatten(1))), self.film.weight[:, 2 * self.embedding :])

    def denoise(
        self,
        x: Float[Tensor, "B H A"],
        level: Float[Tensor, "#B F"],
        context: Float[Tensor, "B F"],
        known: Bool[Tensor, "B H"] | None = None,
    ) -> Float[Tensor, "B H A"]:
        """forward() from the two parts, every row at the same step."""
        return self._blocks(x, level + context, known)

    def _blocks(self, x: Tensor, film: Tensor, known: Tensor | None) -> Tensor:
        if x.shape[1] % self.factor:
            raise ValueError(f"unet1d: horizon {x.shape[1]} steps is not divisible by {self.factor} = 2^(levels - 1)")
        if self.prefix:
            x = mark(x, known)
        films = iter(film.split(self.film_sizes, dim=-1))
        skips = []
        for stage, narrow in zip(self.down, self.narrow, strict=True):
            x = stage(x, films)
            skips.append(x)
            x = narrow(x.reshape(x.shape[0], x.shape[1] // 2, -1))
        x = self.middle(x, films)
        for stage, widen in zip(self.up, self.widen, strict=True):
            x = widen(x).reshape(x.shape[0], 2 * x.shape[1], -1)
            x = stage(torch.cat([x, skips.pop()], dim=-1), films)
        return self.head(x)


def sinusoid(step: Tensor, dim: int) -> Tensor:
    """A number (S,) as sines and cosines (S, dim) of it."""
    frequency = torch.exp(torch.arange(dim // 2, device=step.device) * (-math.log(10000) / (dim // 2 - 1)))
    angle = step.float().unsqueeze(-1) * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def mark(x: Float[Tensor, "B H A"], known: Bool[Tensor, "B H"] | None) -> Float[Tensor, "B H A+1"]:
    """One more channel: 1 where an action is known beforehand."""
    return torch.cat([x, x.new_zeros(*x.shape[:2], 1) if known is None else known.unsqueeze(-1).to(x)], dim=-1)
