"""The public checkpoints that robot learners use: each one's network, how its tensors are named, and how its authors prepare images.

Names, sizes and constants are facts of the projects' own sources, which `source` names; tests/models/encoders/test_checkpoints.py
holds a state dict of each.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from robolearn.core.errors import UserError
from robolearn.models.encoders._layouts import Layout, fuse_qkv, project_without_bias, split_pool

Colors = tuple[float, float, float]


@dataclass(frozen=True)
class Preparation:
    """The shorter side to `resize` px, then the middle `size` x `size` px; resize 0: the whole image squashed to that."""

    size: int = 224
    resize: int = 256
    mean: Colors = (0.485, 0.456, 0.406)  # of RGB in [0, 1]; ImageNet's
    std: Colors = (0.229, 0.224, 0.225)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"


@dataclass(frozen=True)
class Checkpoint:
    network: str  # torchvision/resnet18, 34 or 50; else a name of timm's
    layouts: tuple[Layout, ...]
    preparation: Preparation
    source: str  # where its project publishes it
    outputs: int = 0  # of the projection after its own pooling; 0: it has none
    options: Mapping[str, Any] = field(default_factory=dict)  # of timm's network, where it is not the usual one


IMAGENET = Preparation()
_BICUBIC = Preparation(interpolation="bicubic")
_CLIP_COLORS: dict[str, Any] = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
_CLIP = Preparation(resize=224, interpolation="bicubic", **_CLIP_COLORS)
_GREY: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

_FC = r"fc\."
RESNET_LAYOUTS = (
    Layout("torchvision or timm", spare=_FC),
    Layout("moco v1 and v2", "state_dict", "module.encoder_q.", spare=_FC),
    Layout("moco v3", "state_dict", "module.base_encoder.", spare=_FC),
    Layout("byol-pytorch", "model_state_dict", spare=_FC),
    Layout("BYOL-PyTorch", "online_backbone", "module.", spare=_FC),
    Layout("r3m", "r3m", "module.convnet.", spare=_FC),
    Layout("vip", "vip", "module.convnet.", spare=_FC),
)

_TIMM = Layout("timm", spare=r"(head|attn_pool|fc_norm)\.")
_MOCO_VIT = Layout("moco v3", "state_dict", "module.base_encoder.", spare=r"head\.")
_MAE = Layout("mae", "model", spare=r"decoder_|mask_token|head\.")
_DINO = Layout("dinov2", spare=r"mask_token")

_CLIP_BLOCKS = (
    (r"^transformer\.resblocks\.", "blocks."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"^conv1\.", "patch_embed.proj."),
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^proj$", "projection"),
)
_TRANSFORMERS_BLOCKS = (
    (r"^vision_model\.", ""),
    (r"^encoder\.layers\.", "blocks."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    (r"\.self_attn\.([qkv])_proj\.", r".attn.\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^pre_layrnorm\.", "norm_pre."),  # sic
    (r"^post_layernorm\.", "norm."),
)
_POOL = (
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.attention\.in_proj_", "attn_pool.in_proj_"),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.mlp\.", "attn_pool.mlp."),
)
_TEXT = r"text_model\.|text_projection|logit_|.*position_ids$"
_CLIP_VIT = (
    Layout("OpenAI or open_clip", prefix="visual.", rename=_CLIP_BLOCKS, spare=r"head\.", convert=project_without_bias),
    Layout(
        "transformers",
        rename=(*_TRANSFORMERS_BLOCKS, (r"^visual_projection\.", "head.")),
        spare=rf"{_TEXT}|head\.",
        convert=lambda state: project_without_bias(fuse_qkv(state)),
    ),
    _TIMM,
)
_SIGLIP = (
    Layout("open_clip", prefix="visual.trunk.", spare=r"attn_pool\."),
    Layout(
        "transformers",
        rename=(*_TRANSFORMERS_BLOCKS, *_POOL),
        spare=rf"{_TEXT}|attn_pool\.",
        convert=lambda state: split_pool(fuse_qkv(state)),
    ),
    _TIMM,
)
_BOTTLENECK = (
    (r"^layer(\d)\.(\d+)\.conv1\.", r"stages.\1.\2.conv1_1x1.conv."),
    (r"^layer(\d)\.(\d+)\.bn1\.", r"stages.\1.\2.conv1_1x1.bn."),
    (r"^layer(\d)\.(\d+)\.conv2\.", r"stages.\1.\2.conv2_kxk.conv."),
    (r"^layer(\d)\.(\d+)\.bn2\.", r"stages.\1.\2.conv2_kxk.bn."),
    (r"^layer(\d)\.(\d+)\.conv3\.", r"stages.\1.\2.conv3_1x1.conv."),
    (r"^layer(\d)\.(\d+)\.bn3\.", r"stages.\1.\2.conv3_1x1.bn."),
    (r"^layer(\d)\.(\d+)\.downsample\.0\.", r"stages.\1.\2.shortcut.conv.conv."),
    (r"^layer(\d)\.(\d+)\.downsample\.1\.", r"stages.\1.\2.shortcut.conv.bn."),
    *((rf"^stages\.{n}\.", f"stages.{n - 1}.") for n in (1, 2, 3, 4)),  # timm counts from 0
    (r"^conv(\d)\.", r"stem.conv\1.conv."),
    (r"^bn(\d)\.", r"stem.conv\1.bn."),
    (r"^attnpool\.positional_embedding$", "head.pos_embed"),
    (r"^attnpool\.([qkv])_proj\.", r"head.\1."),
    (r"^attnpool\.c_proj\.", "head.proj."),
)
_CLIP_RESNET = (
    Layout("OpenAI or open_clip", prefix="visual.", rename=_BOTTLENECK, spare=r"head\."),
    Layout("liv", "liv", "module.model.visual.", _BOTTLENECK, spare=r"head\."),
    Layout("timm", spare=r"head\."),
)


def _resnet(depth: int, source: str, preparation: Preparation = IMAGENET, outputs: int = 0) -> Checkpoint:
    return Checkpoint(f"torchvision/resnet{depth}", RESNET_LAYOUTS, preparation, source, outputs)


_TWELVE_HEADS = {"num_heads": 12}  # of 32; ViT-S elsewhere has 6 of 64
_MOCO = "https://dl.fbaipublicfiles.com/moco/moco_checkpoints/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar"
_TOTO = "github.com/AGI-Labs/toto_benchmark"
_BERKELEY = "https://berkeley.box.com/shared/static"
_FAIR = "https://dl.fbaipublicfiles.com"

CHECKPOINTS: dict[str, Checkpoint] = {
    "moco_v2_resnet50": _resnet(50, _MOCO),
    "moco_v3_resnet50": _resnet(50, f"{_FAIR}/moco-v3/r-50-1000ep/r-50-1000ep.pth.tar"),
    "byol_resnet50": _resnet(50, "github.com/yaox12/BYOL-PyTorch"),
    "toto_moco_conv5": _resnet(50, _MOCO),
    "toto_moco_conv5_robocloud": _resnet(50, _TOTO),
    "toto_moco_croponly_conv5": _resnet(50, _TOTO),
    "toto_byol_scoop": _resnet(18, _TOTO, Preparation(resize=0)),
    "toto_byol_pour": _resnet(18, _TOTO, Preparation(resize=0)),
    "r3m_resnet18": _resnet(18, "github.com/facebookresearch/r3m"),
    "r3m_resnet34": _resnet(34, "github.com/facebookresearch/r3m"),
    "r3m_resnet50": _resnet(50, "github.com/facebookresearch/r3m"),
    "vip_resnet50": _resnet(50, "https://pytorch.s3.amazonaws.com/models/rl/vip/model.pt", outputs=1024),
    "moco_v3_vits": Checkpoint(
        "vit_small_patch16_224", (_MOCO_VIT,), IMAGENET, f"{_FAIR}/moco-v3/vit-s-300ep/vit-s-300ep.pth.tar", options=_TWELVE_HEADS
    ),
    "moco_v3_vitb": Checkpoint("vit_base_patch16_224", (_MOCO_VIT,), IMAGENET, f"{_FAIR}/moco-v3/vit-b-300ep/vit-b-300ep.pth.tar"),
    "mae_vitb": Checkpoint("vit_base_patch16_224", (_MAE, _TIMM), _BICUBIC, f"{_FAIR}/mae/pretrain/mae_pretrain_vit_base.pth"),
    "mvp_vits": Checkpoint(
        "vit_small_patch16_224",
        (_MAE,),
        Preparation(resize=224),
        f"{_BERKELEY}/m93ynem558jo8vltlads5rcmnahgsyzr.pth",
        options=_TWELVE_HEADS,
    ),
    "mvp_vitb": Checkpoint("vit_base_patch16_224", (_MAE,), Preparation(resize=224), f"{_BERKELEY}/0ckepd2ja3pi570z89ogd899cn387yut.pth"),
    "mvp_vitl": Checkpoint("vit_large_patch16_224", (_MAE,), Preparation(256, 256), f"{_BERKELEY}/6p0pc47mlpp4hhwlin2hf035lxlgddxr.pth"),
    "vc1_vitb": Checkpoint("vit_base_patch16_224", (_MAE,), _BICUBIC, f"{_FAIR}/eai-vc/vc1_vitb.pth"),
    "vc1_vitl": Checkpoint("vit_large_patch16_224", (_MAE,), _BICUBIC, f"{_FAIR}/eai-vc/vc1_vitl.pth"),
    "dinov2_vits14": Checkpoint(
        "vit_small_patch14_dinov2", (_DINO, _TIMM), _BICUBIC, f"{_FAIR}/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth"
    ),
    "dinov2_vitb14": Checkpoint(
        "vit_base_patch14_dinov2", (_DINO, _TIMM), _BICUBIC, f"{_FAIR}/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth"
    ),
    "clip_vitb32": Checkpoint("vit_base_patch32_clip_quickgelu_224", _CLIP_VIT, _CLIP, "timm/vit_base_patch32_clip_224.openai", 512),
    "clip_vitb16": Checkpoint("vit_base_patch16_clip_quickgelu_224", _CLIP_VIT, _CLIP, "timm/vit_base_patch16_clip_224.openai", 512),
    "clip_vitl14": Checkpoint("vit_large_patch14_clip_quickgelu_224", _CLIP_VIT, _CLIP, "timm/vit_large_patch14_clip_224.openai", 768),
    "clip_resnet50": Checkpoint("resnet50_clip", _CLIP_RESNET, _CLIP, "timm/resnet50_clip.openai", 1024),
    "liv_resnet50": Checkpoint("resnet50_clip", _CLIP_RESNET, Preparation(resize=224, **_CLIP_COLORS), "github.com/penn-pal-lab/LIV", 1024),
    "siglip_vitb16": Checkpoint(
        "vit_base_patch16_siglip_224",
        _SIGLIP,
        Preparation(resize=0, interpolation="bicubic", **_GREY),
        "google/siglip-base-patch16-224",
        options={"act_layer": "gelu_tanh"},
    ),
}


def of_timm(name: str) -> Checkpoint:
    """Any network of timm's, with the preparation timm knows it by. UserError: no such name, neither here nor there."""
    import timm  # slow to import
    from timm.data.config import resolve_data_config

    if not timm.is_model(name):
        known = [*CHECKPOINTS, *timm.list_models(pretrained=True)]
        near = difflib.get_close_matches(name, known, 4, 0.7) or list(CHECKPOINTS)
        raise UserError(
            f"encoder.model: '{name}' is neither a checkpoint of docs/encoders.md nor a network of timm's; near it: {', '.join(near)}"
        )
    own = timm.get_pretrained_cfg(name)
    config = resolve_data_config(pretrained_cfg=own.to_dict() if own else {})
    size = int(config["input_size"][-1])
    resize = 0 if config["crop_mode"] == "squash" else math.floor(size / config["crop_pct"])
    kind: Literal["bilinear", "bicubic"] = "bilinear" if config["interpolation"] == "bilinear" else "bicubic"
    classifier = own.classifier if own else None
    spare = "|".join(rf"{layer}\." for layer in ([classifier] if isinstance(classifier, str) else classifier or []))
    layout = Layout("timm", spare="|".join(part for part in (spare, r"(head|fc|attn_pool|fc_norm)\.") if part))
    preparation = Preparation(size, resize, config["mean"], config["std"], kind)
    return Checkpoint(name, (layout,), preparation, own.hf_hub_id if own and own.hf_hub_id else "nowhere that timm knows")
