"""Learning to see from a dataset's own images, without labels: keypoints that can redraw what moves.

A spatial autoencoder (Finn et al., ICRA 2016) whose decoder can only use where its keypoints are: each one stamps a
learned patch of colour on the average image at its own place (in the spirit of Jakab et al., NeurIPS 2018). To explain
a small object that moves, some keypoint has to sit on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robolearn.core.types import Metrics
from robolearn.models.encoders.cnn import SmallCnn
from robolearn.models.precision import autocast


@dataclass(frozen=True)
class PretrainConfig:
    """Of an encoder, on the images of the dataset; one pass for each camera."""

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


def pretrain(
    encoder: SmallCnn,
    frames: Mapping[str, np.ndarray],
    config: PretrainConfig,
    generator: torch.Generator,
    on_step: Callable[[float], None] | None = None,
) -> Metrics:
    """Train `encoder` in place on uint8 (N, H, W, 3) of each camera; returns each camera's unexplained share of the variance.

    The error of a pixel counts with its deviation over time, so a few moving pixels are not lost among many still ones.
    on_step gets the progress, 0 to 1.
    """
    metrics: Metrics = {}
    encoder.eval()  # no crops or shifts: the average image must stay where it is; gradients flow all the same
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
    images = torch.from_numpy(frames).permute(0, 3, 1, 2)
    height, width = encoder.crop_size(camera)
    size = (max(height // 2, 1), max(width // 2, 1))

    def draw(count: int) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(images), (count,), generator=generator)
        pixels = encoder.pixels(camera, images[chosen].to(device))
        return pixels, F.interpolate(pixels, size=size, mode="area")

    sample = draw(min(len(images), 512))[1]
    mean, variance = sample.mean(0), sample.var(0)
    weight = variance.mean(0).sqrt()
    weight = weight / weight.mean().clamp(min=1e-6)
    scale = (variance * weight).mean().clamp(min=1e-8)  # so that an untrained decoder's error is 1
    stamps = Stamps(encoder.keypoints, size).to(device)
    network, drawing = list(encoder.nets[camera].parameters()), list(stamps.parameters())
    rates = [config.lr, 4 * config.lr]  # the patches start at nothing, and the keypoints can only learn once they show
    optimizer = torch.optim.AdamW([{"params": p, "lr": lr} for p, lr in zip((network, drawing), rates, strict=True)], fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=config.steps, pct_start=max(0.1, 2 / config.steps))
    losses = []
    for step in range(config.steps):
        pixels, target = draw(config.batch_size)
        with autocast(device):
            drawn = stamps(encoder.encode(camera, pixels))
        loss = ((mean + drawn.float() - target).square() * weight).mean() / scale
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*network, *drawing], 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if on_step:
            on_step((step + 1) / config.steps)
    return float(np.mean(losses[-20:]))
