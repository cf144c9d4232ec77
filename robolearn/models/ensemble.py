"""Several small networks evaluated as one batched matrix product: heads that differ only by their initialisation."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
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

    def forward(self, x: Float[Tensor, "M N I"], members: Int[Tensor, " M"] | None = None) -> Float[Tensor, "M N O"]:
        """members: which layers, M of them (None: all)."""
        if members is None:
            return torch.baddbmm(self.bias, x, self.weight)
        return torch.baddbmm(self.bias[members], x, self.weight[members])


class EnsembleMlp(nn.Module):
    """M perceptrons of two hidden layers; each hidden layer is linear, LayerNorm, SiLU.

    After TD-MPC2 (Hansen et al. 2024, section 3.1), whose Mish took 40 % of an update's time on a CPU; SiLU has its shape.
    Members start apart even with zero_last, whose last layers are all zero: their hidden layers differ.
    """

    def __init__(self, members: int, inputs: int, width: int, outputs: int, zero_last: bool = False, layer_norm: bool = True):
        super().__init__()
        self.members = members
        last = EnsembleLinear(members, width, outputs)
        self.layers = nn.ModuleList([EnsembleLinear(members, inputs, width), EnsembleLinear(members, width, width), last])
        self.norms = nn.ModuleList([nn.LayerNorm(width) if layer_norm else nn.Identity() for _ in range(2)])
        if zero_last:  # reward and value heads start at zero (FOWM, Feng 2023)
            nn.init.zeros_(last.weight)

    @property
    def last(self) -> nn.Module:
        """The layer that answers."""
        return self.layers[-1]

    def forward(self, x: Float[Tensor, "M N I"], members: Int[Tensor, " M"] | None = None) -> Float[Tensor, "M N O"]:
        """members: which of them answer (None: all); the others cost nothing. The last layer is never in half precision."""
        for layer, norm in zip(self.layers[:-1], self.norms, strict=True):
            x = F.silu(norm(layer(x, members)))
        with torch.autocast(x.device.type, enabled=False):
            return self.layers[-1](x.float(), members)

    def all(self, x: Float[Tensor, "N I"], members: Int[Tensor, " M"] | None = None) -> Float[Tensor, "M N O"]:
        """The same input to every member, or to `members`."""
        return self(x.expand(self.members if members is None else len(members), *x.shape), members)
