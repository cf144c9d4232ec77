"""A small convolutional network with a spatial softmax: trained with the policy, or by self-supervision and frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from robolearn.core.errors import UserError, require_at_least
from robolearn.models.encoders._heads import SpatialSoftmax
from robolearn.models.encoders.base import CameraEncoder, EncoderConfig, Sizes


@dataclass(frozen=True)
class SmallCnnConfig(EncoderConfig):
    channels: tuple[int, ...] = (32, 32, 32)  # of the layers before the keypoint maps
    strides: tuple[int, ...] = (2, 2, 1)
    keypoints: int = 32  # per camera; two features each
    crop: float = 0.875  # 84 of 96 px

    def build(self, cameras: Sizes) -> SmallCnn:
        return SmallCnn(cameras, self)


class SmallCnn(CameraEncoder):
    """Convolutions (GroupNorm: a moving average of weights and BatchNorm do not mix), then K keypoints per camera."""

    def __init__(self, cameras: Sizes, config: SmallCnnConfig):
        super().__init__(cameras, config)
        if config.tune not in ("full", "none"):
            raise UserError(f"encoder.tune: {config.tune} is for pretrained networks; a small one is trained whole (full) or not (none)")
        channels, strides, keypoints = config.channels, config.strides, config.keypoints
        require_at_least("encoder.keypoints", keypoints, 1, "keypoints of each camera")
        if len(channels) != len(strides):
            raise UserError(f"encoder: {len(channels)} channels {tuple(channels)} but {len(strides)} strides {tuple(strides)}")
        if bad := [width for width in channels if width < 8 or width % (width // 8)]:  # GroupNorm takes about eight at a time
            raise UserError(f"encoder.channels: {bad[0]}; expected multiples of 8")
        self.nets = nn.ModuleDict({name: _net(channels, strides, keypoints) for name in self.cameras})
        self.keypoints = keypoints
        self.out_dim = 2 * keypoints * len(self.cameras)
        if config.frozen:
            self.requires_grad_(False)

    def encode(self, camera: str, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N E"]:
        return self.nets[camera](images - 0.5)


def _net(channels: Sequence[int], strides: Sequence[int], keypoints: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    last = 3
    for width, stride in zip(channels, strides, strict=True):
        kernel = 5 if stride > 1 else 3
        layers += [nn.Conv2d(last, width, kernel, stride, kernel // 2), nn.GroupNorm(width // 8, width), nn.ReLU(inplace=True)]
        last = width
    return nn.Sequential(*layers, nn.Conv2d(last, keypoints, 3, padding=1), SpatialSoftmax())
