"""VIP (Ma et al., ICLR 2023): the distance of two features is minus the value of reaching one from the other, learned from video alone.

The dual of a goal-conditioned offline RL problem without actions or rewards: start far from the goal, then come one step nearer with
each frame. V-PTR (Bhateja et al., 2023) pretrains a goal-conditioned value from the same kind of video by temporal differences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from robolearn.core.types import Metrics, logged
from robolearn.learners.pretraining.objective import Clip, Objective, ObjectiveConfig, distance, exact, width
from robolearn.models.encoders.base import CameraEncoder


@dataclass(frozen=True)
class VipConfig(ObjectiveConfig):
    gamma: float = 0.98
    projection: int = 256  # of a linear layer in which distances are values; 1024 in the paper; 0: the features themselves
    negatives: int = 3  # times that the middle frames of the batch are shuffled, to have no way to the goal
    l1: float = 1e-3  # of the embedding's norms
    l2: float = 1e-3

    @property
    def shortest(self) -> int:
        return 3

    def pick(self, lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A stretch of the episode: its first row, two neighbours in it, its last row."""
        start = rng.integers(0, lengths - 2)
        goal = rng.integers(start + 1, lengths)
        now = rng.integers(start, goal)
        return np.stack([start, now, now + 1, goal], axis=1)

    def build(self, encoder: CameraEncoder, images: Mapping[str, np.ndarray], action: np.ndarray) -> Vip:
        return Vip(encoder, self)


class Vip(Objective):
    """(1 - gamma) E[-V(o_0; g)] + log E[exp(1 + V(o; g) - gamma V(o'; g))], V the negative distance."""

    def __init__(self, encoder: CameraEncoder, config: VipConfig):
        super().__init__(encoder)
        self.config = config
        layers = {c: nn.Linear(width(encoder, c), config.projection) if config.projection else nn.Identity() for c in encoder.cameras}
        self.values = nn.ModuleDict(layers)

    def loss(self, clip: Clip) -> tuple[Float[Tensor, ""], Metrics]:
        return self.each_camera(lambda camera: self._loss(camera, clip))

    def _loss(self, camera: str, clip: Clip) -> tuple[Tensor, Metrics]:
        config = self.config
        features = self.embed(camera, self.encoder.pixels(camera, clip.images[camera]))
        with exact(features.device):
            points = self.values[camera](features)
        start, now, then, goal = points.unbind(1)
        value = (1 - config.gamma) * distance(start, goal).mean() + _soft_bellman(now, then, goal, config.gamma)
        if turns := self.others(len(points), config.negatives):
            away, further = (torch.cat([points.roll(turn, 0) for turn in turns]) for points in (now, then))
            value = value + _soft_bellman(away, further, goal.repeat(len(turns), 1), config.gamma)
        sparsity = config.l1 * points.abs().sum(-1).mean() + config.l2 * points.norm(dim=-1).mean()
        nearer = (distance(then, goal) < distance(now, goal)).float().mean()  # of all steps, those that come nearer to the goal
        return value + sparsity, {"value": logged(value), "nearer": logged(nearer)}


def _soft_bellman(now: Tensor, then: Tensor, goal: Tensor, gamma: float) -> Tensor:
    """The log of the mean of exp: each step that does not begin at the goal costs 1."""
    error = 1 - distance(now, goal) + gamma * distance(then, goal)
    return error.logsumexp(0) - float(np.log(len(error)))
