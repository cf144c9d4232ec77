"""The networks behind the encoders: torchvision's ResNets, and whatever timm carries. A trunk knows no camera and no checkpoint."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robolearn.core.errors import UserError
from robolearn.models.lora import adapt

_POOLS = ("head", "fc", "classifier", "attn_pool", "fc_norm")  # what timm's networks call the layers after the last features


class Trunk(nn.Module):
    """Normalised images -> features everywhere in the image, and the one vector its authors make of them."""

    net: Any  # the module whose names checkpoints know
    name: str

    @abstractmethod
    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Tensor:
        """Features as the network has them; for the methods below."""

    @abstractmethod
    def own(self, features: Tensor) -> Float[Tensor, "N E"]:
        """As its authors pool them, projections included."""

    def maps(self, features: Tensor) -> Float[Tensor, "N C h w"]:
        return features

    def cls(self, features: Tensor) -> Float[Tensor, "N C"]:
        raise UserError(f"encoder.head: {self.name} has no class token; expected own, mean, keypoints, attention or tokens")

    @abstractmethod
    def layers(self) -> Mapping[str, Any]:
        """Patterns of the names of the stem's weights and, with a group for the number, of the blocks': what timm calls a group matcher."""

    def tune(self, how: Literal["full", "last", "lora", "none"], blocks: int, rank: int) -> None:
        """Let learn what `how` says and freeze the rest. BatchNorm learns with the whole network or not at all."""
        if how == "full":
            return
        self.net.requires_grad_(False)
        if how == "lora":
            adapt(self.net, rank)
        if how == "last":
            for name in self._last(blocks):
                self.net.get_parameter(name).requires_grad_(True)

    def _last(self, blocks: int) -> list[str]:
        from timm.models import group_parameters  # slow to import

        matcher = self.layers()
        patterns = [p if isinstance(p, str) else p[0] for spec in matcher.values() for p in ([spec] if isinstance(spec, str) else spec)]
        groups = group_parameters(self.net, matcher)  # depth -> names, what matches nothing deepest
        pooling = {name for names in groups.values() for name in names if not any(re.match(p, name) for p in patterns)}
        deepest = max(depth for depth, names in groups.items() if not pooling.issuperset(names))
        chosen = [n for depth, names in groups.items() if depth > max(deepest - blocks, 0) for n in names]  # depth 0 is the stem
        norms = {n for n, module in self.net.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
        return [n for n in chosen if n.rpartition(".")[0] not in norms]


class ResNetTrunk(Trunk):
    """ResNet-18, 34 or 50 (He et al., CVPR 2016) under torchvision's names. outputs: of a layer after the mean; 0: the mean itself."""

    def __init__(self, depth: int, norm: Literal["batch", "group"] = "batch", outputs: int = 0):
        from torchvision import models  # as long to import as torch: only for who sees through one

        super().__init__()
        self.name = f"resnet{depth}"
        self.net = getattr(models, self.name)(norm_layer=nn.BatchNorm2d if norm == "batch" else _group_norm)
        self.net.fc = nn.Linear(self.net.fc.in_features, outputs) if outputs else nn.Identity()
        self.net.to(memory_format=torch.channels_last)  # up to 1.4 times as quick on CPUs, and what tensor cores want

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Tensor:
        net, images = self.net, images.contiguous(memory_format=torch.channels_last)
        maps = net.maxpool(net.relu(net.bn1(net.conv1(images))))
        return net.layer4(net.layer3(net.layer2(net.layer1(maps))))

    def own(self, features: Tensor) -> Float[Tensor, "N E"]:
        return self.net.fc(features.mean((2, 3)))

    def layers(self) -> Mapping[str, Any]:
        return {"stem": r"^conv1|bn1", "blocks": r"^layer(\d+)\.(\d+)"}


class TimmTrunk(Trunk):
    """A network that timm knows by `name`, for square images of `size` px where it must know; 0: its own size.

    pooled: whether its own pooling is wanted; without, its layers are left out.
    """

    def __init__(self, name: str, size: int = 0, pooled: bool = True, options: Mapping[str, Any] | None = None):
        super().__init__()
        import timm  # slow to import

        self.name = name
        known = timm.get_pretrained_cfg(name)
        sized = {"img_size": size} if size and known is not None and known.fixed_input_size else {}
        self.net = timm.create_model(name, pretrained=False, **{"num_classes": 0, **sized, **(options or {})})
        for pool in () if pooled else _POOLS:
            if isinstance(getattr(self.net, pool, None), nn.Module):
                setattr(self.net, pool, nn.Identity())

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Tensor:
        return self.net.forward_features(images)

    def own(self, features: Tensor) -> Float[Tensor, "N E"]:
        return self.net.forward_head(features)

    def maps(self, features: Tensor) -> Float[Tensor, "N C h w"]:
        if features.ndim == 3:  # class and register tokens first
            patches = features[:, getattr(self.net, "num_prefix_tokens", 0) :].transpose(1, 2)
            return patches.unflatten(2, (math.isqrt(patches.shape[2]), -1))
        return features.permute(0, 3, 1, 2) if getattr(self.net, "output_fmt", "") == "NHWC" else features

    def cls(self, features: Tensor) -> Float[Tensor, "N C"]:
        return features[:, 0] if getattr(self.net, "cls_token", None) is not None else super().cls(features)

    def layers(self) -> Mapping[str, Any]:
        return self.net.group_matcher()


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // 16, channels)
