"""Supervised learning of a policy from batches, with a moving average of its weights as the result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch

from robolearn.core.types import Batch, Metrics, Policy
from robolearn.models.ema import ema
from robolearn.models.precision import Precision, autocast


@dataclass(frozen=True)
class ImitationConfig:
    """AdamW as in Chi et al. (RSS 2023), with a larger step for a smaller network."""

    lr: float = 1e-3
    """Highest learning rate, reached after the warm-up."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """cosine: falls to zero as the training's progress (of steps or of minutes) goes from 0 to 1."""
    warmup: int = 200
    """Updates until the learning rate is reached."""
    weight_decay: float = 1e-6
    clip: float = 1.0
    """Largest gradient norm."""
    ema_power: float = 0.75
    """Decay of the averaged weights after n updates: 1 - (1 + n)^-power."""
    precision: Precision = "auto"
    """Of the forward pass in training; auto: bfloat16 where the processor has matrix units for it."""


class Imitation:
    """`policy` is the averaged copy, the one to evaluate and to save; the policy handed in is the one being trained."""

    def __init__(self, policy: Policy, config: ImitationConfig | None = None):
        self.config, self.trained = config or ImitationConfig(), policy
        self.average = ema(policy, self.config.ema_power)
        self.optimizer = torch.optim.AdamW(
            [p for p in policy.parameters() if p.requires_grad],
            lr=self.config.lr,
            betas=(0.95, 0.999),
            weight_decay=self.config.weight_decay,
            fused=True,
        )
        self.steps = 0
        self.progress = 0.0  # of the whole training, 0 to 1; whoever drives the loop sets it

    @property
    def policy(self) -> Policy:
        return self.average.module  # type: ignore[return-value] the copy of a Policy is one

    def update(self, batch: Batch) -> Metrics:
        """One step of the optimizer and of the average. Raises FloatingPointError for a loss that is not finite."""
        self.trained.train()
        lr = self._lr()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with autocast(batch.action.device, self.config.precision):
            loss, metrics = self.trained.loss(batch)
        if not math.isfinite(metrics["loss"]):
            raise FloatingPointError(f"imitation: loss is {metrics['loss']} at step {self.steps}; lower the learning rate ({lr:.2g})")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.trained.parameters(), self.config.clip)
        self.optimizer.step()
        self.average.update_parameters(self.trained)
        self.steps += 1
        return metrics | {"grad_norm": float(norm), "lr": lr}

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data: an update after load_state_dict equals the one that would have followed."""
        generator = getattr(self.trained, "generator", None)
        return {
            "trained": self.trained.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
            "generator": None if generator is None else generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.trained.load_state_dict(state["trained"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]
        if state["generator"] is not None:
            self.trained.generator.set_state(state["generator"].cpu())  # type: ignore[union-attr] it had one when saved

    def _lr(self) -> float:
        warm = min(1.0, (self.steps + 1) / max(self.config.warmup, 1))
        cosine = 0.5 * (1 + math.cos(math.pi * min(self.progress, 1.0))) if self.config.schedule == "cosine" else 1.0
        return self.config.lr * warm * cosine
