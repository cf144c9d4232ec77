"""Supervised learning of a policy from batches, with a moving average of its weights as the result."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from robolearn.core.errors import UserError, require_at_least, require_positive
from robolearn.core.types import Batch, Metrics, Policy, apply, logged
from robolearn.learners.forward import Forward, replicated
from robolearn.learners.ranks import Ranks
from robolearn.learners.rate import check_rate, cosine, warmed
from robolearn.learners.sharding import load_whole, load_whole_optimizer, shard, whole
from robolearn.models.ema import ema
from robolearn.models.precision import Precision, autocast


@dataclass(frozen=True)
class ImitationConfig:
    """AdamW as in Chi et al. (RSS 2023), with a larger step for a smaller network."""

    lr: float = 1e-3
    """Highest learning rate, reached after the warm-up."""
    encoder_lr: float | None = None
    """Times lr, for the encoder's own weights: 0.1 or 0.01 where pretrained ones are fine-tuned, as ACT does; None: lr, as for the rest."""
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
    accumulate: int = 1
    """Parts a batch is computed in, one after the other: the same update from less memory. May be changed when a training goes on."""
    compile: bool = False
    """torch.compile the loss, on a GPU into CUDA graphs. The first updates take minutes; pays on a GPU and in long trainings."""
    shard: bool = False
    """On several GPUs: each keeps a part of weights, gradients and moments (FSDP2) instead of a copy (DDP); for what is too large."""


