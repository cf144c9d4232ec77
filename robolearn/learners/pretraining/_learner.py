"""One optimizer over an objective's parameters: warm-up, cosine, clipping; what `fit` drives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from robolearn.core.errors import UserError
from robolearn.core.types import Metrics, logged
from robolearn.learners.pretraining.objective import Clip, Objective
from robolearn.learners.rate import check_rate, cosine, warmed
from robolearn.models.precision import Precision, autocast


@dataclass(frozen=True)
class LearningConfig:
    """AdamW for every objective; the papers' SGD, LARS and Adam each want a learning rate of their own."""

    lr: float = 3e-4
    """Highest learning rate, reached after the warm-up; falls to zero along a cosine."""
    warmup: int = 100
    """Updates until the learning rate is reached."""
    weight_decay: float = 1e-4
    clip: float = 1.0
    """Largest gradient norm."""
    precision: Precision = "auto"
    """Of the forward pass; auto: bfloat16 where the processor has matrix units for it."""


class Pretraining:
    """Updates an objective, its encoder included, in place."""

    def __init__(self, objective: Objective, config: LearningConfig):
        self.objective, self.config = objective, config
        check_rate("learning", config.lr, config.warmup, config.weight_decay, config.clip)
        self.optimizer = torch.optim.AdamW(objective.parameter_groups(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
        self.steps = 0
        self.progress = 0.0  # of the whole training, 0 to 1; whoever drives the loop sets it

    def update(self, clip: Clip) -> Metrics:
        """One step. UserError for a loss that is not finite; on a GPU `check` says so, so as not to wait for every one."""
        self.objective.train()
        lr = self._lr()
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["scale"]
        with autocast(clip.rows.device, self.config.precision):
            loss, metrics = self.objective.loss(clip)
        if loss.is_cpu:
            self.check(metrics)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.objective.parameters(), self.config.clip)
        self.optimizer.step()
        self.objective.after_step(self.progress)
        self.steps += 1
        return metrics | {"grad_norm": logged(norm), "lr": lr}

    def check(self, metrics: Metrics) -> None:
        if not math.isfinite(metrics["loss"]):
            raise UserError(f"learning.lr: {self.config.lr:g}; the loss is {float(metrics['loss'])} at step {self.steps}: lower it")

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data: an update after load_state_dict equals the one that would have followed."""
        return {
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.objective.generator.get_state(),
            "global": torch.get_rng_state(),  # dropout of whole blocks, where a backbone has it
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.objective.generator.set_state(state["generator"].cpu())
        torch.set_rng_state(state["global"].cpu())
        self.steps = state["steps"]

    def _lr(self) -> float:
        return self.config.lr * warmed(self.steps, self.config.warmup) * cosine(self.progress)
