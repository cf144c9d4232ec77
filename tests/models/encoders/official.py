"""Files as the public checkpoints are saved: official names, nesting and shapes, made here with random numbers; nothing is downloaded.

The networks are the original ones, torchvision's, timm's and transformers', or written here around their tensors' names. Those come
from the projects' own sources: facebookresearch/moco (moco/builder.py), facebookresearch/moco-v3 (moco/builder.py, vits.py),
AGI-Labs/toto_benchmark (vision/BYOL.py, vision/pvr_model_loading.py), yaox12/BYOL-PyTorch (readme.md), facebookresearch/r3m
(models_r3m.py), facebookresearch/vip (model_vip.py), ir413/mvp (backbones/vit.py), facebookresearch/eai-vc (models/vit/vit.py),
openai/CLIP (clip/model.py) and penn-pal-lab/LIV (model_liv.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

File = dict[str, Any]


def under(prefix: str, net: nn.Module) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in net.state_dict().items()}


def resnet(depth: int, fc: nn.Module | None = None) -> nn.Module:
    net = getattr(torchvision.models, f"resnet{depth}")()
    net.fc = fc or nn.Identity()
    return net


def other() -> nn.Module:
    return nn.Linear(3, 3)  # of another network in the same file


def moco_v2(net: nn.Module) -> File:
    net.fc = nn.Sequential(nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 128))
    state = under("module.encoder_q.", net) | {n: torch.zeros_like(v) for n, v in under("module.encoder_k.", net).items()}
    state |= {"module.queue": torch.zeros(128, 8), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    return {"epoch": 800, "arch": "resnet50", "state_dict": state, "optimizer": {"state": {}, "param_groups": [{"lr": 0.03}]}}


def moco_v3(net: nn.Module) -> File:
    layers = [nn.Linear(3, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4, affine=False)]
    setattr(net, "head" if isinstance(net, VisionTransformer) else "fc", nn.Sequential(*layers))
    state = under("module.base_encoder.", net) | {n: torch.zeros_like(v) for n, v in under("module.momentum_encoder.", net).items()}
    return {"epoch": 300, "arch": "any", "state_dict": state | under("module.predictor.", other())}


def byol_pytorch(net: nn.Module) -> File:
    net.fc = nn.Linear(net.layer4[-1].bn2.num_features, 1000)  # type: ignore[index, union-attr] a basic block
    return {"model_state_dict": net.state_dict()}


def r3m(net: nn.Module) -> File:
    state = under("module.convnet.", net) | under("module.lang_enc.model.embeddings.", other()) | under("module.lang_rew.pred.0.", other())
    return {"r3m": state, "global_step": 1}


def mae(net: nn.Module) -> File:
    decoder = {"mask_token": torch.zeros(1, 1, 5), "decoder_pos_embed": torch.zeros(1, 197, 5)}
    for part in ("decoder_embed", "decoder_blocks.0.norm1", "decoder_norm", "decoder_pred"):
        decoder |= under(f"{part}.", other())
    return {"model": net.state_dict() | decoder}


def dinov2(net: nn.Module) -> File:
    dim = net.cls_token.shape[-1]  # type: ignore[union-attr, index]
    return net.state_dict() | {
        "mask_token": torch.zeros(1, dim),
        "pos_embed": torch.zeros(1, 1 + 37 * 37, dim, device=net.cls_token.device),
    }  # type: ignore[union-attr]


def clip_text() -> dict[str, Tensor]:
    names = ("positional_embedding", "text_projection", "logit_scale", "token_embedding.weight", "ln_final.weight")
    return {n: torch.zeros(2) for n in names} | under("transformer.resblocks.0.mlp.c_fc.", other())


class QuickGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (1.702 * x).sigmoid()


class ClipBlock(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.attn, self.ln_1, self.ln_2 = nn.MultiheadAttention(dim, heads, batch_first=True), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp = nn.Sequential()
        for name, part in (("c_fc", nn.Linear(dim, 4 * dim)), ("gelu", QuickGelu()), ("c_proj", nn.Linear(4 * dim, dim))):
            self.mlp.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class ClipTransformer(nn.Module):
    """OpenAI's vision transformer, by its tensors' names."""

    def __init__(self, patch: int, dim: int, depth: int, heads: int, outputs: int):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(dim))
        self.positional_embedding = nn.Parameter(torch.randn((224 // patch) ** 2 + 1, dim))
        self.proj = nn.Parameter(torch.randn(dim, outputs))
        self.conv1, self.ln_pre, self.ln_post = nn.Conv2d(3, dim, patch, patch, bias=False), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.Sequential(*(ClipBlock(dim, heads) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), patches], 1) + self.positional_embedding
        return self.ln_post(self.transformer.resblocks(self.ln_pre(x))[:, 0]) @ self.proj  # type: ignore[operator]


class ClipBottleneck(nn.Module):
    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.shrink, self.downsample = nn.AvgPool2d(stride), None
        if stride > 1 or before != 4 * width:
            self.downsample = nn.Sequential()
            parts = (nn.AvgPool2d(stride), nn.Conv2d(before, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width))
            for name, part in zip(("-1", "0", "1"), parts, strict=True):
                self.downsample.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn3(self.conv3(self.shrink(self.bn2(self.conv2(y)).relu())))
        return (y + (self.downsample(x) if self.downsample else x)).relu()


class ClipPool(nn.Module):
    def __init__(self, dim: int, heads: int, outputs: int):
        super().__init__()
        self.heads, self.positional_embedding = heads, nn.Parameter(torch.randn(50, dim))
        self.k_proj, self.q_proj, self.v_proj, self.c_proj = (nn.Linear(dim, n) for n in (dim, dim, dim, outputs))

    def forward(self, maps: Tensor) -> Tensor:
        x = maps.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.positional_embedding
        q, k, v = (layer(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer, y in
                   ((self.q_proj, x[:, :1]), (self.k_proj, x), (self.v_proj, x)))  # fmt: skip
        weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        return self.c_proj((weights @ v).transpose(1, 2).flatten(1))


class ClipResNet(nn.Module):
    """OpenAI's ResNet-50, by its tensors' names."""

    def __init__(self):
        super().__init__()
        for index, (before, after) in enumerate(((3, 32), (32, 32), (32, 64)), 1):
            setattr(self, f"conv{index}", nn.Conv2d(before, after, 3, 2 if index == 1 else 1, 1, bias=False))
            setattr(self, f"bn{index}", nn.BatchNorm2d(after))
        before = 64
        for index, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
            layers = [ClipBottleneck(before if i == 0 else 4 * width, width, 2 if index > 1 and i == 0 else 1) for i in range(blocks)]
            setattr(self, f"layer{index}", nn.Sequential(*layers))
            before = 4 * width
        self.attnpool = ClipPool(2048, 32, 1024)

    def forward(self, x: Tensor) -> Tensor:
        for n in (1, 2, 3):
            x = getattr(self, f"bn{n}")(getattr(self, f"conv{n}")(x)).relu()
        x = nn.functional.avg_pool2d(x, 2)
        for n in (1, 2, 3, 4):
            x = getattr(self, f"layer{n}")(x)
        return self.attnpool(x)


def vit(dim: int, depth: int, heads: int, patch: int = 16, size: int = 224, **more: Any) -> nn.Module:
    """As MAE, MVP, VC-1 and MoCo v3 build theirs."""
    norm = partial(nn.LayerNorm, eps=1e-6)
    sizes: dict[str, Any] = {"img_size": size, "patch_size": patch, "embed_dim": dim, "depth": depth, "num_heads": heads}
    return VisionTransformer(**sizes, norm_layer=norm, num_classes=0, **more)


def hf_clip(dim: int, depth: int, heads: int, outputs: int, patch: int = 32) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": dim, "intermediate_size": 4 * dim, "num_hidden_layers": depth, "num_attention_heads": heads}
    return transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**sizes, patch_size=patch, projection_dim=outputs))


def hf_siglip(dim: int, depth: int, heads: int) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": dim, "intermediate_size": 4 * dim, "num_hidden_layers": depth, "num_attention_heads": heads}
    return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**sizes, patch_size=16))


def siglip_vision(net: nn.Module) -> dict[str, Tensor]:
    return {"vision_model." + name.removeprefix("vision_model."): value for name, value in net.state_dict().items()}


HF_TEXT = {
    n: torch.zeros(2)
    for n in ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids", "text_projection.weight", "logit_scale")
}
SMALL, BASE, LARGE = (384, 12, 6), (768, 12, 12), (1024, 24, 16)
WIDE_SMALL = (384, 12, 12)
TOTO_MOCO = ("toto_moco_conv5", "toto_moco_conv5_robocloud", "toto_moco_croponly_conv5")

# checkpoint: the original network at its real size, and how its project saves it
OFFICIAL: list[tuple[str, Callable[[], nn.Module], Callable[[Any], File]]] = [
    *((name, lambda: resnet(50), moco_v2) for name in ("moco_v2_resnet50", *TOTO_MOCO)),
    ("moco_v3_resnet50", lambda: resnet(50), moco_v3),
    ("byol_resnet50", lambda: resnet(50), lambda net: {"online_backbone": under("module.", net), "predictor": other().state_dict()}),
    ("toto_byol_scoop", lambda: resnet(18), byol_pytorch),
    ("toto_byol_pour", lambda: resnet(18), byol_pytorch),
    ("r3m_resnet18", lambda: resnet(18), r3m),
    ("r3m_resnet34", lambda: resnet(34), r3m),
    ("r3m_resnet50", lambda: resnet(50), r3m),
    ("vip_resnet50", lambda: resnet(50, nn.Linear(2048, 1024)), lambda net: {"vip": under("module.convnet.", net)}),
    ("moco_v3_vits", lambda: vit(*WIDE_SMALL), moco_v3),
    ("moco_v3_vitb", lambda: vit(*BASE), moco_v3),
    ("mae_vitb", lambda: vit(*BASE), mae),
    ("mvp_vits", lambda: vit(*WIDE_SMALL), mae),
    ("mvp_vitb", lambda: vit(*BASE), mae),
    ("mvp_vitl", lambda: vit(*LARGE, size=256), mae),
    ("vc1_vitb", lambda: vit(*BASE), mae),
    ("vc1_vitl", lambda: vit(*LARGE), mae),
    ("dinov2_vits14", lambda: vit(*SMALL, patch=14, size=518, init_values=1.0), dinov2),
    ("dinov2_vitb14", lambda: vit(*BASE, patch=14, size=518, init_values=1.0), dinov2),
    ("clip_vitb32", lambda: ClipTransformer(32, *BASE, 512), lambda net: under("visual.", net) | clip_text()),
    ("clip_vitb16", lambda: ClipTransformer(16, *BASE, 512), lambda net: under("visual.", net) | clip_text()),
    ("clip_vitl14", lambda: ClipTransformer(14, *LARGE, 768), lambda net: under("visual.", net) | clip_text()),
    ("clip_vitb32", lambda: hf_clip(*BASE, 512), lambda net: net.state_dict() | HF_TEXT),
    ("clip_vitb32", lambda: timm.create_model("vit_base_patch32_clip_224.openai"), lambda net: net.state_dict()),
    ("clip_resnet50", ClipResNet, lambda net: under("visual.", net) | clip_text()),
    ("clip_resnet50", lambda: timm.create_model("resnet50_clip.openai"), lambda net: net.state_dict()),
    ("liv_resnet50", ClipResNet, lambda net: {"liv": under("module.model.visual.", net) | under("module.model.transformer.", other())}),
    ("siglip_vitb16", lambda: hf_siglip(*BASE), lambda net: siglip_vision(net) | HF_TEXT),
    ("siglip_vitb16", lambda: timm.create_model("vit_base_patch16_siglip_224"), lambda net: under("visual.trunk.", net) | HF_TEXT),
]
