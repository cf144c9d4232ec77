"""What every self-supervised objective is: an encoder, what is learned beside it, and a loss on clips of a dataset's own images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from robolearn.core.errors import UserError
from robolearn.core.types import Metrics, apply, logged
from robolearn.models.encoders.base import CameraEncoder


@dataclass(frozen=True)
class Clip:
    """T images of each of B episodes, and the K actions that followed the first of them where an objective asks for any."""

    images: Mapping[str, UInt8[Tensor, "B T 3 H W"]]
    rows: Int[Tensor, "B T"]  # of the images, since their episode began
    action: Float[Tensor, "B K A"] | None = None  # physical units

    def to(self, device: torch.device | str) -> Clip:
        return self.apply(lambda tensor: tensor.to(device, non_blocking=True))

    def apply(self, function: Callable[[Tensor], Tensor]) -> Clip:
        return Clip(*(apply(part, function) for part in (self.images, self.rows, self.action)))


@dataclass(frozen=True)
class ObjectiveConfig:
    """Which rows of an episode make a clip, and how the objective is built. The default: single frames, each as likely as any other."""

    @property
    def shortest(self) -> int:
        """Rows that an episode must have to take part."""
        return 1

    @property
    def actions(self) -> int:
        """K, the actions of a clip."""
        return 0

    def pick(self, lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(B,) rows of the episodes that were drawn -> (B, T) rows in them, the clip's images."""
        return rng.integers(0, lengths)[:, None]

    def build(self, encoder: CameraEncoder, images: Mapping[str, np.ndarray], action: np.ndarray) -> Objective:
        """images: some frames of each camera, uint8 (N, H, W, 3); action: all actions (N, A). For what must be known beforehand."""
        raise UserError(f"objective.type: {type(self).__name__} is what all share; pick an objective by its type")


class Objective(nn.Module):
    """`encoder` is what is wanted in the end; the rest (heads, slow copies, decoders) is scaffolding.

    All noise (views, masks, crops) comes from `generator`, so that a run that is resumed goes on as one that was never cut.
    """

    def __init__(self, encoder: CameraEncoder):
        super().__init__()
        self.encoder = encoder.requires_grad_(True)  # a policy's frozen one learns here all the same
        self.generator = torch.Generator()
        encoder.generator = self.generator

    @abstractmethod
    def loss(self, clip: Clip) -> tuple[Float[Tensor, ""], Metrics]:
        """What is minimised, and its parts; changes nothing but running statistics of normalisation layers."""

    def after_step(self, progress: float) -> None:
        """Called after each update with how far the training is, 0 to 1: slow copies and queues move here."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained; `scale` multiplies the learning rate."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "scale": 1.0}]

    def each_camera(self, loss: Callable[[str], tuple[Tensor, Metrics]]) -> tuple[Tensor, Metrics]:
        """The mean over the cameras, of metrics too: each has a network, or its share of one, to teach."""
        losses, metrics = zip(*(loss(camera) for camera in self.encoder.cameras), strict=True)
        total = torch.stack(losses).mean()
        return total, {"loss": logged(total)} | {name: sum(m[name] for m in metrics) / len(metrics) for name in metrics[0]}

    def others(self, count: int, times: int) -> list[int]:
        """Turns of a batch of `count`, each of which puts another clip in every clip's place."""
        return torch.randint(1, count, (times,), generator=self.generator).tolist() if count > 1 else []

    def embed(self, camera: str, pixels: Float[Tensor, "B T 3 h w"]) -> Float[Tensor, "B T E"]:
        return self.encoder.encode(camera, pixels.flatten(0, 1)).float().unflatten(0, pixels.shape[:2])


def exact(device: torch.device) -> torch.autocast:
    """Inside, numbers are not rounded to bfloat16: for logits and distances, in which little differences count."""
    return torch.autocast(device.type, enabled=False)


@contextmanager
def black(encoder: CameraEncoder, camera: str) -> Iterator[Float[Tensor, "1 3 h w"]]:
    """A black image of this camera to try a network with; nothing is learned from it, running statistics neither."""
    training, device = encoder.training, next(encoder.parameters()).device
    encoder.eval()
    try:
        with torch.no_grad():
            yield torch.zeros(1, 3, *encoder.crop_size(camera), device=device)
    finally:
        encoder.train(training)


def width(encoder: CameraEncoder, camera: str) -> int:
    """Features of one camera."""
    with black(encoder, camera) as image:
        return encoder.encode(camera, image).shape[-1]


def mlp(sizes: Sequence[int], norm: bool = False) -> nn.Sequential:
    """Linear layers with ReLU between them; norm: after BatchNorm."""
    layers: list[nn.Module] = []
    for before, after in zip(sizes[:-2], sizes[1:-1], strict=True):
        layers += [nn.Linear(before, after), *([nn.BatchNorm1d(after)] if norm else []), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


def distance(one: Float[Tensor, "*N E"], other: Float[Tensor, "*N E"]) -> Float[Tensor, "*N"]:
    return (one - other).square().sum(-1).add(1e-12).sqrt()  # at 0 the square root has no slope
