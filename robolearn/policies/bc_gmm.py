"""BC-GMM (Mandlekar et al., CoRL 2021): a perceptron whose answer is a mixture of Gaussians, where people act in more ways than one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hardware.types import RobotSpec
from robolearn.core.errors import require_at_least
from robolearn.core.types import Batch, Metrics, logged
from robolearn.models.gmm import GmmHead, mean_error
from robolearn.models.mlp import mlp
from robolearn.policies.chunk import ChunkConfig, ChunkPolicy


@dataclass(frozen=True)
class BcGmmConfig(ChunkConfig):
    """The perceptron and its mixture."""

    hidden: tuple[int, ...] = (1024, 1024)
    dropout: float = 0.0
    modes: int = 5  # Gaussians of the mixture over chunks

    def build(self, spec: RobotSpec) -> BcGmmPolicy:
        return BcGmmPolicy(self, spec)


class BcGmmPolicy(ChunkPolicy):
    """Each component of the mixture is a whole chunk: a sample keeps to the way it began."""

    def __init__(self, config: BcGmmConfig, spec: RobotSpec):
        super().__init__(config, spec)
        require_at_least("policy.modes", config.modes, 1, "Gaussians")
        self.head = GmmHead(self.horizon, self.action_dim, config.modes, config.units == "range")
        self.net = mlp([self.cond_dim, *config.hidden, self.head.params], dropout=config.dropout)

    def loss(self, batch: Batch) -> tuple[Float[Tensor, ""], Metrics]:
        """Negative log-likelihood per action [nat], of those that count."""
        out = self.net(self.condition(batch.obs).flatten(1))
        loss = mean_error(self.head, out, self.inside(batch.action, batch.obs), self.counts(batch))
        return loss, {"loss": logged(loss)}

    def errors(self, cond: Float[Tensor, "B T C"], action: Float[Tensor, "B H A"]) -> Float[Tensor, "B H"]:
        """A chunk is judged as a whole, so its actions share the error evenly."""
        real = torch.ones(action.shape[:2], dtype=torch.bool, device=action.device)
        return (self.head.error(self.net(cond.flatten(1)), action, real) / self.horizon).unsqueeze(1).expand(-1, self.horizon)

    def draw(
        self, cond: Float[Tensor, "B T C"], n: int, generator: torch.Generator, prefix: Tensor | None = None
    ) -> Float[Tensor, "B n H A"]:
        return self.head.draw(self.net(cond.flatten(1)), n, generator)
