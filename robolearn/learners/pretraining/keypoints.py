"""Learning to see from a dataset's own images, without labels: keypoints that can redraw what moves.

A spatial autoencoder (Finn et al., ICRA 2016) whose decoder can only use where its keypoints are: each one stamps a
learned patch of colour on the average image at its own place (in the spirit of Jakab et al., NeurIPS 2018). To explain
a small object that moves, some keypoint has to sit on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robolearn.core.errors import UserError
from robolearn.core.types import Metrics
from robolearn.learners.pretraining.objective import Clip, Objective, ObjectiveConfig
from robolearn.models.encoders.base import CameraEncoder
from robolearn.models.encoders.cnn import SmallCnn
from robolearn.models.precision import autocast

SAMPLE = 512  # frames that the average image is taken from
DRAWING = 4.0  # times the network's learning rate: the patches start at nothing, and the keypoints can only learn once they show


@dataclass(frozen=True)
class PretrainConfig:
    """Of an encoder, before `train` teaches the policy; one pass for each camera."""

    steps: int = 600
    """Updates per camera."""
    batch_size: int = 32
    """Images per update."""
    lr: float = 2e-3
    max_frames: int = 4000
    """Frames of each camera that take part, drawn at random; more only cost memory."""
    tuned: bool = False
    """Pretrain an encoder that is not frozen, too, before it is trained with the policy."""


class Stamps(nn.Module):
    """Keypoints (N, 2 K) in [-1, 1] -> what they add to the average image, (N, 3, h, w).

    A keypoint is a Gaussian bump, and a bump is a column times a row, so its patch is drawn by two small matrix products:
    a whole update takes less than half of what it takes with the convolution that draws the same.
    """

    rows: Tensor
    columns: Tensor
    offsets: Tensor

    def __init__(self, keypoints: int, size: tuple[int, int], patch: int = 9):
        super().__init__()
        self.patches = nn.Parameter(torch.randn(keypoints, 3, patch, patch) * 0.02)
        self.register_buffer("rows", torch.linspace(-1, 1, size[0]) * (size[0] / 2))  # px, from the middle
        self.register_buffer("columns", torch.linspace(-1, 1, size[1]) * (size[1] / 2))
        self.register_buffer("offsets", torch.arange(patch) - (patch - 1) / 2)

    def forward(self, keypoints: Float[Tensor, "N E"]) -> Float[Tensor, "N 3 h w"]:
        x, y = keypoints.unsqueeze(-1).chunk(2, dim=1)  # (N, K, 1)
        down, across = self._bumps(self.rows, y), self._bumps(self.columns, x)  # (N, K, patch, h), (N, K, patch, w)
        drawn = torch.einsum("kcij,nkjx->nkicx", self.patches, across)
        return torch.einsum("nkiy,nkicx->ncyx", down, drawn)

    def _bumps(self, pixels: Tensor, centre: Tensor) -> Tensor:
        """A Gaussian one pixel wide around each row of a patch that is centred there; (N, K, patch, pixels)."""
        places = centre * (len(pixels) / 2) + self.offsets  # (N, K, patch)
        return torch.exp(-(pixels - places.unsqueeze(-1)).square() / 2)


@dataclass(frozen=True)
class KeypointsConfig(ObjectiveConfig):
    patch: int = 9  # px at half the image's size, side of what a keypoint can draw

    def build(self, encoder: CameraEncoder, images: Mapping[str, np.ndarray], action: np.ndarray) -> Keypoints:
        if not isinstance(encoder, SmallCnn):
            raise UserError(
                f"objective.type: keypoints: {type(encoder).__name__}'s features are no keypoints; expected encoder.type cnn, "
                "or another objective"
            )
        encoder.eval()
        small = {c: Redrawing.small(encoder, c, encoder.pixels(c, _channels_first(images[c][:SAMPLE]))) for c in encoder.cameras}
        return Keypoints(encoder, {c: Redrawing(encoder, c, sample, self.patch) for c, sample in small.items()})


class Redrawing(nn.Module):
    """One camera's part: what is left unexplained of its images, as a share of their variance.

    The error of a pixel counts with its deviation over time, so a few moving pixels are not lost among many still ones.
    """

    mean: Tensor
    weight: Tensor
    scale: Tensor

    def __init__(self, encoder: SmallCnn, camera: str, sample: Float[Tensor, "N 3 h w"], patch: int = 9):
        super().__init__()
        variance = sample.var(0)
        weight = variance.mean(0).sqrt()
        weight = weight / weight.mean().clamp(min=1e-6)
        self.register_buffer("mean", sample.mean(0))
        self.register_buffer("weight", weight)
        self.register_buffer("scale", (variance * weight).mean().clamp(min=1e-8))  # so that an untrained decoder's error is 1
        self.stamps = Stamps(encoder.keypoints, (sample.shape[-2], sample.shape[-1]), patch)

    @staticmethod
    def small(encoder: CameraEncoder, camera: str, pixels: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 h w"]:
        """What is redrawn: the image at half its size."""
        height, width = encoder.crop_size(camera)
        return F.interpolate(pixels, size=(max(height // 2, 1), max(width // 2, 1)), mode="area")

    def forward(self, keypoints: Float[Tensor, "N E"]) -> Float[Tensor, "N 3 h w"]:
        return self.stamps(keypoints)

    def unexplained(self, drawn: Float[Tensor, "N 3 h w"], target: Float[Tensor, "N 3 h w"]) -> Float[Tensor, ""]:
        return ((self.mean + drawn.float() - target).square() * self.weight).mean() / self.scale


class Keypoints(Objective):
    """The mean over the cameras of what is left unexplained."""

    def __init__(self, encoder: SmallCnn, redrawings: Mapping[str, Redrawing]):
        super().__init__(encoder)
        self.redrawings = nn.ModuleDict(redrawings)

    def train(self, mode: bool = True) -> Keypoints:
        super().train(mode)
        self.encoder.eval()  # no crops or shifts: the average image must stay where it is; gradients flow all the same
        return self

    def loss(self, clip: Clip) -> tuple[Float[Tensor, ""], Metrics]:
        return self.each_camera(lambda camera: (self.unexplained(camera, clip.images[camera][:, 0]), {}))

    def unexplained(self, camera: str, images: Tensor) -> Tensor:
        redrawing = self.redrawings[camera]
        assert isinstance(redrawing, Redrawing)
        pixels = self.encoder.pixels(camera, images)
        return redrawing.unexplained(redrawing(self.encoder.encode(camera, pixels)), redrawing.small(self.encoder, camera, pixels))

    def parameter_groups(self) -> list[dict[str, Any]]:
        drawing = list(self.redrawings.parameters())
        return [{"params": list(self.encoder.parameters()), "scale": 1.0}, {"params": drawing, "scale": DRAWING}]


def pretrain(
    encoder: SmallCnn,
    frames: Mapping[str, np.ndarray],
    config: PretrainConfig,
    generator: torch.Generator,
    on_step: Callable[[float], None] | None = None,
) -> Metrics:
    """`train`'s short way: teach `encoder` in place on uint8 (N, H, W, 3) of each camera, camera by camera.

    Returns each camera's unexplained share of the variance. on_step gets the progress, 0 to 1.
    """
    metrics: Metrics = {}
    encoder.eval()
    learning = [(p, p.requires_grad) for p in encoder.parameters()]
    encoder.requires_grad_(True)  # a policy freezes its encoder as soon as it has one; this is where it learns all the same
    try:
        for index, camera in enumerate(encoder.cameras):
            report = (lambda p, i=index: on_step((i + p) / len(encoder.cameras))) if on_step else None
            metrics[f"unexplained_{camera}"] = _pretrain_camera(encoder, camera, frames[camera], config, generator, report)
    finally:
        for parameter, before in learning:
            parameter.requires_grad_(before)
    return metrics


def _pretrain_camera(
    encoder: SmallCnn,
    camera: str,
    frames: np.ndarray,
    config: PretrainConfig,
    generator: torch.Generator,
    on_step: Callable[[float], None] | None,
) -> float:
    device = next(encoder.parameters()).device
    images = _channels_first(frames)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(images), (count,), generator=generator)
        pixels = encoder.pixels(camera, images[chosen].to(device))
        return pixels, Redrawing.small(encoder, camera, pixels)

    redrawing = Redrawing(encoder, camera, draw(min(len(images), SAMPLE))[1]).to(device)
    network, drawing = list(encoder.nets[camera].parameters()), list(redrawing.parameters())
    rates = [config.lr, DRAWING * config.lr]
    optimizer = torch.optim.AdamW([{"params": p, "lr": lr} for p, lr in zip((network, drawing), rates, strict=True)], fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=config.steps, pct_start=max(0.1, 2 / config.steps))
    losses = []
    for step in range(config.steps):
        pixels, target = draw(config.batch_size)
        with autocast(device):
            drawn = redrawing(encoder.encode(camera, pixels))
        loss = redrawing.unexplained(drawn, target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*network, *drawing], 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if on_step:
            on_step((step + 1) / config.steps)
    return float(np.mean(losses[-20:]))


def _channels_first(frames: np.ndarray) -> Tensor:
    return torch.from_numpy(frames).permute(0, 3, 1, 2)
