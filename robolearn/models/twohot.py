"""Scalars as soft bins in symlog space: regression by cross-entropy (Dreamer v3, Hafner 2023; TD-MPC2, Hansen 2024)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def symlog(x: Tensor) -> Tensor:
    return torch.sign(x) * torch.log1p(x.abs())


def symexp(x: Tensor) -> Tensor:
    return torch.sign(x) * torch.expm1(x.abs())


class TwoHot(nn.Module):
    """Encodes a scalar as weight on its two neighbouring bins, and reads it back as an expectation."""

    bins: Tensor

    def __init__(self, count: int = 51, low: float = -5.0, high: float = 5.0):
        super().__init__()
        self.register_buffer("bins", torch.linspace(low, high, count))

    @classmethod
    def upto(cls, bound: float) -> TwoHot:
        """Bins 0.2 apart from -bound to bound, in symlog."""
        return cls(2 * round(5 * bound) + 1, -bound, bound)

    @property
    def count(self) -> int:
        return len(self.bins)

    def decode(self, logits: Float[Tensor, "*N C"]) -> Float[Tensor, "*N"]:
        return symexp((logits.softmax(-1) * self.bins).sum(-1))

    def loss(self, logits: Float[Tensor, "*N C"], target: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
        """Cross-entropy against the two-hot target, element by element."""
        step = self.bins[1] - self.bins[0]
        place = ((symlog(target) - self.bins[0]) / step).clamp(0, self.count - 1)
        lower = place.floor().clamp(max=self.count - 2).long()
        upper_weight = place - lower
        log_p = F.log_softmax(logits, -1)
        take = lambda index: log_p.gather(-1, index.unsqueeze(-1)).squeeze(-1)  # noqa: E731
        return -((1 - upper_weight) * take(lower) + upper_weight * take(lower + 1))
