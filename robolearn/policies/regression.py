"""Chunked regression with the diffusion policy's own network: how much of its success is the chunk, and how much the diffusion.

The honest baseline for every generative policy here: same network, same chunk, same condition, one pass instead of many.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hardware.types import RobotSpec
from robolearn.models.gmm import ERRORS, ErrorKind
from robolearn.policies._denoising import DenoisingConfig, DenoisingPolicy, Predict, of_the_rest


@dataclass(frozen=True)
class RegressionConfig(DenoisingConfig):
    """The network, as DiffusionConfig has it, and its error."""

    error: ErrorKind = "l1"

    def build(self, spec: RobotSpec) -> RegressionPolicy:
        return RegressionPolicy(self, spec)


class RegressionPolicy(DenoisingPolicy):
    """Asks the denoiser once, about an empty chunk at step 0. Deterministic: every sample is the same chunk."""

    def __init__(self, config: RegressionConfig, spec: RobotSpec):
        super().__init__(config, spec)
        self.register_buffer("times", torch.zeros(1), persistent=False)
        self.error = ERRORS[config.error]

    def errors(self, cond: Float[Tensor, "B T C"], action: Float[Tensor, "B H A"]) -> Float[Tensor, "B H"]:
        known, empty = self.told(action), torch.zeros_like(action)
        chunk = empty if known is None else torch.where(known.unsqueeze(-1), action, empty)
        answer = self.net(chunk, self.times.expand(len(action)), cond, known).float()
        return of_the_rest(self.error(answer, action, reduction="none").mean(-1), known)

    def solve(self, predict: Predict, noise: Float[Tensor, "N B H A"]) -> Float[Tensor, "B H A"]:
        return predict(torch.zeros_like(noise[0]), 0).clamp(-self.limit, self.limit)
