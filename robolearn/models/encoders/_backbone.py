"""What encoders around a large network share: preparing images, heads, what is tuned, and filling it from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robolearn.core.errors import UserError, require_at_least
from robolearn.models.encoders._checkpoints import Preparation
from robolearn.models.encoders._heads import AttentionPool, Keypoints, Mean, Patches
from robolearn.models.encoders._layouts import Layout, fill
from robolearn.models.encoders._trunks import Trunk
from robolearn.models.encoders._weights import fetch
from robolearn.models.encoders.base import CameraEncoder, EncoderConfig, Sizes


@dataclass(frozen=True)
class BackboneConfig(EncoderConfig):
    head: Literal["own", "mean", "cls", "keypoints", "attention", "tokens"] = "own"  # of the last features; own: as its authors pool them
    keypoints: int = 0  # that a learned layer makes of the channels, with head keypoints; 0: one for each channel
    size: int | None = None  # px: all of the image squashed to this square; 0: as the camera gives it; null: as its authors prepare images


class Backbone(CameraEncoder):
    """Each camera has its own network where the whole of it is trained; otherwise one serves all, and only heads are a camera's own."""

    config: BackboneConfig  # pyright: ignore[reportIncompatibleVariableOverride] never reassigned
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        cameras: Sizes,
        config: BackboneConfig,
        trunk: Callable[[], Trunk],
        preparation: Preparation,
        layouts: Sequence[Layout],
        source: str,
    ):
        super().__init__(cameras, config)
        require_at_least("encoder.keypoints", config.keypoints, 0, "keypoints")
        require_at_least("encoder.size", config.size or 0, 0, "px")
        self.preparation, self.layouts, self.source = preparation, layouts, source
        self.fixed = repr(preparation)
        # Buffers, so that weights and the colours they expect travel together.
        self.register_buffer("mean", torch.tensor(preparation.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(preparation.std).view(3, 1, 1))
        self.nets = nn.ModuleDict({name: trunk() for name in (self.cameras if config.tune == "full" else ["shared"])})
        self.heads = nn.ModuleDict()
        self.eval()
        widths = [self._measure(name) for name in self.cameras]
        self.out_dim = sum(widths)
        if config.head == "tokens":
            self._tokens = self.out_dim // self._channels
        for name in self.nets:
            self.net(name).tune(config.tune, config.blocks, config.rank)
        self.train()

    @property
    def tokens(self) -> int:
        return self._tokens if self.config.head == "tokens" else super().tokens

    def encode(self, camera: str, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N E"]:
        return self._pool(camera, self.net(camera)(self.prepare(images)))

    def prepare(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 h w"]:
        """Pixels in [0, 1] as the network knows them: size and colours."""
        from torchvision.transforms.v2 import InterpolationMode  # as long to import as torch: only for who sees through a large network
        from torchvision.transforms.v2 import functional as transforms

        how, size = self.preparation, self.config.size
        if size != 0:
            side = size or how.size
            resize = [side, side] if size or not how.resize else [how.resize]
            images = transforms.resize(images, resize, InterpolationMode(how.interpolation), antialias=True)
            images = transforms.center_crop(images, [side, side])
            if how.interpolation == "bicubic":
                images = images.clamp(0, 1)  # it overshoots, which an image of bytes cannot
        return (images - self.mean) / self.std

    def net(self, camera: str) -> Trunk:
        net = self.nets[camera if camera in self.nets else "shared"]
        assert isinstance(net, Trunk)
        return net

    def load_weights(self, weights: str) -> str:
        """Fill every network from a local file, the web or the hub and say which it was. UserError names what was tried, or is amiss."""
        trunks = [net for net in self.nets.values() if isinstance(net, Trunk)]
        name = trunks[0].name
        file, origin = fetch(weights, f"the weights of {name} ({self.source})")
        for trunk in trunks:
            fill(trunk.net, file, self.layouts, weights, name)
        return origin

    def _pool(self, camera: str, features: Tensor) -> Tensor:
        net = self.net(camera)
        if self.config.head == "own":
            return net.own(features)
        return net.cls(features) if self.config.head == "cls" else self.heads[camera](net.maps(features))

    @torch.no_grad()
    def _measure(self, camera: str) -> int:
        """Make the camera's head and say how many features it gives: by a look at a black image, which every network can tell."""
        net, images = self.net(camera), self.prepare(torch.zeros(1, 3, *self.crop_size(camera)))
        try:
            features = net(images)
            maps = net.maps(features)
        except (RuntimeError, AssertionError) as error:
            reason = (str(error).strip() or "no reason given").splitlines()[0]
            raise UserError(f"encoder.size: {net.name} cannot see images of {tuple(images.shape[-2:])} px: {reason}") from error
        if (head := self._head(maps.shape[1], maps.shape[2] * maps.shape[3])) is not None:
            self.heads[camera] = head
        self._channels = maps.shape[1]
        return self._pool(camera, features).shape[-1]

    def _head(self, channels: int, places: int) -> nn.Module | None:
        config = self.config
        if config.frozen and (config.head == "attention" or (config.head == "keypoints" and config.keypoints)):
            what = config.head if config.head == "attention" else f"{config.keypoints} keypoints of mixed channels (0: one for each)"
            raise UserError(f"encoder.head: {what} must be learned, and encoder.tune is none; expected full, last or lora, or another head")
        match config.head:
            case "mean":
                return Mean()
            case "tokens":
                return Patches()
            case "attention":
                return AttentionPool(channels, places)
            case "keypoints":
                return Keypoints(channels, config.keypoints, learned=not config.frozen)
        return None
