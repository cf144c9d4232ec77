"""A red square of 5 px wanders over a fixed pattern beside a larger grey bar that moves too: where is the square?"""

import numpy as np
import pytest
import torch

from robolearn.learners.pretraining.keypoints import PretrainConfig, Stamps, pretrain
from robolearn.models.encoders.cnn import SmallCnnConfig

SIZE = 40


def scene(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    background = np.random.default_rng(9).integers(100, 140, (SIZE, SIZE, 3)).astype(np.uint8)
    frames = np.repeat(background[None], count, 0)
    where = rng.uniform(4, SIZE - 9, (count, 2))
    for frame, (x, y), bar in zip(frames, where.astype(int), rng.integers(0, SIZE - 8, count), strict=True):
        frame[:, bar : bar + 8] = 180
        frame[y : y + 5, x : x + 5] = (220, 20, 20)
    return frames, where.astype(int)


def linear_probe(features: np.ndarray, truth: np.ndarray, train: int) -> float:
    """Mean distance [px] on the rows after `train` of a least-squares fit to the rows before."""
    inputs = np.hstack([features, np.ones((len(features), 1))])
    weights = np.linalg.solve(inputs[:train].T @ inputs[:train] + 1e-2 * np.eye(inputs.shape[1]), inputs[:train].T @ truth[:train])
    return float(np.linalg.norm(inputs[train:] @ weights - truth[train:], axis=1).mean())


def test_pretraining_finds_a_small_moving_object():
    frames, where = scene(512, np.random.default_rng(0))
    config = SmallCnnConfig(tune="none", channels=(16, 16), strides=(2, 1), keypoints=8, crop=1.0)
    torch.manual_seed(0)
    encoder = config.build({"top": (SIZE, SIZE)}).requires_grad_(False)  # as a policy holds a frozen one

    def features() -> np.ndarray:
        with torch.no_grad():
            return encoder.eval()({"top": torch.from_numpy(frames).permute(0, 3, 1, 2)[:, None]})[:, 0].numpy()

    before = linear_probe(features(), where, 400)
    seen: list[float] = []
    metrics = pretrain(
        encoder, {"top": frames[:400]}, PretrainConfig(steps=120, batch_size=32, lr=5e-3), torch.Generator().manual_seed(0), seen.append
    )
    after = linear_probe(features(), where, 400)
    assert metrics["unexplained_top"] < 0.6
    assert after < 2.0 and after < 0.6 * before, f"{before:.1f} px before, {after:.1f} px after"
    assert seen[-1] == 1.0 and not encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())


@pytest.mark.parametrize("steps", [3, 10])
def test_few_updates_are_updates_too(steps):
    frames, _ = scene(16, np.random.default_rng(0))
    encoder = SmallCnnConfig(channels=(8,), strides=(2,), keypoints=2, crop=1.0).build({"top": (SIZE, SIZE)})
    assert np.isfinite(pretrain(encoder, {"top": frames}, PretrainConfig(steps=steps, batch_size=4), torch.Generator())["unexplained_top"])


def test_a_stamp_lands_where_its_keypoint_is():
    stamps = Stamps(1, (21, 41))
    with torch.no_grad():
        stamps.patches.zero_()
        stamps.patches[0, 0, 4, 4] = 1.0
    image = stamps(torch.tensor([[0.5, -0.5]]))[0, 0]
    assert divmod(int(image.argmax()), 41) == (5, 30)


def test_a_patch_is_drawn_upright():
    stamps = Stamps(1, (21, 41))
    with torch.no_grad():
        stamps.patches.zero_()
        stamps.patches[0, 1, 6, 3] = 1.0  # green, two rows below its keypoint and one column left of it
    image = stamps(torch.tensor([[0.0, 0.0]]))[0]
    assert divmod(int(image[1].argmax()), 41) == (12, 19)
    assert not image[0].any()
