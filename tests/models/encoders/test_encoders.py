from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet18

from robolearn.core.errors import UserError
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.models.encoders.resnet import ResNet18Config
from robolearn.models.encoders.spatial import SpatialSoftmax

CAMERAS = {"front": (48, 40), "wrist": (32, 32)}
SMALL = SmallCnnConfig(channels=(8, 8), strides=(2, 2), keypoints=4)


def images(rows: int = 3, steps: int = 2) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    return {name: torch.from_numpy(rng.integers(0, 256, (rows, steps, 3, *size), dtype=np.uint8)) for name, size in CAMERAS.items()}


@pytest.mark.parametrize(
    "config", [SMALL, ResNet18Config(norm="group", resize=32), ResNet18Config(tune="none", pool="keypoints", resize=64)]
)
def test_features_of_every_camera_side_by_side(config):
    encoder = config.build(CAMERAS).eval()
    both = encoder(images())
    assert both.shape == (3, 2, encoder.out_dim) and torch.isfinite(both).all()
    changed = images()
    changed["wrist"] = 255 - changed["wrist"]
    half = encoder.out_dim // 2
    assert torch.equal(encoder(changed)[..., :half], both[..., :half])
    assert not torch.allclose(encoder(changed)[..., half:], both[..., half:])


def test_the_spatial_softmax_finds_a_peak():
    maps = torch.full((1, 2, 5, 9), -50.0)
    maps[0, 0, 1, 8], maps[0, 1, 4, 2] = 50.0, 50.0
    x, y = SpatialSoftmax()(maps).chunk(2, dim=1)
    assert torch.allclose(x, torch.tensor([[1.0, -0.5]])) and torch.allclose(y, torch.tensor([[-0.5, 1.0]]))


def test_crops_move_in_training_alike_over_time_and_rest_in_the_centre_otherwise():
    encoder = SMALL.build({"front": (48, 40)})
    ramp = torch.arange(48, dtype=torch.uint8)[:, None].expand(3, 48, 40).expand(16, 2, 3, 48, 40)
    encoder.generator = torch.Generator().manual_seed(0)
    pixels = encoder.train().pixels("front", ramp)
    assert pixels.shape == (16, 2, 3, 42, 35)
    top = (pixels[:, :, 0, 0, 0] * 255).round().int()
    assert torch.equal(top[:, 0], top[:, 1]), "both time steps of a sample share their crop"
    assert top[:, 0].unique().numel() > 3 and top.min() >= 0 and top.max() <= 6
    encoder.generator.manual_seed(0)
    assert torch.equal(encoder.pixels("front", ramp), pixels)
    assert (encoder.eval().pixels("front", ramp)[:, 0, 0, 0, 0] * 255).round().unique().tolist() == [3.0]


def test_shifts_keep_the_whole_image_and_rest_in_eval_mode():
    encoder = replace(SMALL, crop=1.0, shift=2).build({"front": (48, 40)})
    encoder.generator = torch.Generator().manual_seed(0)
    ramp = torch.arange(48, dtype=torch.uint8)[:, None].expand(3, 48, 40).expand(32, 2, 3, 48, 40)
    pixels = encoder.train().pixels("front", ramp) * 255
    assert pixels.shape == (32, 2, 3, 48, 40) and torch.equal(pixels[:, 0], pixels[:, 1])
    moved = (pixels[:, 0, 0, 20, 0] - 20).round()
    assert set(moved.int().tolist()) == {-2, -1, 0, 1, 2}
    assert pixels.min() == 0 and pixels.max() == 47
    assert torch.allclose(encoder.eval().pixels("front", ramp) * 255, ramp.float(), atol=1e-4)


def test_wrong_images_are_named():
    encoder = SMALL.build(CAMERAS)
    with pytest.raises(ValueError, match="no images of camera 'wrist'"):
        encoder({"front": images()["front"]})
    with pytest.raises(ValueError, match=r"camera 'front' is \(32, 32\) px \(height, width\); expected \(48, 40\)"):
        encoder({name: images()["wrist"] for name in CAMERAS})


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_resnet_takes_its_weights_from_a_file(tmp_path, suffix, norm):
    torch.manual_seed(1)
    original = resnet18().eval()
    path = tmp_path / f"resnet18{suffix}"
    if suffix == ".pth":
        torch.save(original.state_dict(), path)
    else:
        save_file(original.state_dict(), path)
    encoder = ResNet18Config(tune="none", norm=norm).build(CAMERAS)
    assert encoder.load_weights(str(path)) == f"file:{path.name}"
    if norm == "batch":  # then it is torchvision's network, up to the last layer
        original.fc = torch.nn.Identity()
        pixels = images()["wrist"][:, 0]
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        with torch.no_grad():
            expected = original((pixels.float() / 255 - mean[:, None, None]) / std[:, None, None])
            got = encoder.eval()(images())[:, 0, 512:]
        assert torch.allclose(got, expected, atol=1e-4)


def test_weights_that_are_nowhere_or_not_these(tmp_path, monkeypatch):
    encoder = ResNet18Config(tune="none").build(CAMERAS)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # as without a network, without the wait
    with pytest.raises(UserError, match="no file 'org/model', and the hub did not give 'org/model' either") as error:
        encoder.load_weights("org/model")
    assert "\n" not in str(error.value)
    wrong = tmp_path / "other.safetensors"
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, wrong)
    with pytest.raises(UserError, match="not torchvision's resnet18: '.*' and .* more tensors are missing"):
        encoder.load_weights(str(wrong))
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    with pytest.raises(UserError, match="cannot be read"):
        encoder.load_weights(str(tmp_path / "broken.pth"))
    with pytest.raises(UserError, match="SmallCnn has no public weights"):
        SMALL.build(CAMERAS).load_weights("org/model")
