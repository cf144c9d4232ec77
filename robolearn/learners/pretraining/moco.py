"""MoCo v2 (Chen, Fan, Girshick and He, 2020; He et al., CVPR 2020): one image seen twice is one thing, every other image another.

What DiffClone (Mani et al., 2024) tunes its ResNet-50 by on the robot's own images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robolearn.core.errors import require_at_least, require_positive, require_share
from robolearn.core.types import Metrics, logged
from robolearn.learners.pretraining._views import ViewsConfig, view
from robolearn.learners.pretraining.objective import Clip, Objective, ObjectiveConfig, exact, mlp, width
from robolearn.models.ema import follow, slow_copy
from robolearn.models.encoders.base import CameraEncoder


@dataclass(frozen=True)
class MocoConfig(ObjectiveConfig):
    queue: int = 4096  # keys of earlier images to tell apart from; 65536 in the paper, for 1.3 million images
    momentum: float = 0.999  # of the encoder of keys; a short training needs less (0.99 for 1000 updates)
    temperature: float = 0.2
    projection: int = 128
    views: ViewsConfig = ViewsConfig()

    def build(self, encoder: CameraEncoder, images: Mapping[str, np.ndarray], action: np.ndarray) -> Moco:
        return Moco(encoder, self)


class Moco(Objective):
    """InfoNCE between a query and its key, against a queue of keys from a slowly moving copy of the encoder."""

    queue: Tensor  # (cameras, queue, projection)

    def __init__(self, encoder: CameraEncoder, config: MocoConfig):
        super().__init__(encoder)
        require_at_least("objective.queue", config.queue, 1, "keys")
        require_at_least("objective.projection", config.projection, 1, "numbers")
        require_positive("objective.temperature", config.temperature, "")
        require_share("objective.momentum", config.momentum)
        self.config = config
        self.heads = nn.ModuleDict({c: mlp([(w := width(encoder, c)), w, config.projection]) for c in encoder.cameras})
        self.slow_encoder, self.slow_heads = slow_copy(encoder), slow_copy(self.heads)
        self.register_buffer("queue", F.normalize(torch.randn(len(encoder.cameras), config.queue, config.projection), dim=-1))
        self._keys: dict[str, Tensor] = {}

    def loss(self, clip: Clip) -> tuple[Float[Tensor, ""], Metrics]:
        return self.each_camera(lambda camera: self._loss(camera, clip))

    def after_step(self, progress: float) -> None:
        follow(self.slow_encoder, self.encoder, 1 - self.config.momentum)
        follow(self.slow_heads, self.heads, 1 - self.config.momentum)
        for index, keys in enumerate(self._keys.values()):  # the newest first; the oldest fall off the end
            self.queue[index] = torch.cat([keys, self.queue[index]])[: self.config.queue]
        self._keys = {}

    def _loss(self, camera: str, clip: Clip) -> tuple[Tensor, Metrics]:
        pixels = self.encoder.pixels(camera, clip.images[camera])[:, 0]
        seen, again = (view(pixels, self.config.views, self.generator) for _ in range(2))
        query = F.normalize(self.heads[camera](self.encoder.encode(camera, seen)).float(), dim=-1)
        with torch.no_grad():
            key = F.normalize(self.slow_heads[camera](self.slow_encoder.encode(camera, again)).float(), dim=-1)
        self._keys[camera] = key
        queue = self.queue[list(self.encoder.cameras).index(camera)]
        with exact(query.device):
            logits = torch.cat([(query * key).sum(-1, keepdim=True), query @ queue.T], dim=1) / self.config.temperature
        target = torch.zeros(len(logits), dtype=torch.long, device=logits.device)  # the key of the same image comes first
        accuracy = (logits.argmax(1) == 0).float().mean()
        return F.cross_entropy(logits, target), {"accuracy": logged(accuracy)}
