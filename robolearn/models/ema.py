"""Exponential moving average of a module's weights: the copy that is evaluated."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def ema(module: nn.Module, power: float = 0.75, max_decay: float = 0.9999) -> AveragedModel:
    """A moving average of `module`; call update_parameters(module) after each step, use `.module`.

    The decay grows as 1 - (1 + n)^-power with the number n of updates, so early weights are forgotten quickly
    (Chi et al., RSS 2023, code settings: power 0.75). Buffers, such as normalizers, are copied, not averaged.
    """

    def average(averages: Any, weights: Any, n: Any) -> None:
        decay = min(max_decay, 1 - (1 + int(n)) ** -power)
        get_ema_multi_avg_fn(decay)(averages, weights, n)

    averaged = AveragedModel(module, multi_avg_fn=average)
    averaged.module.eval()
    return averaged.requires_grad_(False)
