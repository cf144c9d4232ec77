from dataclasses import replace

import pytest
import torch

from robolearn.learners.pretraining._views import ViewsConfig, view

STILL = ViewsConfig(scale=(1.0, 1.0), jitter=0.0, hue=0.0, grey=0.0, blur=0.0)


def images(count: int = 64) -> torch.Tensor:
    return torch.rand(count, 3, 20, 28, generator=torch.Generator().manual_seed(9)) * 0.6 + 0.2


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def changed(**settings) -> tuple[torch.Tensor, torch.Tensor]:
    """(images, their views) with one augmentation only."""
    return images(), view(images(), replace(STILL, **settings), seeded())


def test_a_view_with_nothing_to_change_has_whole_sides_only():
    crops = view(images(), STILL, seeded())  # area 1 leaves only what the ratio of the sides cuts off
    assert crops.shape == images().shape
    assert 0.02 < (crops - images()).abs().mean() < 0.25


def test_the_same_generator_draws_the_same_views_and_every_image_has_its_own():
    one, other = view(images(), ViewsConfig(), seeded(1)), view(images(), ViewsConfig(), seeded(1))
    assert torch.equal(one, other) and not torch.equal(one, view(images(), ViewsConfig(), seeded(2)))
    same = images()[:1].expand(64, -1, -1, -1)
    assert len({round(float(v.mean()), 5) for v in view(same, ViewsConfig(), seeded())}) > 60


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_views_are_pictures_whatever_the_precision_around_them(precision):
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        views = view(images(), ViewsConfig(), seeded())
    assert views.dtype == torch.float32 and views.min() >= 0 and views.max() <= 1 and torch.isfinite(views).all()


def test_a_crop_is_a_part_of_the_image_of_the_area_asked_for():
    across = torch.linspace(0, 1, 28).expand(3, 20, 28)
    down = torch.linspace(0, 1, 20)[:, None].expand(3, 20, 28)
    config = replace(STILL, scale=(0.25, 0.5))
    wide = view(across.expand(200, 3, 20, 28), config, seeded())[:, 0].flatten(1)
    high = view(down.expand(200, 3, 20, 28), config, seeded())[:, 0].flatten(1)
    area = (wide.max(1).values - wide.min(1).values) * (high.max(1).values - high.min(1).values)
    assert area.min() > 0.2 and area.max() < 0.52
    assert wide.min() < 0.05 and wide.max() > 0.95, "anywhere in the image"
    assert (wide[:, 1] > wide[:, 0]).all(), "no mirror image unless asked for"
    mirrored = view(across.expand(200, 3, 20, 28), replace(config, flip=0.5), seeded())[:, 0].flatten(1)
    assert 0.35 < (mirrored[:, 1] < mirrored[:, 0]).float().mean() < 0.65


def test_grey_views_have_one_channel_three_times_and_keep_the_brightness():
    before, after = changed(grey=1.0)
    assert torch.allclose(after[:, 0], after[:, 1], atol=1e-4) and torch.allclose(after[:, 0], after[:, 2], atol=1e-4)
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    assert torch.allclose(after[:, 0].mean((1, 2)), (before * weights).sum(1).mean((1, 2)), atol=0.02)


def test_hue_turns_colours_and_leaves_the_grey_value():
    before, after = changed(hue=0.5)
    same = view(images(), STILL, seeded())
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    inside = ((after > 0.001) & (after < 0.999)).all(1)
    assert torch.allclose((after * weights).sum(1)[inside], (same * weights).sum(1)[inside], atol=0.01)
    turned = (after - same).abs().mean((1, 2, 3)) > 0.01
    assert 0.6 < turned.float().mean() < 0.95, "80 % of them"
    assert before.shape == after.shape


def test_blur_smooths_its_share_of_the_views():
    def rough(x: torch.Tensor) -> torch.Tensor:
        return (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3))

    shares = []
    for seed in range(6):  # one width for a batch, and a narrow one changes nothing
        same, after = (view(images(), replace(STILL, blur=blur), seeded(seed)) for blur in (0.0, 0.5))
        blurred = (after - same).abs().mean((1, 2, 3)) > 1e-4
        assert (rough(after)[blurred] < rough(same)[blurred]).all() and torch.allclose(after[~blurred], same[~blurred], atol=0.01)
        shares.append(float(blurred.float().mean()))
    assert 0.3 < max(shares) < 0.7


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"scale": (0.0, 1.0)}, "views.scale"), ({"scale": (0.5, 0.2)}, "views.scale"), ({"blur": 1.5}, "views.blur: 1.5; expected 0 to 1")],
)
def test_settings_outside_their_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        ViewsConfig(**settings)
