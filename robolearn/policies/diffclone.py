"""DiffClone (Mani et al., 2024; the TOTO challenge at NeurIPS 2023): a diffusion policy that sees through a network tuned on the task's
own images, is shown its episode's last frame as the goal, and learns what one transition moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from hardware.types import RobotSpec
from robolearn.core.errors import UserError, require_at_least
from robolearn.core.types import Batch, Metrics, logged
from robolearn.models.encoders.base import EncoderConfig
from robolearn.models.encoders.resnet import ResNetConfig
from robolearn.models.mlp import mlp
from robolearn.policies.diffusion import DiffusionConfig, DiffusionPolicy


@dataclass(frozen=True)
class DiffCloneConfig(DiffusionConfig):
    """The entry's settings. The encoder's weights come from `robolearn pretrain --objective.type moco`."""

    history: int = 1
    horizon: int = 16
    units: Literal["range", "gaussian"] = "gaussian"
    goal: Literal["none", "image", "state", "language"] = "image"
    encoder: EncoderConfig | None = ResNetConfig(depth=50, tune="none", size=None)
    widths: tuple[int, ...] = (256, 512, 1024)
    kernel: int = 5
    sampler: Literal["ddim", "ddpm", "dpm"] = "ddpm"
    train_steps: int = 100
    sample_steps: int = 50
    transition: float = 0.1  # weight of what a transition moves, beside the denoising error; 0: no head, the features as they are
    head: int = 2048  # hidden numbers of the two layers over the frozen features

    def build(self, spec: RobotSpec) -> DiffClonePolicy:
        return DiffClonePolicy(self, spec)


class DiffClonePolicy(DiffusionPolicy):
    """Between the frozen features and the U-Net lie two layers; from what they make of an observation and of the next one,
    how the state changed between the two must be readable."""

    config: DiffCloneConfig  # pyright: ignore[reportIncompatibleVariableOverride] never reassigned
    reach: Tensor

    def __init__(self, config: DiffCloneConfig, spec: RobotSpec):
        super().__init__(config, spec)
        require_at_least("policy.transition", config.transition, 0, "of the denoising error")
        require_at_least("policy.head", config.head, 1, "numbers")
        self.register_buffer("reach", torch.zeros(2, self.action_dim))  # least and greatest normalised action of the data
        self.sees_future = config.transition > 0
        if config.transition > 0:
            if self.encoder is None or self.feature_norm is None:
                raise UserError(
                    "policy.transition: learns from features of what came after, which need a frozen encoder (policy.encoder.tune: none); "
                    "0 leaves it out"
                )
            features = self.encoder.out_dim
            self.look = nn.Sequential(mlp([features, config.head, features], nn.ReLU), nn.ReLU())
            self.moved = nn.Linear(2 * features, self.spec.state_dim)

    def fit_normalizers(self, state: np.ndarray, action: np.ndarray, features: np.ndarray | None = None) -> None:
        super().fit_normalizers(state, action, features)
        rows = self.action_norm.normalize(torch.as_tensor(self.space.rows(action, state), device=self.reach.device))
        self.reach.copy_(torch.stack([rows.amin(0), rows.amax(0)]))

    def visual(self, features: Float[Tensor, "B T E"]) -> Float[Tensor, "B T E"]:
        features = super().visual(features)
        return self.look(features).float() if self.config.transition > 0 else features

    def loss(self, batch: Batch) -> tuple[Float[Tensor, ""], Metrics]:
        """The denoising error and, weighted by `transition`, the share of the transitions that the features leave unexplained."""
        loss, metrics = super().loss(batch)
        if self.config.transition == 0:
            return loss, metrics
        unexplained = self.unexplained(batch)
        total = loss + self.config.transition * unexplained
        return total, {**metrics, "loss": logged(total), "denoising": metrics["loss"], "transition": logged(unexplained)}

    def unexplained(self, batch: Batch) -> Float[Tensor, ""]:
        """Mean square error of the state's change over one row, in units of the batch's root mean square change."""
        future, features = batch.future, self.encode(batch.obs)
        if future is None or future.features is None or batch.future_mask is None or features is None:
            raise ValueError("DiffClone: the batch lacks the features of what came after; read the windows with future and a features_key")
        both = torch.cat([self.visual(features[:, -1:]), self.visual(future.features[:, :1])], dim=-1).squeeze(1)
        change = future.state[:, 0] - batch.obs.state[:, -1]
        weight = (self.counts(batch)[:, 0] * batch.future_mask[:, 0]).unsqueeze(1)
        total = weight.sum().clamp(min=1e-6)
        size = ((change.square() * weight).sum(0) / total).sqrt()
        # A state that stands still, such as a gripper in most batches, is no change to explain.
        target = torch.where(size > 1e-6 * self.state_norm.scale, change / size.clamp(min=1e-12), torch.zeros_like(change))
        return ((self.moved(both).float() - target).square() * weight).sum(0).mean() / total

    def draw(
        self, cond: Float[Tensor, "B T C"], n: int, generator: torch.Generator, prefix: Float[Tensor, "B D A"] | None = None
    ) -> Float[Tensor, "B n H A"]:
        return super().draw(cond, n, generator, prefix).clamp(self.reach[0], self.reach[1])
