"""BC-Transformer and BC-Transformer-GMM (robomimic 0.3, 2023): BC-RNN with a causal transformer in place of the LSTM."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from hardware.types import RobotSpec
from robolearn.core.errors import UserError, require_at_least
from robolearn.models.causal import CausalTransformer
from robolearn.models.gmm import ErrorKind
from robolearn.policies._every_step import EveryStepPolicy
from robolearn.policies.chunk import ChunkConfig


@dataclass(frozen=True)
class BcTransformerConfig(ChunkConfig):
    """The transformer and what it says."""

    history: int = 10
    horizon: int = 1
    width: int = 512
    layers: int = 6
    heads: int = 8
    dropout: float = 0.1  # of embeddings, attention and every block's outputs
    modes: int = 5  # Gaussians of the mixture over chunks; 1: one Gaussian; 0: plain regression
    error: ErrorKind = "mse"  # of plain regression

    def build(self, spec: RobotSpec) -> BcTransformerPolicy:
        return BcTransformerPolicy(self, spec)


class BcTransformerPolicy(EveryStepPolicy):
    """One token for each observation, its state and image features side by side."""

    def __init__(self, config: BcTransformerConfig, spec: RobotSpec):
        for name, value, unit in (
            ("width", config.width, "numbers"),
            ("layers", config.layers, "blocks"),
            ("heads", config.heads, "heads"),
        ):
            require_at_least(f"policy.{name}", value, 1, unit)
        require_at_least("policy.modes", config.modes, 0, "Gaussians")
        if config.width % config.heads:
            raise UserError(f"policy.width: {config.width} numbers; {config.heads} heads need a multiple of {config.heads}")
        super().__init__(config, spec, config.modes, config.error)
        self.net = CausalTransformer(
            self.row_dim, self.head.params, self.history, config.width, config.layers, config.heads, config.dropout
        )

    def outputs(self, cond: Float[Tensor, "B T C"]) -> Float[Tensor, "B T P"]:
        return self.net(cond)
