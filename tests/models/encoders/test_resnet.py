"""ResNets: the contract in several guises, and that a torchvision network with the same weights says the same."""

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from robolearn.core.config import from_dict
from robolearn.core.errors import UserError
from robolearn.models.encoders.base import EncoderConfig
from robolearn.models.encoders.resnet import ResNetConfig
from robolearn.testing import EncoderContract

MEAN, STD = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]


class TestTuned(EncoderContract):
    config = ResNetConfig(norm="group", head="keypoints")
    cameras = {"front": (64, 56)}  # several places in the last maps


class TestLastBlocks(EncoderContract):
    config = ResNetConfig(tune="last", blocks=1, head="mean")


def frames(size: int = 64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(3).integers(0, 256, (2, 1, 3, size, size), dtype=np.uint8))


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_it_is_torchvisions_network(tmp_path, depth):
    torch.manual_seed(1)
    original = getattr(torchvision.models, f"resnet{depth}")().eval()
    save_file(original.state_dict(), tmp_path / "weights.safetensors")
    encoder = ResNetConfig(depth=depth, tune="none").build({"top": (64, 64)}).eval()
    assert encoder.load_weights(str(tmp_path / "weights.safetensors")) == "file:weights.safetensors"
    original.fc = torch.nn.Identity()
    with torch.no_grad():
        expected = original((frames()[:, 0].float() / 255 - MEAN) / STD)
        assert torch.allclose(encoder({"top": frames()})[:, 0], expected, atol=1e-4)


def test_group_norm_takes_the_scale_of_the_batch_norm_it_replaces(tmp_path):
    original = torchvision.models.resnet18()
    torch.nn.init.uniform_(original.layer3[1].bn2.weight)
    torch.save(original.state_dict(), tmp_path / "resnet18.pth")
    encoder = ResNetConfig(norm="group").build({"a": (32, 32), "b": (32, 32)})
    encoder.load_weights(str(tmp_path / "resnet18.pth"))
    for camera in ("a", "b"):
        assert torch.equal(encoder.net(camera).net.layer3[1].bn2.weight, original.layer3[1].bn2.weight)
        assert torch.equal(encoder.net(camera).net.conv1.weight, original.conv1.weight)


def test_only_the_last_blocks_learn():
    encoder = ResNetConfig(tune="last", blocks=2).build({"top": (32, 32)})
    learning = {name.split("net.")[1].rsplit(".", 2)[0] for name, p in encoder.named_parameters() if p.requires_grad}
    assert learning == {"layer4.0", "layer4.0.downsample", "layer4.1"}
    norms = [m for m in encoder.train().modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and not any(m.training or m.weight.requires_grad for m in norms)


def test_self_supervision_wakes_a_frozen_network_with_its_statistics():
    encoder = ResNetConfig(tune="none").build({"top": (32, 32)})
    norm = encoder.net("top").net.bn1
    assert not encoder.train().net("top").net.bn1.training
    encoder.requires_grad_(True)
    assert encoder.train() and norm.training and norm.weight.requires_grad
    partly = ResNetConfig(tune="last").build({"top": (32, 32)}).requires_grad_(True)
    assert partly.train().net("top").net.bn1.training
    partly.net("top").tune("last", 1, 1)
    assert not partly.train().net("top").net.bn1.training


def test_one_network_serves_all_cameras_unless_the_whole_of_it_learns():
    cameras = {"a": (32, 32), "b": (32, 32)}
    assert [list(ResNetConfig(tune=tune).build(cameras).nets) for tune in ("full", "last", "lora", "none")] == [
        ["a", "b"],
        ["shared"],
        ["shared"],
        ["shared"],
    ]


def test_tokens_of_cameras_of_different_size_follow_each_other():
    encoder = ResNetConfig(tune="none", head="tokens").build({"a": (64, 96), "b": (32, 32)}).eval()
    assert encoder.tokens == 2 * 3 + 1 and encoder.out_dim == 7 * 512
    images = {"a": torch.randint(0, 256, (1, 1, 3, 64, 96), dtype=torch.uint8), "b": torch.zeros(1, 1, 3, 32, 32, dtype=torch.uint8)}
    with torch.no_grad():
        tokens = encoder(images).unflatten(-1, (7, -1))[0, 0]
        maps = encoder.net("a")(encoder.prepare(encoder.pixels("a", images["a"][:, 0])))[0]
    assert torch.allclose(tokens[4], maps[:, 1, 1], atol=1e-5), "row by row"


def test_settings_find_it_by_name_and_are_checked():
    wanted = {"type": "resnet", "depth": 34, "tune": "last", "per_camera": {"a": {"shift": 4}}}
    config = from_dict(EncoderConfig, wanted)
    assert config == ResNetConfig(depth=34, tune="last", per_camera=config.per_camera)
    assert config.build({"a": (32, 32), "b": (32, 32)}).augment["a"].shift == 4
    for wrong, message in [
        ({"crop": 0.3}, "encoder.crop: 0.3; expected 0.5 to 1"),
        ({"view": 0.5}, "encoder.view: 0.5; expected 0 to 0.25"),
        ({"shift": -1}, "encoder.shift: -1 px; expected 0 or more"),
        ({"blocks": 0}, "encoder.blocks: 0 blocks; expected at least 1"),
        ({"head": "cls"}, "encoder.head: resnet18 has no class token; expected own, mean"),
        ({"per_camera": {"c": {}}}, "encoder.per_camera: no camera 'c'; valid: a"),
        ({"per_camera": {"a": {"overlay": 2}}}, "encoder.per_camera.a.overlay: 2.0; expected 0 to 1"),
    ]:
        with pytest.raises(UserError, match=message):
            from_dict(EncoderConfig, {"type": "resnet", **wrong}).build({"a": (32, 32)})
