"""Exponential moving average of a module's weights: the copy that is evaluated."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def ema(module: nn.Module, power: float = 0.75, max_decay: float = 0.9999) -> AveragedModel:
    """A moving average of `module`; call update_parameters(module) after each step, use `.module`.

    The decay grows as 1 - (1 + n)^-power with the number n of updates, so early weights are forgotten quickly
    (Chi et al., RSS 2023, code settings: power 0.75). Buffers, such as normalizers, are copied, not averaged.
    """

    @torch.no_grad()
    def average(averages: tuple[Tensor, ...] | list[Tensor], weights: tuple[Tensor, ...] | list[Tensor], n: Tensor | int) -> None:
        decay = min(max_decay, 1 - (1 + int(n)) ** -power)
        torch._foreach_lerp_(list(averages), list(weights), 1 - decay)

    averaged = AveragedModel(module, multi_avg_fn=average)
    averaged.module.eval()
    averaged.requires_grad_(False)
    return averaged
