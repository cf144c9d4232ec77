"""Public checkpoints by name, used as their authors use them; and any other network of timm's by timm's name."""

from __future__ import annotations

from dataclasses import dataclass

from robolearn.models.encoders._backbone import Backbone, BackboneConfig
from robolearn.models.encoders._checkpoints import CHECKPOINTS, Checkpoint, of_timm
from robolearn.models.encoders._trunks import ResNetTrunk, TimmTrunk, Trunk
from robolearn.models.encoders.base import Sizes


@dataclass(frozen=True)
class PretrainedConfig(BackboneConfig):
    """weights: the checkpoint's file or address; docs/encoders.md lists both."""

    model: str = "r3m_resnet18"  # a checkpoint of docs/encoders.md, or a network of timm's such as vit_small_patch14_dinov2.lvd142m

    def build(self, cameras: Sizes) -> Pretrained:
        return Pretrained(cameras, self, CHECKPOINTS.get(self.model) or of_timm(self.model))


class Pretrained(Backbone):
    def __init__(self, cameras: Sizes, config: PretrainedConfig, checkpoint: Checkpoint):
        build, how = (lambda: trunk(checkpoint, config)), checkpoint.preparation
        super().__init__(cameras, config, build, how, checkpoint.layouts, checkpoint.source)
        self.fixed += repr((checkpoint.network, checkpoint.outputs, sorted(checkpoint.options.items())))


def trunk(checkpoint: Checkpoint, config: BackboneConfig) -> Trunk:
    """The checkpoint's network for a config's head and size, without its weights."""
    pooled = config.head == "own"
    outputs = checkpoint.outputs if pooled else 0
    if checkpoint.network.startswith("torchvision/"):
        return ResNetTrunk(int(checkpoint.network.removeprefix("torchvision/resnet")), outputs=outputs)
    size = checkpoint.preparation.size if config.size is None else config.size
    return TimmTrunk(checkpoint.network, size, pooled, {"num_classes": outputs, **checkpoint.options})
