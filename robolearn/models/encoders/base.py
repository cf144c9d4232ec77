"""What every encoder shares: its config builds it, one network per camera, uint8 becomes float here and nowhere else."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from robolearn.core.errors import UserError
from robolearn.core.types import Encoder

Sizes = Mapping[str, tuple[int, int]]  # camera -> (height_px, width_px)


@dataclass(frozen=True)
class EncoderConfig:
    weights: str = ""  # a local file, else an address on a hub; empty: none
    tune: Literal["full", "none"] = "full"  # what is trained with the policy; none: its features are computed once and cached

    @property
    def frozen(self) -> bool:
        return self.tune == "none"

    def build(self, cameras: Sizes) -> CameraEncoder:
        """The network without its weights: a checkpoint brings its own, `load_weights` fetches them."""
        raise NotImplementedError


class CameraEncoder(Encoder):
    """One network per camera, features side by side in the order of `cameras`.

    In training mode every sample is cropped at random (its time steps alike) to `crop` of its size, in eval mode in
    the centre: the one augmentation that mattered for cloning (Mandlekar et al., CoRL 2021, section 5.3). `shift` [px]
    moves it at random instead, edges repeated: nothing is cut off, and less of the absolute position is. Both are drawn
    from `generator`, or torch's own where it is None.
    """

    def __init__(self, cameras: Sizes, crop: float = 1.0, shift: int = 0):
        super().__init__()
        if not cameras:
            raise ValueError("encoder: no cameras; an encoder needs at least one")
        if not 0.5 <= crop <= 1.0:
            raise UserError(f"encoder: crop {crop}; expected 0.5 to 1.0 of the image")
        if shift < 0:
            raise UserError(f"encoder: shift {shift} px; expected 0 or more")
        self.shift = shift
        self.cameras, self.crop = {k: (int(v[0]), int(v[1])) for k, v in cameras.items()}, crop
        self.generator: torch.Generator | None = None

    def load_weights(self, weights: str) -> str:
        """Fill the network from a local file or a hub and say which. Raises UserError that names both where neither works."""
        raise UserError(f"encoder.weights: '{weights}': {type(self).__name__} has no public weights; leave it empty and pretrain")

    @abstractmethod
    def encode(self, camera: str, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N E"]:
        """Features of one camera from pixels in [0, 1], already cropped."""

    def crop_size(self, camera: str) -> tuple[int, int]:
        height, width = self.cameras[camera]
        return round(height * self.crop), round(width * self.crop)

    def forward(self, images: Mapping[str, UInt8[Tensor, "B T 3 H W"]]) -> Float[Tensor, "B T E"]:
        if missing := [name for name in self.cameras if name not in images]:
            raise ValueError(f"encoder: no images of camera '{missing[0]}'; got {sorted(images)}")
        return torch.cat([self._camera(name, images[name]) for name in self.cameras], dim=-1)

    def pixels(self, camera: str, images: UInt8[Tensor, "N *T 3 H W"]) -> Float[Tensor, "N *T 3 h w"]:
        """One camera's images as the network sees them: checked, cropped, in [0, 1]."""
        if (got := tuple(images.shape[-2:])) != self.cameras[camera]:
            raise ValueError(f"encoder: camera '{camera}' is {got} px (height, width); expected {self.cameras[camera]}")
        return self._crop(camera, images).float() / 255

    def _camera(self, name: str, images: Tensor) -> Tensor:
        batch, steps = images.shape[:2]
        return self.encode(name, self.pixels(name, images).flatten(0, 1)).float().unflatten(0, (batch, steps))

    def _crop(self, name: str, images: Tensor) -> Tensor:
        height, width = self.crop_size(name)
        if self.training and self.shift:
            flat = images.flatten(0, -4) if images.ndim > 4 else images
            images = transforms.pad(flat, [self.shift] * 4, padding_mode="edge").unflatten(0, images.shape[:-3])
        high, wide = images.shape[-2:]
        if (height, width) == (high, wide):
            return images
        if not self.training:
            return transforms.center_crop(images, [height, width])
        top = torch.randint(high - height + 1, (len(images),), generator=self.generator).tolist()
        left = torch.randint(wide - width + 1, (len(images),), generator=self.generator).tolist()
        return torch.stack([transforms.crop(x, t, s, height, width) for x, t, s in zip(images, top, left, strict=True)])
