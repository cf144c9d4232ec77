"""Low-rank adaptation (Hu et al., ICLR 2022, arXiv 2106.09685): frozen weights, and what is learned is a thin sum beside them.

The layers keep the names of their weights, so a checkpoint of the plain network fills the adapted one.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LoraLinear(nn.Linear):
    """y = W x + b + U D x with U zero at first: nothing changes until it learns."""

    def __init__(self, layer: nn.Linear, rank: int):
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.lora_down = nn.Parameter(torch.empty(rank, layer.in_features))
        self.lora_up = nn.Parameter(torch.zeros(layer.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_down, a=math.sqrt(5))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + F.linear(F.linear(input, self.lora_down), self.lora_up)

    def merged(self) -> nn.Linear:
        """The plain layer that does the same."""
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        layer.weight, layer.bias = nn.Parameter(self.weight + self.lora_up @ self.lora_down), self.bias
        return layer


class LoraConv2d(nn.Conv2d):
    """The same for a convolution: a thin one of the same reach, then 1 x 1."""

    def __init__(self, layer: nn.Conv2d, rank: int):
        super().__init__(**_shape(layer), device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.lora_down = nn.Parameter(torch.empty(rank, *layer.weight.shape[1:]))
        self.lora_up = nn.Parameter(torch.zeros(layer.out_channels, rank, 1, 1))
        nn.init.kaiming_uniform_(self.lora_down, a=math.sqrt(5))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + F.conv2d(self._conv_forward(input, self.lora_down, None), self.lora_up)

    def merged(self) -> nn.Conv2d:
        """The plain layer that does the same."""
        layer = nn.Conv2d(**_shape(self), device="meta")
        added = torch.einsum("or,rihw->oihw", self.lora_up[..., 0, 0], self.lora_down)
        layer.weight, layer.bias = nn.Parameter(self.weight + added), self.bias
        return layer


def adapt(network: nn.Module, rank: int) -> int:
    """Freeze `network` and put a sum of that rank beside each of its Linear and Conv2d layers (not grouped ones); says beside how many."""
    network.requires_grad_(False)
    count = 0
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear:
                setattr(parent, name, LoraLinear(layer, rank))
            elif type(layer) is nn.Conv2d and layer.groups == 1:
                setattr(parent, name, LoraConv2d(layer, rank))
            else:
                continue
            count += 1
    return count


@torch.no_grad()
def merge(network: nn.Module) -> None:
    """Add what was learned to the weights and leave plain layers: the same answers, at the plain network's cost."""
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, LoraLinear | LoraConv2d):
                setattr(parent, name, layer.merged())


def _shape(layer: nn.Conv2d) -> dict:
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return {name: getattr(layer, name) for name in names} | {"bias": layer.bias is not None}
