"""TACO (Zheng et al., NeurIPS 2023): what is seen now and the next K actions, together, point at what is seen after them.

Features that can tell which future a sequence of actions leads to hold what the actions can change: the arm, and what it touches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from robolearn.core.errors import require_at_least
from robolearn.core.types import Metrics, logged
from robolearn.learners.pretraining.objective import Clip, Objective, ObjectiveConfig, exact, mlp, width
from robolearn.models.encoders.base import CameraEncoder
from robolearn.models.normalizer import Normalizer


@dataclass(frozen=True)
class TacoConfig(ObjectiveConfig):
    steps: int = 3  # K
    latent: int = 64  # units that states are compared in
    hidden: int = 256
    action_latent: int = 0  # units of one embedded action; 0: a quarter more than it has, and one, as in the paper
    curl: bool = True  # also tell the present from another crop of itself (Laskin et al., ICML 2020), as the paper does

    @property
    def shortest(self) -> int:
        return self.steps + 1

    @property
    def actions(self) -> int:
        return self.steps

    def pick(self, lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A row and the one K later."""
        now = rng.integers(0, lengths - self.steps)
        return np.stack([now, now + self.steps], axis=1)

    def build(self, encoder: CameraEncoder, images: Mapping[str, np.ndarray], action: np.ndarray) -> Taco:
        require_at_least("objective.steps", self.steps, 1, "actions")
        return Taco(encoder, self, action)


class Taco(Objective):
    """InfoNCE over the batch with a learned product; all cameras are one state."""

    def __init__(self, encoder: CameraEncoder, config: TacoConfig, action: Float[np.ndarray, "N A"]):
        super().__init__(encoder)
        self.config = config
        dim, latent = action.shape[1], config.latent
        embedded = config.action_latent or int(1.25 * dim) + 1
        self.action_norm = Normalizer(dim, "gaussian")
        self.action_norm.fit(action)
        self.action_embedding = nn.Sequential(nn.Linear(dim, embedded), nn.Tanh())
        self.state = nn.Sequential(nn.Linear(sum(width(encoder, c) for c in encoder.cameras), latent), nn.LayerNorm(latent), nn.Tanh())
        self.outcome = mlp([latent + config.steps * embedded, config.hidden, latent])
        self.product = nn.Parameter(nn.init.orthogonal_(torch.empty(latent, latent)))

    def loss(self, clip: Clip) -> tuple[Float[Tensor, ""], Metrics]:
        assert clip.action is not None
        now = self._state({c: images[:, 0] for c, images in clip.images.items()})
        with torch.no_grad():
            then = self._state({c: images[:, 1] for c, images in clip.images.items()})
        actions = self.action_embedding(self.action_norm.normalize(clip.action)).flatten(1).float()
        loss, accuracy = self._contrast(self.outcome(torch.cat([now, actions], dim=-1)).float(), then)
        metrics = {"taco": logged(loss), "accuracy": accuracy}
        if self.config.curl:
            with torch.no_grad():
                again = self._state({c: images[:, 0] for c, images in clip.images.items()})
            curl, _ = self._contrast(now, again)
            loss, metrics = loss + curl, metrics | {"curl": logged(curl)}
        return loss, {"loss": logged(loss)} | metrics

    def _state(self, images: Mapping[str, UInt8[Tensor, "B 3 H W"]]) -> Float[Tensor, "B L"]:
        """With crops or shifts of its own each time, where the encoder draws any."""
        features = [self.encoder.encode(c, self.encoder.pixels(c, images[c])).float() for c in self.encoder.cameras]
        return self.state(torch.cat(features, dim=-1)).float()

    def _contrast(self, query: Tensor, key: Tensor) -> tuple[Tensor, float | Tensor]:
        with exact(query.device):
            logits = query @ self.product @ key.T
        target = torch.arange(len(logits), device=logits.device)
        return F.cross_entropy(logits, target), logged((logits.argmax(1) == target).float().mean())
