"""What a network's last numbers say about a chunk of actions: the chunk itself, or a mixture of Gaussians over chunks.

No parameters of their own: `params` numbers per chunk come from the network. Actions are normalised. Everything is float32, whatever the
network computed in: a likelihood of small deviations is a difference of large numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

ErrorKind = Literal["l1", "huber", "mse"]
ERRORS: dict[ErrorKind, Callable[..., Tensor]] = {"l1": F.l1_loss, "huber": F.smooth_l1_loss, "mse": F.mse_loss}


@dataclass(frozen=True)
class PointHead:
    """The chunk itself. bounded: held at the edge of [-1, 1] where it is drawn."""

    horizon: int
    dim: int
    error_kind: ErrorKind = "mse"
    bounded: bool = True

    @property
    def params(self) -> int:
        return self.horizon * self.dim

    def error(self, out: Float[Tensor, "*B P"], chunk: Float[Tensor, "*B H A"], real: Bool[Tensor, "*B H"]) -> Float[Tensor, "*B"]:
        """Summed over the chunk's real actions, mean over their elements."""
        return (ERRORS[self.error_kind](self._chunk(out), chunk, reduction="none").mean(-1) * real).sum(-1)

    def draw(self, out: Float[Tensor, "B P"], n: int, generator: torch.Generator) -> Float[Tensor, "B n H A"]:
        chunk = self._chunk(out)
        return (chunk.clamp(-1, 1) if self.bounded else chunk).unsqueeze(1).expand(-1, n, -1, -1)

    def _chunk(self, out: Tensor) -> Tensor:
        return out.float().unflatten(-1, (self.horizon, self.dim))


@dataclass(frozen=True)
class GmmHead:
    """K plans, how likely each is, and how far its actions are from it: the head of robomimic's study (Mandlekar et al., CoRL 2021).

    A component is a whole chunk, so that a sample follows one plan from its first action to its last; robomimic's chunks are one long.
    bounded: means pass tanh. floor: the least deviation in training. low_noise: the deviation when acting, next to none: the learned one
    holds people's imprecision, too.
    """

    horizon: int
    dim: int
    modes: int = 5
    bounded: bool = True
    floor: float = 1e-4
    low_noise: float = 1e-4

    @property
    def params(self) -> int:
        return self.modes * (1 + 2 * self.horizon * self.dim)

    def error(self, out: Float[Tensor, "*B P"], chunk: Float[Tensor, "*B H A"], real: Bool[Tensor, "*B H"]) -> Float[Tensor, "*B"]:
        """Negative log-likelihood of the chunk's real actions together [nat]."""
        logits, mean, std = self.mixture(out)
        each = -0.5 * ((chunk.unsqueeze(-3) - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)
        plans = (each.sum(-1) * real.unsqueeze(-2)).sum(-1)
        return -(logits.log_softmax(-1) + plans).logsumexp(-1)

    def draw(self, out: Float[Tensor, "B P"], n: int, generator: torch.Generator) -> Float[Tensor, "B n H A"]:
        """n chunks, each a plan drawn by its probability, and a little noise."""
        logits, mean, _ = self.mixture(out)
        picked: Int[Tensor, "B n"] = torch.multinomial(logits.softmax(-1).cpu(), n, replacement=True, generator=generator).to(mean.device)
        rows = torch.arange(len(mean), device=mean.device).unsqueeze(1)
        noise = torch.randn((*picked.shape, self.horizon, self.dim), generator=generator).to(mean)
        chunk = mean[rows, picked] + self.low_noise * noise
        return chunk.clamp(-1, 1) if self.bounded else chunk

    def mixture(self, out: Float[Tensor, "*B P"]) -> tuple[Float[Tensor, "*B K"], Float[Tensor, "*B K H A"], Float[Tensor, "*B K H A"]]:
        """Logits, means and deviations of the components."""
        logits, mean, spread = out.float().split([self.modes, *[self.modes * self.horizon * self.dim] * 2], dim=-1)
        mean, spread = (x.unflatten(-1, (self.modes, self.horizon, self.dim)) for x in (mean, spread))
        return logits, mean.tanh() if self.bounded else mean, F.softplus(spread) + self.floor


Head = PointHead | GmmHead


def mean_error(head: Head, out: Float[Tensor, "*B P"], chunk: Float[Tensor, "*B H A"], counts: Float[Tensor, "*B H"]) -> Float[Tensor, ""]:
    """Per action. counts: how much each one counts, 0 or the same number within a chunk."""
    return (head.error(out, chunk, counts > 0) * counts.amax(-1)).sum() / counts.sum().clamp(min=1e-6)
