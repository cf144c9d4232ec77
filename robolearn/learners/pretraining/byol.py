"""BYOL (Grill et al., NeurIPS 2020): predict what a slow copy of yourself says about another view of the same image. No negatives.

TOTO (Zhou et al., ICRA 2023) trains a ResNet-18 by it on the robot's own images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robolearn.core.errors import require_at_least, require_share
from robolearn.core.types import Metrics, logged
from robolearn.learners.pretraining._views import ViewsConfig, view
from robolearn.learners.pretraining.objective import Clip, Objective, ObjectiveConfig, mlp, width
from robolearn.models.ema import follow, slow_copy
from robolearn.models.encoders.base import CameraEncoder


@dataclass(frozen=True)
class ByolConfig(ObjectiveConfig):
    momentum: float = 0.99  # of the slow copy at the start; rises to 1 along a cosine (0.996 in the paper, for 300 times as many updates)
    hidden: int = 1024  # units of projector and predictor; 4096 in the paper
    projection: int = 256
    views: ViewsConfig = ViewsConfig()

    def build(self, encoder: CameraEncoder, images: Mapping[str, np.ndarray], action: np.ndarray) -> Byol:
        return Byol(encoder, self)


class Byol(Objective):
    """Both views predict each other; the distance of unit vectors, 0 to 4, is the loss."""

    def __init__(self, encoder: CameraEncoder, config: ByolConfig):
        super().__init__(encoder)
        require_at_least("objective.hidden", config.hidden, 1, "units")
        require_at_least("objective.projection", config.projection, 1, "numbers")
        require_share("objective.momentum", config.momentum)
        self.config = config
        hidden, out = config.hidden, config.projection
        self.projectors = nn.ModuleDict({c: mlp([width(encoder, c), hidden, out], norm=True) for c in encoder.cameras})
        self.predictors = nn.ModuleDict({c: mlp([out, hidden, out], norm=True) for c in encoder.cameras})
        self.slow_encoder, self.slow_projectors = slow_copy(encoder), slow_copy(self.projectors)

    def loss(self, clip: Clip) -> tuple[Float[Tensor, ""], Metrics]:
        return self.each_camera(lambda camera: self._loss(camera, clip))

    def after_step(self, progress: float) -> None:
        momentum = 1 - (1 - self.config.momentum) * (math.cos(math.pi * min(progress, 1.0)) + 1) / 2
        follow(self.slow_encoder, self.encoder, 1 - momentum)
        follow(self.slow_projectors, self.projectors, 1 - momentum)

    def _loss(self, camera: str, clip: Clip) -> tuple[Tensor, Metrics]:
        pixels = self.encoder.pixels(camera, clip.images[camera])[:, 0]
        views = [view(pixels, self.config.views, self.generator) for _ in range(2)]
        online = [self.predictors[camera](self.projectors[camera](self.encoder.encode(camera, v))).float() for v in views]
        with torch.no_grad():
            target = [self.slow_projectors[camera](self.slow_encoder.encode(camera, v)).float() for v in views]
        similar = [F.cosine_similarity(a, b, dim=-1).mean() for a, b in zip(online, reversed(target), strict=True)]
        spread = F.normalize(target[0], dim=-1).std(0).mean() * math.sqrt(target[0].shape[-1])
        return 2 - (similar[0] + similar[1]), {"spread": logged(spread)}  # spread: 1 for directions all over, 0 for one and the same
