"""ResNet-18 (He et al., CVPR 2016) from torchvision, with weights from a local file first and a hub second."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.transforms.v2 import functional as transforms

from robolearn.core.errors import UserError
from robolearn.models.encoders.base import CameraEncoder, EncoderConfig, Sizes
from robolearn.models.encoders.spatial import SpatialSoftmax

HUB_FILE = "model.safetensors"
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of ImageNet's RGB pixels in [0, 1]


@dataclass(frozen=True)
class ResNet18Config(EncoderConfig):
    """weights: a .pth or .safetensors file in torchvision's layout, else a Hugging Face model such as `timm/resnet18.tv_in1k`."""

    norm: Literal["batch", "group"] = "batch"  # group where it is trained with the policy (a moving average and BatchNorm do not mix)
    pool: Literal["mean", "keypoints"] = "mean"  # of the last 512 maps: their mean (what is there), or a spatial softmax (where)
    resize: int = 0  # px, square, before the network; 0: as the camera gives it
    crop: float = 1.0

    def build(self, cameras: Sizes) -> ResNet18:
        return ResNet18(cameras, self)


class ResNet18(CameraEncoder):
    """One network serves every camera while it is frozen, one each when it is trained with the policy."""

    def __init__(self, cameras: Sizes, config: ResNet18Config):
        super().__init__(cameras, config.crop)
        self.config = config
        self.nets = nn.ModuleDict({name: _trunk(config.norm) for name in (["shared"] if config.frozen else self.cameras)})
        self.pool = SpatialSoftmax() if config.pool == "keypoints" else _Mean()
        self.out_dim = (512 if config.pool == "mean" else 1024) * len(self.cameras)

    def encode(self, camera: str, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N E"]:
        if self.config.resize:
            images = transforms.resize(images, [self.config.resize, self.config.resize], antialias=True)
        net = self.nets["shared" if self.config.frozen else camera]
        return self.pool(net(transforms.normalize(images, _MEAN, _STD)))

    def load_weights(self, weights: str) -> str:
        """Fill every trunk from a local file or the hub and say which it was. UserError names both where neither gives them."""
        state, origin = fetch(weights)
        for net in self.nets.values():
            fitting = {name: state[name] for name in net.state_dict() if name in state}
            if missing := [name for name in net.state_dict() if name not in fitting and "num_batches" not in name]:
                raise UserError(f"{weights}: not torchvision's resnet18: '{missing[0]}' and {len(missing) - 1} more tensors are missing")
            try:
                net.load_state_dict(fitting, strict=False)
            except RuntimeError as error:
                raise UserError(f"{weights}: not torchvision's resnet18: {str(error).splitlines()[-1].strip()}") from error
        return origin


class _Mean(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


def fetch(weights: str) -> tuple[dict[str, Tensor], str]:
    """A state dict and where it came from: `weights` as a file if there is one, else as a model on the Hugging Face hub."""
    path = Path(weights).expanduser()
    if path.is_file():
        try:
            state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # three libraries, many kinds
            raise UserError(f"{path}: encoder weights cannot be read: {str(error).splitlines()[0]}") from error
        return state, f"file:{path.name}"
    from huggingface_hub import hf_hub_download  # slow to import

    try:
        return load_file(hf_hub_download(weights, HUB_FILE)), f"hub:{weights}"
    except Exception as error:  # no network, no such model, not a model name: the answer is the same
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"encoder.weights: no file '{weights}', and the hub did not give '{weights}' either ({type(error).__name__}: {reason}); "
            "give a local .pth or .safetensors file with torchvision's resnet18 weights, or leave it empty to pretrain on the dataset"
        ) from error


def _trunk(norm: str) -> nn.Sequential:
    """All of ResNet-18 before its pooling, under torchvision's names."""
    net = resnet18(norm_layer=nn.BatchNorm2d if norm == "batch" else lambda channels: nn.GroupNorm(channels // 16, channels))
    layers = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    return nn.Sequential(OrderedDict((name, getattr(net, name)) for name in layers))
