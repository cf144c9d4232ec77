"""Several small networks evaluated as one batched matrix product: heads that differ only by their initialisation."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class EnsembleLinear(nn.Module):
    """M linear layers, each with its own weights: (M, N, in) -> (M, N, out)."""

    def __init__(self, members: int, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))
        # Drawn member by member: fan-in must not count the ensemble axis, and members must start apart,
        # since their disagreement is what the planner trusts.
        for member in self.weight.data:
            nn.init.trunc_normal_(member, std=1 / math.sqrt(inputs))

    def forward(self, x: Float[Tensor, "M N I"]) -> Float[Tensor, "M N O"]:
        return torch.baddbmm(self.bias, x, self.weight)


class EnsembleMlp(nn.Module):
    """M perceptrons of two hidden layers; each hidden layer is linear, LayerNorm, SiLU.

    After TD-MPC2 (Hansen et al. 2024, section 3.1), whose Mish took 40 % of an update's time on a CPU; SiLU has its shape.
    """

    def __init__(self, members: int, inputs: int, width: int, outputs: int, zero_last: bool = False):
        super().__init__()
        self.members = members
        last = EnsembleLinear(members, width, outputs)
        self.layers = nn.ModuleList([EnsembleLinear(members, inputs, width), EnsembleLinear(members, width, width), last])
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        if zero_last:  # reward and value heads start at zero (FOWM, Feng 2023)
            nn.init.zeros_(last.weight)

    def forward(self, x: Float[Tensor, "M N I"]) -> Float[Tensor, "M N O"]:
        for layer, norm in zip(self.layers[:-1], self.norms, strict=True):
            x = F.silu(norm(layer(x)))
        return self.layers[-1](x)

    def all(self, x: Float[Tensor, "N I"]) -> Float[Tensor, "M N O"]:
        """The same input to every member."""
        return self(x.expand(self.members, *x.shape))
