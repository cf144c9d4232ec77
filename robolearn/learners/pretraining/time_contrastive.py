"""Time-contrastive learning, as R3M does it (Nair et al., CoRL 2022; after Sermanet et al., ICRA 2018), without its language part.

Frames that are close in time are close in the features' space, closer than frames further away and than frames of other clips.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from robolearn.core.errors import UserError
from robolearn.core.types import Metrics, logged
from robolearn.learners.pretraining.objective import Clip, Objective, ObjectiveConfig, distance
from robolearn.models.encoders.base import CameraEncoder


@dataclass(frozen=True)
class TimeContrastiveConfig(ObjectiveConfig):
    span: int = 0  # rows that the three frames of a clip lie apart at most; 0: anywhere in their episode, as in the paper
    negatives: int = 3  # frames of other clips that each frame is told apart from
    l1: float = 1e-5  # of the features' norms: few of them, and small
    l2: float = 1e-5

    @property
    def shortest(self) -> int:
        return 3

    def pick(self, lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """i < j < k."""
        reach = np.minimum(lengths, self.span + 1) if self.span else lengths
        start = rng.integers(0, lengths - reach + 1)
        i = rng.integers(0, reach)
        j = (i + rng.integers(1, reach)) % reach
        k = rng.integers(0, reach - 2)  # of the rows that are left
        low, high = np.minimum(i, j), np.maximum(i, j)
        k += k >= low
        k += k >= high
        return start[:, None] + np.sort(np.stack([i, j, k], axis=1), axis=1)

    def build(self, encoder: CameraEncoder, images: Mapping[str, np.ndarray], action: np.ndarray) -> TimeContrastive:
        if self.span == 1 or self.span < 0:
            raise UserError(f"objective.span: {self.span} rows; expected 0, or 2 and more")
        return TimeContrastive(encoder, self)


class TimeContrastive(Objective):
    """Similarity is the negative distance of two features."""

    def __init__(self, encoder: CameraEncoder, config: TimeContrastiveConfig):
        super().__init__(encoder)
        self.config = config

    def loss(self, clip: Clip) -> tuple[Float[Tensor, ""], Metrics]:
        return self.each_camera(lambda camera: self._loss(camera, clip))

    def _loss(self, camera: str, clip: Clip) -> tuple[Tensor, Metrics]:
        features = self.embed(camera, self.encoder.pixels(camera, clip.images[camera]))
        first, second, third = features.unbind(1)
        target = torch.zeros(len(first), dtype=torch.long, device=first.device)
        turns, far = self.others(len(first), self.config.negatives), -distance(first, third)
        near, losses = [-distance(first, second), -distance(third, second)], []
        for closer, frame in zip(near, (first, third), strict=True):
            others = [-distance(frame, frame.roll(turn, 0)) for turn in turns]
            losses.append(F.cross_entropy(torch.stack([closer, far, *others], dim=1), target))
        contrast = torch.stack(losses).mean()
        sparsity = self.config.l1 * features.abs().sum(-1).mean() + self.config.l2 * features.norm(dim=-1).mean()
        return contrast + sparsity, {"contrast": logged(contrast), "ordered": logged(((near[0] > far) & (near[1] > far)).float().mean())}
