"""Exponential moving averages of a module's weights: the copy that is evaluated, and slow copies that targets come from."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def slow_copy(module: M) -> M:
    """The same weights, which only `follow` moves."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, rate: float) -> None:
    """slow <- (1 - rate) * slow + rate * fast. Running statistics are the slow one's own."""
    for target, source in zip(slow.parameters(), fast.parameters(), strict=True):
        target.lerp_(source, rate)


def ema(module: nn.Module, power: float = 0.75, max_decay: float = 0.9999) -> Average:
    """A moving average of `module`; call update_parameters(module) after each step, use `.module`.

    The decay grows as 1 - (1 + n)^-power with the number n of updates, so early weights are forgotten quickly
    (Chi et al., RSS 2023, code settings: power 0.75). Buffers, such as normalizers, are copied, not averaged.
    """
    return Average(module, power, max_decay)


class Average(nn.Module):
    """`module` is the averaged copy. What is not trained (a frozen encoder) is copied once and costs nothing afterwards."""

    n_averaged: Tensor

    def __init__(self, module: nn.Module, power: float, max_decay: float):
        super().__init__()
        self.power, self.max_decay = power, max_decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.register_buffer("n_averaged", torch.zeros((), dtype=torch.long))  # on the CPU: reading it must not wait for a GPU
        self._pairs: tuple[list[Tensor], list[Tensor]] | None = None

    @torch.no_grad()
    def update_parameters(self, module: nn.Module) -> None:
        """Move the averages towards the weights of `module`, always the same one; the first time they become them."""
        if self._pairs is None:
            both = list(zip(self.module.parameters(), module.parameters(), strict=True))
            for average, weight in both:
                if not self.n_averaged or not weight.requires_grad:
                    local(average).copy_(local(weight))
            trained = [(local(average), local(weight)) for average, weight in both if weight.requires_grad]
            self._pairs = [average for average, _ in trained], [weight for _, weight in trained]
        if self.n_averaged:
            decay = min(self.max_decay, 1 - (1 + int(self.n_averaged)) ** -self.power)
            torch._foreach_lerp_(*self._pairs, 1 - decay)  # pyright: ignore[reportPrivateImportUsage] documented, of many tensors at once
        if buffers := list(self.module.buffers()):
            torch._foreach_copy_(buffers, list(module.buffers()))  # pyright: ignore[reportPrivateImportUsage]
        self.n_averaged += 1


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that several share; an average needs no more."""
    to_local = getattr(tensor.detach(), "to_local", None)  # DTensor's
    return tensor.detach() if to_local is None else to_local()
