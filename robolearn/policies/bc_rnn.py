"""BC-RNN and BC-RNN-GMM (Mandlekar et al., CoRL 2021, section 4): an LSTM over the last observations, taught at every one of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hardware.types import RobotSpec
from robolearn.core.errors import require_at_least
from robolearn.models.gmm import ErrorKind
from robolearn.models.precision import all_bfloat16
from robolearn.policies._every_step import EveryStepPolicy
from robolearn.policies.chunk import ChunkConfig


@dataclass(frozen=True)
class BcRnnConfig(ChunkConfig):
    """The recurrent network and what it says."""

    history: int = 10
    horizon: int = 1
    hidden: int = 400  # numbers in each layer's state; 1000 with images (the study's appendix)
    layers: int = 2
    modes: int = 5  # Gaussians of the mixture over chunks; 1: one Gaussian; 0: plain regression
    error: ErrorKind = "mse"  # of plain regression

    def build(self, spec: RobotSpec) -> BcRnnPolicy:
        return BcRnnPolicy(self, spec)


class BcRnnPolicy(EveryStepPolicy):
    """The hidden state is computed anew from the last `history` observations, so an answer depends on nothing but what is asked."""

    def __init__(self, config: BcRnnConfig, spec: RobotSpec):
        for name, value, least, unit in (("hidden", config.hidden, 1, "numbers"), ("layers", config.layers, 1, "layers")):
            require_at_least(f"policy.{name}", value, least, unit)
        require_at_least("policy.modes", config.modes, 0, "Gaussians")
        super().__init__(config, spec, config.modes, config.error)
        self.rnn = nn.LSTM(self.row_dim, config.hidden, config.layers, batch_first=True)
        self.last = nn.Linear(config.hidden, self.head.params)
        self._any_precision = all_bfloat16(torch.device("cpu"))

    def outputs(self, cond: Float[Tensor, "B T C"]) -> Float[Tensor, "B T P"]:
        if self._any_precision or not cond.is_cpu:
            return self.last(self.rnn(cond)[0])
        with torch.autocast("cpu", enabled=False):
            hidden = self.rnn(cond.float())[0]
        return self.last(hidden)