class Imitation:
    """`policy` is the averaged copy, the one to evaluate and to save; the policy handed in is the one being trained.

    ranks: who trains it together; every one calls the same methods, each with its part of the batch, and all keep the same weights.
    """

    def __init__(self, policy: Policy, config: ImitationConfig | None = None, ranks: Ranks | None = None):
        self.config, self.trained, self.ranks = config or ImitationConfig(), policy, ranks or Ranks()
        require_at_least("imitation.accumulate", self.config.accumulate, 1, "parts of a batch")
        require_positive("imitation.ema_power", self.config.ema_power, "")
        check_rate("imitation", self.config.lr, self.config.warmup, self.config.weight_decay, self.config.clip)
        self.average = ema(policy, self.config.ema_power)
        self._forward: Any = Forward(policy, self.config.compile)
        self._whole: Policy | None = None
        if self.config.shard and self.config.compile:
            raise UserError("imitation.compile: not together with imitation.shard")
        if self.config.shard and self.ranks.count > 1:
            self._whole = copy.deepcopy(policy).eval().requires_grad_(False)
            for module in (self.average.module, self._forward):
                shard(module, self.ranks.device)
        elif self.ranks.count > 1:
            self._forward = replicated(self._forward)
        self.optimizer = torch.optim.AdamW(
            self._groups(policy),
            lr=self.config.lr,
            betas=(0.95, 0.999),
            weight_decay=self.config.weight_decay,
            fused=True,
        )
        self.steps = 0
        self.progress = 0.0  # of the whole training, 0 to 1; whoever drives the loop sets it

    @property
    def policy(self) -> Policy:
        return self.average.module if self._whole is None else self._whole  # type: ignore[return-value] the copy of a Policy is one

    def collect(self) -> Policy:
        """`policy`, brought up to date where its weights lie on several GPUs."""
        if self._whole is not None:
            self._whole.load_state_dict(whole(self.average.module.state_dict()))
        return self.policy

    def update(self, batch: Batch) -> Metrics:
        """One step of the optimizer and of the average. What is measured may still lie on the GPU, see core.types.logged.

        Raises FloatingPointError for a loss that is not finite; on a GPU `check` does, so as not to wait for every one.
        """
        if not self.trained.training:
            self.trained.train()
        lr = self._lr()
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("scale", 1.0)
        measured: Metrics = {}
        for number, (part, share, mean) in enumerate(parts := self._parts(batch), 1):
            with nullcontext() if number == len(parts) else self._alone(), autocast(batch.action.device, self.config.precision):
                loss, metrics = self._forward(part)
            if loss.is_cpu:
                self.check(metrics)
            if number == 1:  # not before the forward pass: memory given back there is only asked for again (7 % of a step on a CPU)
                self.optimizer.zero_grad(set_to_none=True)
            (loss * share).backward()
            measured = {name: measured.get(name, 0.0) + value * mean for name, value in metrics.items()}
        norm: Any = torch.nn.utils.clip_grad_norm_(self.trained.parameters(), self.config.clip)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        if norm.is_cpu:  # before it spoils the weights
            self.check(measured | {"grad_norm": float(norm)})
        self.optimizer.step()
        self.average.update_parameters(self.trained)
        self.steps += 1
        return measured | {"grad_norm": logged(norm), "lr": lr}

    def check(self, metrics: Metrics) -> None:
        """FloatingPointError for a loss, or a gradient, that is not finite."""
        for name in ("loss", "grad_norm"):
            if not math.isfinite(value := float(metrics.get(name, 0.0))):
                raise FloatingPointError(f"imitation: {name} is {value} at step {self.steps}; lower the learning rate ({self._lr():.2g})")

    def _groups(self, policy: Policy) -> list[Any]:
        """What learns; the encoder's part apart where it has a learning rate of its own."""
        learning, scale = [p for p in policy.parameters() if p.requires_grad], self.config.encoder_lr
        if scale is None:
            return learning
        require_positive("imitation.encoder_lr", scale, "times lr")
        encoder = getattr(policy, "encoder", None)
        own = set() if encoder is None else {p for p in encoder.parameters() if p.requires_grad}
        if not own:
            raise UserError(f"imitation.encoder_lr: {scale:g}, but this policy has no encoder that learns; expected none")
        return [{"params": [p for p in learning if p not in own]}, {"params": [p for p in learning if p in own], "scale": scale}]

    def _parts(self, batch: Batch) -> list[tuple[Batch, Tensor | float, Tensor | float]]:
        """(part, its share in the mean over all ranks' parts, times the ranks that DDP divides by; its share in this rank's)."""
        if self.ranks.count == self.config.accumulate == 1:
            return [(batch, 1.0, 1.0)]
        count = min(self.config.accumulate, len(batch.action))
        parts = [apply(batch, lambda tensor, i=i: tensor[i::count]) for i in range(count)]
        counts = getattr(self.trained, "counts", lambda part: torch.ones_like(part.pad, dtype=torch.float32))
        weight = torch.stack([counts(part).sum() for part in parts]).clamp(min=1e-6)
        share = weight * self.ranks.count / self.ranks.total(weight.sum())
        return list(zip(parts, share, weight / weight.sum(), strict=True))

    def _alone(self) -> Any:
        """Inside, gradients are only added up: the last part's backward pass exchanges them all."""
        return self._forward.no_sync() if isinstance(self._forward, DistributedDataParallel) else nullcontext()

    @property
    def noise(self) -> dict[str, Any]:
        """Where this rank's random numbers stand: the policy's own, and torch's, from which dropout draws."""
        generator, device = getattr(self.trained, "generator", None), self.ranks.device
        return {
            "policy": None if generator is None else generator.get_state(),
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    @noise.setter
    def noise(self, state: dict[str, Any]) -> None:
        if state["policy"] is not None:
            self.trained.generator.set_state(state["policy"].cpu())  # type: ignore[union-attr] it had one when saved
        torch.set_rng_state(state["cpu"].cpu())
        if state["cuda"] is not None and self.ranks.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"].cpu(), self.ranks.device)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data: an update after load_state_dict equals the one that would have followed, dropout included."""
        parts = {"trained": self.trained.state_dict(), "average": self.average.state_dict(), "optimizer": self.optimizer.state_dict()}
        return (parts if self._whole is None else whole(parts)) | {"steps": self.steps, "noise": self.ranks.gather(self.noise)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_whole(self.trained, state["trained"])
        load_whole(self.average, state["average"])
        load_whole_optimizer(self.optimizer, state["optimizer"])
        self.steps = state["steps"]
        if self.ranks.rank < len(state["noise"]):  # more ranks than before: the new ones draw their own
            self.noise = state["noise"][self.ranks.rank]

    def _lr(self) -> float:
        fall = cosine(self.progress) if self.config.schedule == "cosine" else 1.0
        return self.config.lr * warmed(self.steps, self.config.warmup) * fall
