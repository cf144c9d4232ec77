"""ResNet-18, 34 and 50 (He et al., CVPR 2016) from torchvision, trained from scratch or from weights in any of the usual layouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from robolearn.models.encoders._backbone import Backbone, BackboneConfig
from robolearn.models.encoders._checkpoints import IMAGENET, RESNET_LAYOUTS
from robolearn.models.encoders._trunks import ResNetTrunk
from robolearn.models.encoders.base import Sizes


@dataclass(frozen=True)
class ResNetConfig(BackboneConfig):
    """weights: a file or an address, such as `timm/resnet18.tv_in1k`, of torchvision, timm, MoCo, BYOL, R3M or VIP."""

    depth: Literal[18, 34, 50] = 18
    norm: Literal["batch", "group"] = "batch"  # group where it is trained with the policy (a moving average and BatchNorm do not mix)
    size: int | None = 0  # a convolution takes any size, and small images are quicker; null: 256 px, of them 224

    def build(self, cameras: Sizes) -> ResNet:
        return ResNet(cameras, self)


class ResNet(Backbone):
    def __init__(self, cameras: Sizes, config: ResNetConfig):
        source = f"timm/resnet{config.depth}.tv_in1k"
        super().__init__(cameras, config, lambda: ResNetTrunk(config.depth, config.norm), IMAGENET, RESNET_LAYOUTS, source)
