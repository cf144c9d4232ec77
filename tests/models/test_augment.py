"""Each change by itself, on images where one can see it."""

import pytest
import torch

from robolearn.models.augment import Augment, _slices, _windows, augment
from robolearn.models.encoders.cnn import SmallCnnConfig

RAMP = torch.arange(48, dtype=torch.uint8)[:, None].expand(3, 48, 40)  # a row's number is its brightness


def change(images: torch.Tensor, how: Augment, size: tuple[int, int] | None = None, seed: int = 0) -> torch.Tensor:
    return augment(images, how, size or (images.shape[-2], images.shape[-1]), torch.Generator().manual_seed(seed))


def test_crops_lie_anywhere_within():
    images = RAMP.expand(64, 2, 3, 48, 40)
    pixels = change(images, Augment(crop=0.875), (42, 35)) * 255
    top = pixels[:, :, 0, 0, 0].round().int()
    assert torch.equal(top[:, 0], top[:, 1]) and set(top[:, 0].tolist()) == set(range(7))
    assert torch.equal(pixels[:, :, 0, :, 0].round().int(), top[..., None] + torch.arange(42, dtype=torch.int32))
    across = change(images.transpose(-1, -2).contiguous(), Augment(crop=0.875), (35, 42)) * 255
    assert set(across[:, 0, 0, 0, 0].round().int().tolist()) == set(range(7))


def test_shifts_keep_the_whole_image_and_repeat_its_edge():
    pixels = change(RAMP.expand(64, 2, 3, 48, 40), Augment(shift=2)) * 255
    moved = (pixels[:, 0, 0, 20, 0] - 20).round().int()
    assert pixels.shape == (64, 2, 3, 48, 40) and set(moved.tolist()) == {-2, -1, 0, 1, 2}
    expected = (torch.arange(48) + moved[:, None]).clamp(0, 47)
    assert torch.equal(pixels[:, 1, 2, :, 39].round().int(), expected.int())


@pytest.mark.parametrize("steps", [(), (2,)])
def test_what_a_gpu_does_in_one_go_is_the_same(steps):
    images = torch.randint(0, 256, (5, *steps, 3, 24, 20), dtype=torch.uint8)
    top, left = torch.tensor([0, 4, 2, 1, 3]), torch.tensor([2, 0, 1, 2, 2])
    assert torch.equal(_windows(images, top, left, (20, 18)), _slices(images, top, left, (20, 18)))


def test_colors_turn_and_grey_stays_grey():
    grey = torch.full((200, 1, 3, 4, 4), 100, dtype=torch.uint8)
    pixels = change(grey, Augment(color=0.3))[:, 0, :, 0, 0] * 255
    assert (pixels.amax(1) - pixels.amin(1)).max() < 0.5, "no colour comes into what has none"
    assert 65 < pixels.min() < 75 and 125 < pixels.max() < 135, "a flat image has no contrast: its brightness alone changes, by 30 %"
    red = torch.tensor([200, 40, 40], dtype=torch.uint8)[:, None, None].expand(200, 1, 3, 4, 4)
    turned = change(red, Augment(color=0.3))[:, 0, :, 0, 0]
    assert turned.std(0).min() > 0.02 and (turned.argmax(1) == 0).all(), "0.075 of a turn leaves red red"
    half = torch.zeros(50, 1, 3, 4, 4, dtype=torch.uint8)
    half[..., 2:] = 200
    pixels = change(half, Augment(color=0.3))
    step = pixels[..., 3] - pixels[..., 0]
    assert torch.allclose(step, step[:, :, :1].expand_as(step), atol=1e-3), "grey edges, too"
    assert step.std() > 0.05 and step.min() > 0.35


def test_an_overlay_is_another_sample_or_a_pattern_that_stands_still():
    images = torch.zeros(100, 3, 3, 16, 16, dtype=torch.uint8)
    images[50:] = 255
    pixels = change(images, Augment(overlay=0.4))
    assert pixels[:50].max() <= 0.4 + 1e-6 and pixels[50:].min() >= 0.6 - 1e-6
    assert torch.equal(pixels[:, 0], pixels[:, 2])
    flat = pixels[:, 0].flatten(1).std(1) < 1e-6
    assert 30 < flat.sum() < 70, "half are laid over by another image, here of one brightness"
    changed = pixels[:50][flat[:50]][:, 0, 0, 0, 0] > 0
    assert 0.2 < changed.float().mean() < 0.8, "which was as black as themselves half of the times"
    alone = change(images[:1], Augment(overlay=1.0))
    assert alone.std() > 0.01, "a single sample has no other: a pattern"


def test_another_view_moves_the_corners_and_stays_in_the_plane():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    images = torch.stack([x * 4, y * 4, torch.zeros(64, 64)]).round().to(torch.uint8).expand(40, 2, 3, 64, 64)
    pixels = change(images, Augment(view=0.1))
    assert torch.equal(pixels[:, 0], pixels[:, 1])
    seen = pixels[:, 0, :2] * 255 / 4  # where each pixel was before
    corner = seen[:, :, 32, 32] - 32
    assert 0.5 < corner.abs().max() < 13
    straight = seen[:, :, 32, 10:54]  # a straight line stays one
    direction = straight[:, :, -1:] - straight[:, :, :1]
    across = torch.stack([-direction[:, 1], direction[:, 0]], 1) / direction.norm(dim=1, keepdim=True)
    assert ((straight - straight[:, :, :1]) * across).sum(1).abs().max() < 0.6
    assert torch.allclose(change(images, Augment(view=1e-6))[0, 0], images[0, 0].float() / 255, atol=1e-3)


@pytest.mark.parametrize("how", [Augment(color=0.2), Augment(overlay=0.2), Augment(view=0.1), Augment(shift=2)])
def test_bfloat16_around_it_changes_nothing(how):
    images = torch.randint(0, 256, (4, 2, 3, 16, 16), dtype=torch.uint8)
    exact = change(images, how)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(change(images, how), exact) and exact.dtype == torch.float32


def test_each_camera_has_its_own():
    config = SmallCnnConfig(channels=(8,), strides=(2,), crop=1.0, color=0.3, per_camera={"wrist": Augment(crop=0.5)})
    encoder = config.build({"front": (16, 16), "wrist": (16, 16)}).train()
    image = torch.full((4, 1, 3, 16, 16), 100, dtype=torch.uint8)
    assert encoder.pixels("front", image).std() > 0.01 and encoder.pixels("front", image).shape[-1] == 16
    assert torch.equal(encoder.pixels("wrist", image), torch.full((4, 1, 3, 8, 8), 100 / 255))
    assert (encoder.eval().pixels("front", image) == 100 / 255).all()
