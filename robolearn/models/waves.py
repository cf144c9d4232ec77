"""A number between 0 and 1 as a network likes it."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def waves(share: Float[Tensor, " N"], count: int) -> Float[Tensor, "N D"]:
    """Sines and cosines of it, D = 2 * count, each twice as quick as the one before."""
    angle = share[:, None] * math.pi * 2 ** torch.arange(count, device=share.device)
    return torch.cat([angle.sin(), angle.cos()], -1)
