"""Weights laid out once as a CPU's matrix products read them, for answers about a few rows at a time.

A chunk for one observation multiplies few rows with large weights, and most of the time of a plain layer goes into laying out the weights
anew at every call. Kept laid out, large matrix products of few rows run at the speed of the memory, and a ResNet's convolutions of small
images gain, too; what whole answers gain is in docs/results.md (benchmarks/inference.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from robolearn.models.precision import all_bfloat16

FEW = 64  # rows, or images: with more of them the layout is a small part of the work, and plain layers save its memory
LARGE = 2**18  # weights of a float32 linear layer: less of them stay in the processor's cache, and plain layers are quicker


def pack(module: nn.Module) -> None:
    """Let linear layers and convolutions keep their weights laid out while they answer without a gradient, on a CPU.

    Everything else stays: names, weights, state_dict, training. Weights that change are laid out again. Where this torch has no oneDNN,
    nothing changes.
    """
    if not torch.backends.mkldnn.is_available():
        return
    for part in module.modules():
        if type(part) is nn.Linear:  # no subclass, whose owner may have plans of its own
            part.__class__ = _Linear
        elif type(part) is nn.Conv2d and part.padding_mode == "zeros" and not isinstance(part.padding, str):
            part.__class__ = _Conv2d


class _LaidOut:
    """The layout of one layer's weight, made when it is first needed and whenever the weight was changed."""

    def __init__(self) -> None:
        self._of: tuple[int, int, torch.dtype] | None = None
        self._layout: Any = None
        self._held: Tensor | None = None  # so that no other weight can come to lie at the same address

    def get(self, weight: Tensor, make: Callable[[], Tensor]) -> Tensor:
        of = weight.data_ptr(), weight._version, weight.dtype
        if self._of != of:
            self._layout, self._of, self._held = make(), of, weight.detach()
        return self._layout

    def __deepcopy__(self, memo: dict) -> _LaidOut:
        return _LaidOut()  # the copy's weights may go their own way


def _laid_out(layer: nn.Module) -> _LaidOut:
    return layer.__dict__.setdefault("_laid_out", _LaidOut())  # no buffer: no part of the state


def _applies(x: Tensor, weight: Tensor, rows: int) -> bool:
    wanted = torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32
    known = wanted == torch.float32 or all_bfloat16(x.device)
    return 0 < rows <= FEW and x.is_cpu and weight.dtype == wanted and known and not torch.is_grad_enabled()


class _Linear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        rows = input.numel() // self.in_features
        quicker = self.weight.dtype == torch.bfloat16 or self.weight.numel() >= LARGE
        if not quicker or not _applies(input, self.weight, rows):
            return super().forward(input)
        weight = _laid_out(self).get(self.weight, lambda: torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), rows))
        return torch.ops.mkldnn._linear_pointwise(input.to(self.weight.dtype), weight, self.bias, "none", [], "")


class _Conv2d(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        if input.ndim != 4 or not _applies(input, self.weight, len(input)):
            return super().forward(input)
        how = self.padding, self.stride, self.dilation, self.groups
        reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight  # pyright: ignore[reportAttributeAccessIssue] has no stub
        weight = _laid_out(self).get(self.weight, lambda: reorder(self.weight.detach().to_mkldnn(), *how, list(input.shape)))
        return torch.ops.mkldnn._convolution_pointwise(input.to(self.weight.dtype), weight, self.bias, *how, "none", [], "")
