"""A policy's loss as it is computed in training: plain, compiled, on several GPUs."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from robolearn.core.types import Batch, Metrics, Policy


class Forward(nn.Module):
    """`policy.loss` as a module's forward, which is where DDP and FSDP take hold."""

    def __init__(self, policy: Policy, compiled: bool = False):
        super().__init__()
        self.policy = policy
        self._loss = policy.loss
        self._compiled = False
        if compiled:
            device = next(policy.parameters()).device
            if missing := _missing(device):
                _say(f"imitation.compile: {missing}; training goes on without")
                return
            # CUDA graphs replay a whole step at once; a CPU has no launches to save.
            self._loss = torch.compile(policy.loss, dynamic=False, mode="reduce-overhead" if device.type == "cuda" else None)
            self._compiled = True

    def forward(self, batch: Batch) -> tuple[Tensor, Metrics]:
        if not self._compiled:
            return self._loss(batch)
        torch.compiler.cudagraph_mark_step_begin()
        try:
            loss, metrics = self._loss(batch)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            _say(f"imitation.compile: {type(error).__name__}: {str(error).strip().splitlines()[0]}; training goes on without")
            self._loss, self._compiled = self.policy.loss, False
            return self._loss(batch)
        # The next replay writes over what this one gave.
        return loss, {name: value.clone() if isinstance(value, Tensor) else value for name, value in metrics.items()}


def replicated(forward: Forward) -> nn.Module:
    """A copy on every rank; gradients are averaged while they are computed (DDP)."""
    # Weights without a part in the loss are looked for every time: what a policy leaves out may change from batch to batch.
    return DistributedDataParallel(forward, find_unused_parameters=True)


def _missing(device: torch.device) -> str:
    """What torch.compile needs and is not here; empty where nothing is."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "no triton here"
    named: Any = os.environ.get("CXX")
    compilers = (named,) if named else ("g++", "clang++", "c++", "cl")
    return "" if any(shutil.which(name) for name in compilers) else f"no C++ compiler here ({', '.join(compilers)})"


def _say(line: str) -> None:
    Console(stderr=True, soft_wrap=True).print(line, highlight=False)
