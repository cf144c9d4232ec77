"""What every encoder shares: its config builds it, features of all cameras side by side, uint8 becomes float here and nowhere else."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from robolearn.core.errors import UserError, require_at_least
from robolearn.core.types import Encoder
from robolearn.models.augment import Augment, augment

Sizes = Mapping[str, tuple[int, int]]  # camera -> (height_px, width_px)


@dataclass(frozen=True)
class EncoderConfig(Augment):
    """How the images of all cameras are changed in training (`crop`, `shift`, ...), and what the network learns."""

    per_camera: Mapping[str, Augment] = field(default_factory=dict)  # for a camera of that name, in place of the above
    weights: str = ""  # a local file, else an address on a hub or of the web; empty: none
    tune: Literal["full", "last", "lora", "none"] = "full"  # what is trained with the policy; none: features are computed once and cached
    blocks: int = 2  # that learn with tune last, beside what pools
    rank: int = 8  # of what is added to every layer with tune lora

    @property
    def frozen(self) -> bool:
        return self.tune == "none"

    def build(self, cameras: Sizes) -> CameraEncoder:
        """The network without its weights: a checkpoint brings its own, `load_weights` fetches them."""
        raise UserError(f"encoder.type: {type(self).__name__} is what all share; pick a kind of encoder by its type")


class CameraEncoder(Encoder):
    """Features of each camera side by side, in the order of `cameras`; in training every sample's images are changed at random.

    The time steps of a sample are changed alike. Random numbers come from `generator`, or torch's own where it is None.
    """

    config: EncoderConfig
    fixed = ""  # what else features depend on, beside config, cameras and weights: how images are prepared, options of the network

    def __init__(self, cameras: Sizes, config: EncoderConfig):
        super().__init__()
        if not cameras:
            raise ValueError("encoder: no cameras; an encoder needs at least one")
        config.check("encoder")
        require_at_least("encoder.blocks", config.blocks, 1, "blocks")
        require_at_least("encoder.rank", config.rank, 1, "dimensions")
        for name, own in config.per_camera.items():
            if name not in cameras:
                raise UserError(f"encoder.per_camera: no camera '{name}'; valid: {', '.join(cameras)}")
            own.check(f"encoder.per_camera.{name}")
        self.config = config
        self.cameras = {k: (int(v[0]), int(v[1])) for k, v in cameras.items()}
        self.augment: dict[str, Augment] = {name: config.per_camera.get(name, config) for name in self.cameras}
        self.generator: torch.Generator | None = None
        self.still = config.tune != "full"  # BatchNorm's statistics: they would drift away from weights that stay

    @property
    def tokens(self) -> int:
        """The features are as many vectors of equal length, one after the other: features.unflatten(-1, (tokens, -1))."""
        return len(self.cameras) if self.out_dim % len(self.cameras) == 0 else 1

    def load_weights(self, weights: str) -> str:
        """Fill the network from a local file or a hub and say which. Raises UserError that names both where neither works."""
        there = "cannot be read as a file that robolearn wrote" if Path(weights).expanduser().exists() else "no such file"
        raise UserError(
            f"encoder.weights: '{weights}': {there}, and {type(self).__name__} has no public weights; give an encoder.safetensors of "
            "robolearn pretrain or a policy.pt, or leave it empty and pretrain"
        )

    @abstractmethod
    def encode(self, camera: str, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N E"]:
        """Features of one camera from pixels in [0, 1], already cropped."""

    def train(self, mode: bool = True) -> CameraEncoder:
        super().train(mode)
        if self.still or {p.requires_grad for p in self.parameters()} == {True, False}:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def requires_grad_(self, requires_grad: bool = True) -> CameraEncoder:
        """With True, as self-supervision asks for, a frozen network learns after all: as a whole, its statistics too."""
        self.still = self.still and not requires_grad
        super().requires_grad_(requires_grad)
        return self

    def crop_size(self, camera: str) -> tuple[int, int]:
        """(height, width) [px] of what the network sees of a camera."""
        height, width = self.cameras[camera]
        return round(height * self.augment[camera].crop), round(width * self.augment[camera].crop)

    def forward(self, images: Mapping[str, UInt8[Tensor, "B T 3 H W"]]) -> Float[Tensor, "B T E"]:
        if missing := [name for name in self.cameras if name not in images]:
            raise ValueError(f"encoder: no images of camera '{missing[0]}'; got {sorted(images)}")
        return torch.cat([self._camera(name, images[name]) for name in self.cameras], dim=-1)

    def pixels(self, camera: str, images: UInt8[Tensor, "N *T 3 H W"]) -> Float[Tensor, "N *T 3 h w"]:
        """One camera's images as the network sees them: checked, changed at random or cut from the centre, in [0, 1]."""
        self.check(camera, images)
        if self.training:
            return augment(images, self.augment[camera], self.crop_size(camera), self.generator)
        return _centre(images, *self.crop_size(camera)).float().div_(255)

    def check(self, camera: str, images: Tensor) -> None:
        """ValueError for anything but bytes of three channels first, of this camera's size."""
        if images.dtype != torch.uint8:
            raise ValueError(f"encoder: camera '{camera}' is {images.dtype}; expected uint8")
        height, width = self.cameras[camera]
        if tuple(images.shape[-3:]) != (3, height, width):
            raise ValueError(f"encoder: camera '{camera}' is {tuple(images.shape[-3:])}; expected {(3, height, width)}")

    def _camera(self, name: str, images: Tensor) -> Tensor:
        batch, steps = images.shape[:2]
        return self.encode(name, self.pixels(name, images).flatten(0, 1)).float().unflatten(0, (batch, steps))


def _centre(images: Tensor, height: int, width: int) -> Tensor:
    """torchvision's center_crop, which takes longer to import than torch."""
    top, left = (round((there - wanted) / 2) for there, wanted in zip(images.shape[-2:], (height, width), strict=True))
    return images[..., top : top + height, left : left + width]
