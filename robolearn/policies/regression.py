"""Chunked regression with the diffusion policy's own network: how much of its success is the chunk, and how much the diffusion.

The honest baseline for every generative policy here: same network, same chunk, same condition, one pass instead of many.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hardware.types import RobotSpec
from robolearn.core.errors import UserError
from robolearn.models.gmm import ErrorKind
from robolearn.models.unet1d import UNet1d
from robolearn.policies.chunk import ChunkConfig, ChunkPolicy


@dataclass(frozen=True)
class RegressionConfig(ChunkConfig):
    """The network, as DiffusionConfig has it, and its error."""

    widths: tuple[int, ...] = (64, 128, 256)  # channels of the U-Net's levels; each level after the first halves time
    kernel: int = 3
    error: ErrorKind = "l1"

    def build(self, spec: RobotSpec) -> RegressionPolicy:
        return RegressionPolicy(self, spec)


class RegressionPolicy(ChunkPolicy):
    """Asks the denoiser once, about an empty chunk at step 0. Deterministic: every sample is the same chunk."""

    def __init__(self, config: RegressionConfig, spec: RobotSpec):
        super().__init__(config, spec)
        if not config.widths or min(config.widths) < 8:
            raise UserError(f"policy.widths: {config.widths} channels; expected one or more of at least 8")
        factor = 2 ** (len(config.widths) - 1)
        if config.horizon % factor:
            raise UserError(f"policy.horizon: {config.horizon} actions; {len(config.widths)} widths need a multiple of {factor}")
        self.net = UNet1d(self.action_dim, self.cond_dim, config.widths, config.kernel)
        self.error = {"l1": F.l1_loss, "huber": F.smooth_l1_loss, "mse": F.mse_loss}[config.error]

    def errors(self, cond: Float[Tensor, "B T C"], action: Float[Tensor, "B H A"]) -> Float[Tensor, "B H"]:
        return self.error(self._predict(cond), action, reduction="none").mean(-1)

    def draw(
        self, cond: Float[Tensor, "B T C"], n: int, generator: torch.Generator, prefix: Tensor | None = None
    ) -> Float[Tensor, "B n H A"]:
        chunk = self._predict(cond)
        # As diffusion's clipping: the data's own range is all it has seen.
        return (chunk.clamp(-1, 1) if self.config.units == "range" else chunk).unsqueeze(1).expand(-1, n, -1, -1)

    def _predict(self, cond: Tensor) -> Tensor:
        empty = torch.zeros((len(cond), self.horizon, self.action_dim), device=cond.device)
        step = torch.zeros(len(cond), dtype=torch.long, device=cond.device)
        return self.net(empty, step, cond.flatten(1)).float()
