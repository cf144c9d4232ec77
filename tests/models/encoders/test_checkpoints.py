"""Public checkpoints: every tensor of a file as its project saves it finds its place, and then we say what the original network says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from PIL import Image
from torch import Tensor, nn

from robolearn.core.errors import UserError
from robolearn.models.encoders._backbone import Backbone, BackboneConfig
from robolearn.models.encoders._checkpoints import CHECKPOINTS
from robolearn.models.encoders._layouts import fill
from robolearn.models.encoders._trunks import Trunk
from robolearn.models.encoders.pretrained import PretrainedConfig, trunk
from tests.models.encoders import official as o

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
LINEAR, CUBIC = T.InterpolationMode.BILINEAR, T.InterpolationMode.BICUBIC


def test_every_checkpoint_is_tested_and_documented():
    assert {name for name, *_ in o.OFFICIAL} == set(CHECKPOINTS) == set().union(*DOCUMENTED)
    page = (Path(__file__).parents[3] / "docs" / "encoders.md").read_text()
    assert [name for name in CHECKPOINTS if f"`{name}`" not in page] == []


@pytest.mark.parametrize(("name", "original", "saved"), o.OFFICIAL, ids=[name for name, *_ in o.OFFICIAL])
def test_every_tensor_finds_its_place(name: str, original: Callable[[], nn.Module], saved: Callable[[Any], o.File]):
    """At full size, without the numbers: UserError if one were missing, left over or of another shape."""
    checkpoint = CHECKPOINTS[name]
    with torch.device("meta"):
        net = trunk(checkpoint, PretrainedConfig()).net
        file = saved(original())
    fill(net, file, checkpoint.layouts, "file", name)
    if name in ("moco_v2_resnet50", "vip_resnet50", "mvp_vits", "clip_vitb32", "clip_resnet50", "siglip_vitb16"):
        with torch.device("meta"):  # without its pooling, whose tensors may be left over then
            net = trunk(checkpoint, PretrainedConfig(head="tokens")).net
        fill(net, file, checkpoint.layouts, "file", name)


# shorter side, middle (0: squashed), colours, interpolation: as the projects' own transforms say
DOCUMENTED: dict[tuple[str, ...], tuple] = {
    # facebookresearch/moco main_lincls.py, moco-v3 main_lincls.py, toto_benchmark pvr_model_loading.py, r3m and vip README.md
    (
        *("moco_v2_resnet50", *o.TOTO_MOCO, "moco_v3_resnet50", "moco_v3_vits", "moco_v3_vitb", "byol_resnet50"),
        *("r3m_resnet18", "r3m_resnet34", "r3m_resnet50", "vip_resnet50"),
    ): (256, 224, IMAGENET, LINEAR),
    ("toto_byol_scoop", "toto_byol_pour"): (0, 224, IMAGENET, LINEAR),  # toto_benchmark vision/BYOL.py
    ("vc1_vitb", "vc1_vitl", "mae_vitb", "dinov2_vits14", "dinov2_vitb14"): (
        256,
        224,
        IMAGENET,
        CUBIC,
    ),  # vc_models/transforms, mae, dinov2
    ("mvp_vits", "mvp_vitb"): (224, 224, IMAGENET, LINEAR),  # mvp/bc/dataset.py: the middle square, then its size
    ("mvp_vitl",): (256, 256, IMAGENET, LINEAR),
    ("clip_vitb32", "clip_vitb16", "clip_vitl14", "clip_resnet50"): (224, 224, CLIP, CUBIC),  # clip/clip.py
    ("liv_resnet50",): (224, 224, CLIP, LINEAR),  # liv/models/model_liv.py: transforms_tensor
    ("siglip_vitb16",): (0, 224, ((0.5,) * 3, (0.5,) * 3), CUBIC),  # its preprocessor_config.json
}


class Looking(Trunk):
    """Sees nothing, so that what it is shown can be looked at."""

    name = "looking"

    def forward(self, images: Tensor) -> Tensor:
        return images

    def own(self, features: Tensor) -> Tensor:
        return features.flatten(1)

    def tune(self, how: str, blocks: int, rank: int) -> None: ...

    def layers(self) -> dict: ...


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_images_are_prepared_as_its_authors_do(name: str):
    resize, size, (mean, std), interpolation = next(how for names, how in DOCUMENTED.items() if name in names)
    resized = T.Resize(resize, interpolation) if resize else T.Resize((size, size), interpolation)
    theirs = T.Compose([resized, T.CenterCrop(size), T.ToTensor(), T.Normalize(mean, std)])
    ramp = np.linspace(0, 1, 160)
    waves = [np.outer(np.cos(9 * f * ramp[:120]), np.sin(7 * f * ramp)) for f in (1, 2, 5)]
    picture = ((np.stack(waves, -1) + 1) * 127.5).astype(np.uint8)
    encoder = Backbone({"top": (120, 160)}, BackboneConfig(tune="none"), Looking, CHECKPOINTS[name].preparation, (), "").eval()
    frames = torch.from_numpy(picture).permute(2, 0, 1)[None]
    ours = encoder.prepare(encoder.pixels("top", frames))[0]
    expected = theirs(Image.fromarray(picture))
    assert ours.shape == expected.shape
    assert ((ours - expected).abs() * torch.tensor(std)[:, None, None]).max() < 1.2 / 255, "but for Pillow's rounding to bytes, twice"


TINY = {"embed_dim": 48, "depth": 2, "num_heads": 4}
VIT = (48, 2, 4)
# checkpoint, its network and file as above but small, what makes ours as small, and its features of an image
SAYING: list[tuple] = [
    ("moco_v2_resnet50", lambda: o.resnet(50), o.moco_v2, {}, lambda net, x: headless(net, "fc")(x)),
    ("toto_byol_pour", lambda: o.resnet(18), o.byol_pytorch, {}, lambda net, x: headless(net, "fc")(x)),
    ("r3m_resnet18", lambda: o.resnet(18), o.r3m, {}, lambda net, x: net(x)),
    (
        "vip_resnet50",
        lambda: o.resnet(50, nn.Linear(2048, 1024)),
        lambda n: {"vip": o.under("module.convnet.", n)},
        {},
        lambda net, x: net(x),
    ),
    ("moco_v3_vits", lambda: o.vit(*VIT), o.moco_v3, TINY, lambda net, x: net.forward_features(x)[:, 0]),
    ("mvp_vits", lambda: o.vit(*VIT), o.mae, TINY, lambda net, x: net.forward_features(x)[:, 0]),
    ("vc1_vitb", lambda: o.vit(*VIT), o.mae, TINY, lambda net, x: net.forward_features(x)[:, 0]),
    (
        "clip_vitb32",
        lambda: o.ClipTransformer(32, *VIT, 24),
        lambda net: o.under("visual.", net) | o.clip_text(),
        TINY,
        lambda net, x: net(x),
    ),
    ("clip_vitb32", lambda: o.hf_clip(*VIT, 24), lambda net: net.state_dict() | o.HF_TEXT, TINY, lambda net, x: net(x).image_embeds),
    ("clip_resnet50", o.ClipResNet, lambda net: o.under("visual.", net) | o.clip_text(), {}, lambda net, x: net(x)),
    ("liv_resnet50", o.ClipResNet, lambda net: {"liv": o.under("module.model.visual.", net)}, {}, lambda net, x: net(x)),
    ("siglip_vitb16", lambda: o.hf_siglip(*VIT), lambda net: o.siglip_vision(net) | o.HF_TEXT, TINY, lambda net, x: net(x).pooler_output),
]


def headless(net: Any, head: str) -> nn.Module:
    setattr(net, head, nn.Identity())
    return net


@pytest.mark.parametrize(("name", "original", "saved", "small", "says"), SAYING, ids=[name for name, *_ in SAYING])
def test_it_says_what_the_original_says(monkeypatch, tmp_path: Path, name, original, saved, small, says):
    checkpoint = CHECKPOINTS[name]
    monkeypatch.setitem(
        CHECKPOINTS,
        name,
        replace(checkpoint, options=checkpoint.options | small, outputs=24 if small and checkpoint.outputs else checkpoint.outputs),
    )
    torch.manual_seed(1)
    net = original().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.9, 1.1)
    torch.save(saved(net), tmp_path / "model.pt")
    torch.manual_seed(2)
    size = 64 if checkpoint.network.startswith("torchvision/") else None  # quicker, and the same
    encoder = PretrainedConfig(model=name, tune="none", size=size).build({"top": (60, 80)}).eval()
    assert encoder.load_weights(str(tmp_path / "model.pt")) == "file:model.pt"
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 1, 3, 60, 80), dtype=np.uint8))
    with torch.no_grad():
        expected = says(net, encoder.prepare(encoder.pixels("top", frames[:, 0])))
        got = encoder({"top": frames})[:, 0]
    assert expected.std() > 1e-3 and torch.allclose(got, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_positions_of_a_transformer_are_stretched_to_another_size(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(CHECKPOINTS, "dinov2_vits14", replace(CHECKPOINTS["dinov2_vits14"], options=TINY))
    net = o.vit(*VIT, patch=14, size=518, init_values=1.0)
    file = o.dinov2(net)
    column = torch.linspace(0, 1, 37).expand(37, 37).flatten()  # grows to the right
    file["pos_embed"] = torch.cat([torch.full((1, 1, 48), 7.0), column[None, :, None].expand(1, -1, 48)], 1)
    torch.save(file, tmp_path / "dinov2.pth")
    encoder = PretrainedConfig(model="dinov2_vits14", tune="none", size=98).build({"top": (64, 64)})
    encoder.load_weights(str(tmp_path / "dinov2.pth"))
    positions = encoder.net("top").net.pos_embed[0]
    assert positions.shape == (1 + 7 * 7, 48) and torch.equal(positions[0], torch.full((48,), 7.0))
    grid = positions[1:, 0].view(7, 7)
    assert torch.allclose(grid[0], grid[6]) and (grid[0].diff() > 0.1).all()


def test_any_network_of_timms_takes_its_own_weights_and_preparation(tmp_path: Path):
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(1)
    original = timm.create_model("test_vit.r160_in1k").eval()
    save_file(original.state_dict(), tmp_path / "model.safetensors")
    encoder = PretrainedConfig(model="test_vit.r160_in1k", tune="none").build({"top": (60, 80)}).eval()
    encoder.load_weights(str(tmp_path / "model.safetensors"))
    config = original.pretrained_cfg
    how = encoder.preparation
    assert (how.size, how.resize, how.mean, how.std) == (160, int(160 / config["crop_pct"]), config["mean"], config["std"])
    frames = torch.randint(0, 256, (2, 1, 3, 60, 80), dtype=torch.uint8)
    with torch.no_grad():
        features = original.forward_features(encoder.prepare(encoder.pixels("top", frames[:, 0])))
        expected = original.forward_head(features, pre_logits=True)
        assert torch.allclose(encoder({"top": frames})[:, 0], expected, atol=1e-4)
        cls = PretrainedConfig(model="test_vit.r160_in1k", tune="none", head="cls").build({"top": (60, 80)}).eval()
        cls.load_weights(str(tmp_path / "model.safetensors"))
        assert torch.allclose(cls({"top": frames})[:, 0], features[:, 0], atol=1e-4)


def test_a_name_nobody_knows():
    with pytest.raises(UserError, match="'r3m_resnet19' is neither a checkpoint .* near it: r3m_resnet18"):
        PretrainedConfig(model="r3m_resnet19").build({"top": (32, 32)})
    with pytest.raises(UserError, match=r"encoder.size: vit_small_patch14_dinov2 cannot see images of \(84, 84\) px"):
        PretrainedConfig(model="dinov2_vits14", size=0).build({"top": (84, 84)})
