"""Behaviour cloning with chunks: one regression from the last observations to the next actions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hardware.types import RobotSpec
from robolearn.models.gmm import ERRORS, ErrorKind
from robolearn.models.mlp import mlp
from robolearn.policies.chunk import ChunkConfig, ChunkPolicy


@dataclass(frozen=True)
class BcConfig(ChunkConfig):
    """The regression network and its error."""

    hidden: tuple[int, ...] = (512, 512)
    dropout: float = 0.1
    error: ErrorKind = "l1"  # l1 (Zhao et al., RSS 2023): the median of what people did, not a mean nobody did

    def build(self, spec: RobotSpec) -> BcPolicy:
        return BcPolicy(self, spec)


class BcPolicy(ChunkPolicy):
    """Deterministic: every sample is the same chunk."""

    def __init__(self, config: BcConfig, spec: RobotSpec):
        super().__init__(config, spec)
        self.net = mlp([self.cond_dim, *config.hidden, self.horizon * self.action_dim], dropout=config.dropout)
        self.error = ERRORS[config.error]

    def errors(self, cond: Float[Tensor, "B T C"], action: Float[Tensor, "B H A"]) -> Float[Tensor, "B H"]:
        return self.error(self._predict(cond), action, reduction="none").mean(-1)

    def draw(
        self, cond: Float[Tensor, "B T C"], n: int, generator: torch.Generator, prefix: Tensor | None = None
    ) -> Float[Tensor, "B n H A"]:
        return self.hold(self._predict(cond)).unsqueeze(1).expand(-1, n, -1, -1)

    def _predict(self, cond: Tensor) -> Tensor:
        return self.net(cond.flatten(1)).float().unflatten(-1, (self.horizon, -1))
