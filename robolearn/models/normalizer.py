"""The only normaliser: physical units to what a network likes, and back."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn


class Normalizer(nn.Module):
    """Affine map of each of D dimensions, fitted once on data; part of the state_dict, so a checkpoint carries it.

    "range" maps [min, max] to [-1, 1]; "gaussian" maps to zero mean and unit deviation. A dimension that never
    changes in the data maps to 0 (its scale is 1), so noise on it is neither amplified nor divided by zero.
    """

    offset: Tensor
    scale: Tensor
    fitted: Tensor

    def __init__(self, dim: int, mode: Literal["range", "gaussian"] = "range"):
        super().__init__()
        self.mode = mode
        self._known = False  # that it is fitted: to ask the buffer each time would make a GPU wait
        self.register_buffer("offset", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def fit(self, data: np.ndarray | Tensor) -> Normalizer:
        """Take offset and scale from `data` (N, D). Raises ValueError unless it is finite and has D columns."""
        rows = data.cpu().double() if isinstance(data, Tensor) else torch.from_numpy(np.array(data, dtype=np.float64))
        dim = self.offset.numel()
        if rows.ndim != 2 or rows.shape[1] != dim or len(rows) == 0:
            raise ValueError(f"normalizer: data has shape {tuple(rows.shape)}; expected (N > 0, {dim})")
        if not torch.isfinite(rows).all():
            column = int((~torch.isfinite(rows)).any(0).nonzero()[0])
            raise ValueError(f"normalizer: data is not finite in column {column}; NaN and inf are refused")
        if self.mode == "range":
            low, high = rows.amin(0), rows.amax(0)
            offset, scale = (low + high) / 2, (high - low) / 2
        else:
            offset, scale = rows.mean(0), rows.std(0, correction=0)
        constant = scale <= 1e-7 * (1 + rows.abs().amax(0))  # what float32 can still tell apart
        self.offset.copy_(offset)
        self.scale.copy_(torch.where(constant, torch.ones_like(scale), scale))
        self.fitted.fill_(True)
        self._known = True
        return self

    def normalize(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Physical units -> network units. Raises RuntimeError before fit()."""
        self._check()
        return (x - self.offset) / self.scale

    def unnormalize(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Network units -> physical units. Raises RuntimeError before fit()."""
        self._check()
        return x * self.scale + self.offset

    def _check(self) -> None:
        if self._known:
            return
        if not self.fitted:
            raise RuntimeError("normalizer: not fitted; call fit(data) or load a state_dict first")
        self._known = True
