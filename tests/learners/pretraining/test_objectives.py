"""What every objective promises, and that each of them teaches what it says."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from robolearn.core.errors import UserError
from robolearn.data.store import EpisodeStore
from robolearn.learners.pretraining import Clips, LearningConfig, Pretraining
from robolearn.learners.pretraining._views import ViewsConfig
from robolearn.learners.pretraining.byol import ByolConfig
from robolearn.learners.pretraining.keypoints import KeypointsConfig
from robolearn.learners.pretraining.mae import MaeConfig, TokenDecoder
from robolearn.learners.pretraining.moco import MocoConfig
from robolearn.learners.pretraining.objective import Clip, ObjectiveConfig, distance
from robolearn.learners.pretraining.taco import TacoConfig
from robolearn.learners.pretraining.time_contrastive import TimeContrastiveConfig
from robolearn.learners.pretraining.vip import VipConfig
from robolearn.models.encoders.base import CameraEncoder
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.models.encoders.resnet import ResNetConfig

SMALL = SmallCnnConfig(channels=(8, 8), strides=(2, 1), keypoints=4, crop=0.9)
MILD = ViewsConfig(scale=(0.6, 1.0))
OBJECTIVES = [
    MocoConfig(queue=64, momentum=0.9, projection=16, views=MILD),
    ByolConfig(momentum=0.9, hidden=32, projection=16, views=MILD),
    MaeConfig(width=32, grid=4),
    TimeContrastiveConfig(),
    VipConfig(projection=16),
    TacoConfig(latent=16, hidden=32),
    KeypointsConfig(patch=5),
]
NAMES = [type(o).__name__.removesuffix("Config").lower() for o in OBJECTIVES]
FAST = LearningConfig(lr=3e-3, warmup=5, precision="float32")


@pytest.fixture(params=OBJECTIVES, ids=NAMES)
def config(request) -> ObjectiveConfig:
    return request.param


def reader(path, config: ObjectiveConfig, cameras=("top", "side"), batch_size=16, seed=0) -> Clips:
    store = EpisodeStore.open(path)
    return Clips(store, config, cameras, np.arange(len(store)), batch_size, seed)


def made(path, config: ObjectiveConfig, encoder=SMALL, cameras=("top", "side"), batch_size=16):
    """(objective, clips) for some cameras of the store."""
    torch.manual_seed(0)
    clips = reader(path, config, cameras, batch_size)
    sizes = {camera: clips.store.spec.cameras[camera] for camera in cameras}
    objective = config.build(encoder.build(sizes), clips.frames(64), clips.actions())
    objective.generator.manual_seed(0)
    return objective, clips


def weights(objective) -> dict[str, torch.Tensor]:
    return copy.deepcopy(objective.state_dict())


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# Every objective -----------------------------------------------------------------------------------------------------


def test_it_teaches_every_part_of_the_encoder_for_every_camera(pushing, config):
    objective, clips = made(pushing, config)
    with clips:
        loss, metrics = objective.train().loss(next(clips))
    assert loss.ndim == 0 and torch.isfinite(loss) and metrics["loss"] == pytest.approx(loss.item())
    loss.backward()
    assert [n for n, p in objective.encoder.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert {id(p) for group in objective.parameter_groups() for p in group["params"]} == {
        id(p) for p in objective.parameters() if p.requires_grad
    }


def test_to_measure_the_loss_changes_nothing(pushing, config):
    objective, clips = made(pushing, config)
    before, start = weights(objective), objective.generator.get_state()
    with clips, torch.no_grad():
        clip = next(clips)
        first = objective.eval().loss(clip)[0]
        objective.generator.set_state(start)
        assert torch.equal(objective.loss(clip)[0], first), "the same noise, the same loss"
    assert equal(weights(objective), before)


def test_it_learns(pushing, config):
    objective, clips = made(pushing, config)
    learner = Pretraining(objective, FAST)

    def measured() -> float:
        objective.generator.manual_seed(7)
        objective.eval()
        with torch.no_grad(), reader(pushing, config, seed=3) as fixed:
            return float(np.mean([float(objective.loss(next(fixed))[1]["loss"]) for _ in range(3)]))

    with clips:
        for _ in range(6):  # a queue of noise is told apart from anything; now it holds what it will
            learner.update(next(clips))
        before = measured()
        objective.generator.manual_seed(0)
        for _ in range(30):
            learner.update(next(clips))
    assert measured() < before - 0.01


def test_a_resumed_training_ends_where_an_unbroken_one_does(pushing, config):
    objective, clips = made(pushing, config)
    learner = Pretraining(objective, FAST)
    with clips:
        for step in range(6):
            if step == 3:
                state = copy.deepcopy({"learner": learner.state_dict(), "clips": clips.state_dict()})
            learner.progress = step / 6
            learner.update(next(clips))
    torch.manual_seed(99)
    other, others = made(pushing, config)
    resumed = Pretraining(other, FAST)
    resumed.load_state_dict(state["learner"])
    others.load_state_dict(state["clips"])
    with others:
        for step in range(3, 6):
            resumed.progress = step / 6
            resumed.update(next(others))
    assert equal(weights(other), weights(objective))


def test_a_frozen_encoder_learns_here_too(pushing, config):
    objective, clips = made(pushing, config, replace(SMALL, tune="none"), ("top",))
    before = weights(objective.encoder)
    with clips:
        Pretraining(objective, FAST).update(next(clips))
    assert not equal(weights(objective.encoder), before)


@pytest.mark.parametrize("config", OBJECTIVES[:-1], ids=NAMES[:-1])  # its features are no keypoints
def test_a_residual_network_with_its_running_statistics_learns_too(pushing, config):
    one_each = isinstance(config, MocoConfig)
    encoder = ResNetConfig(tune="full" if one_each else "none", size=32)
    objective, clips = made(pushing, config, encoder, batch_size=4)
    with clips:
        Pretraining(objective, FAST).update(next(clips))
    counted = [value for name, value in objective.encoder.state_dict().items() if name.endswith("num_batches_tracked")]
    assert min(map(int, counted)) > 0, "statistics of this data, not of the start"


def test_a_loss_that_is_not_finite_is_the_learning_rates_fault(pushing):
    objective, clips = made(pushing, MaeConfig(grid=4))
    with torch.no_grad():
        next(objective.encoder.parameters()).fill_(float("nan"))
    with clips, pytest.raises(UserError, match=r"learning.lr: 0.003; the loss is nan at step 0: lower it"):
        Pretraining(objective, FAST).update(next(clips))


# MoCo, BYOL ----------------------------------------------------------------------------------------------------------


def test_the_queue_takes_the_keys_and_the_slow_encoder_follows(pushing):
    objective, clips = made(pushing, MocoConfig(queue=40, momentum=0.75, projection=8))
    learner = Pretraining(objective, FAST)
    slow, queue = weights(objective.slow_encoder), objective.queue.clone()
    with clips:
        learner.update(next(clips))
    for name, parameter in objective.slow_encoder.named_parameters():
        expected = 0.75 * slow[name] + 0.25 * objective.encoder.get_parameter(name)
        assert torch.allclose(parameter, expected, atol=1e-6) and not parameter.requires_grad
    assert torch.equal(objective.queue[:, 16:], queue[:, :24]), "the oldest fall off the end"
    assert torch.allclose(objective.queue.norm(dim=-1), torch.ones(2, 40), atol=1e-5)
    assert not torch.equal(objective.queue[0, :16], objective.queue[1, :16]), "each camera has its own"


def test_momentum_ends_at_one_where_nothing_is_predicted_any_more(pushing):
    objective, clips = made(pushing, ByolConfig(momentum=0.5, hidden=16, projection=8))
    with clips:
        objective.train().loss(next(clips))
    before = weights(objective.slow_encoder)
    for parameter in objective.encoder.parameters():
        parameter.data.add_(1.0)
    objective.after_step(1.0)
    assert equal(weights(objective.slow_encoder), before)
    objective.after_step(0.0)
    name, parameter = next(iter(objective.slow_encoder.named_parameters()))
    assert torch.allclose(parameter, 0.5 * before[name] + 0.5 * objective.encoder.get_parameter(name))


# Masked autoencoding -------------------------------------------------------------------------------------------------


class Vit(CameraEncoder):
    """A small vision transformer for every camera, images of 24 px squashed to 32."""

    def __init__(self, cameras, config):
        super().__init__(cameras, config)
        shape = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}
        self.nets = torch.nn.ModuleDict({c: VisionTransformer(**shape, reg_tokens=2) for c in cameras})
        self.out_dim = 32 * len(cameras)

    def encode(self, camera, images):
        return self.nets[camera](torch.nn.functional.interpolate(images, size=(32, 32)) * 2 - 1)


def vit(pushing, config):
    torch.manual_seed(0)
    clips = reader(pushing, config, ("top",))
    return config.build(Vit({"top": (24, 24)}, SMALL), clips.frames(8), clips.actions()), clips


def test_a_transformer_sees_only_what_is_not_masked(pushing):
    from robolearn.learners.pretraining import mae

    objective, clips = vit(pushing, MaeConfig(width=32, depth=1, ratio=0.75))
    assert isinstance(objective.decoders["top"], TokenDecoder)
    net = objective.encoder.nets["top"].eval()
    shown = torch.tensor([[1, 4, 10, 15]])
    image = torch.rand(1, 3, 32, 32)
    tokens = mae._see(net, image, shown)
    assert tokens.shape == (1, 1 + 2 + 4, 32)
    hidden = image.clone()
    hidden[..., :8, :8] = 0.0  # patch 0
    assert torch.equal(mae._see(net, hidden, shown), tokens)
    hidden[..., :8, 8:16] = 0.0  # patch 1
    assert not torch.allclose(mae._see(net, hidden, shown), tokens, atol=1e-4)
    assert net.forward_features(image).shape == (1, 1 + 2 + 16, 32), "whole again afterwards"


def test_a_transformer_learns_by_masks(pushing):
    objective, clips = vit(pushing, MaeConfig(width=32, depth=1))
    learner = Pretraining(objective, LearningConfig(lr=2e-3, warmup=5, precision="float32"))
    with clips:
        losses = [learner.update(next(clips))["loss"] for _ in range(60)]
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.1


def test_the_error_counts_under_the_mask_only():
    from robolearn.learners.pretraining.mae import _error, _patches

    image = torch.rand(2, 3, 16, 16)
    target = _patches(image, (8, 8))
    assert target.shape == (2, 4, 192)
    assert torch.equal(target[0, 1].view(3, 8, 8), image[0, :, :8, 8:]), "row by row"
    exact = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    hidden = torch.tensor([[True, False, True, False]] * 2)
    wrong = exact + 5 * ~hidden[..., None]
    assert float(_error(wrong, target, hidden)) < 1e-6 < float(_error(wrong, target, ~hidden))


def test_a_convolution_sees_grey_squares_instead():
    from robolearn.learners.pretraining.mae import _grey

    image = torch.rand(1, 3, 20, 20)
    masked = _grey(image, torch.tensor([[0, 3]]), 2)
    assert torch.equal(masked[..., :10, :10], image[..., :10, :10]) and torch.equal(masked[..., 10:, 10:], image[..., 10:, 10:])
    assert torch.allclose(masked[..., :10, 10:], image.mean((2, 3), keepdim=True).expand(1, 3, 10, 10))


# Time ----------------------------------------------------------------------------------------------------------------


def trained(pushing, config, updates=60):
    encoder = replace(SMALL, channels=(16, 16), keypoints=8, crop=1.0)
    objective, clips = made(pushing, config, encoder, ("top",), 32)
    learner = Pretraining(objective, LearningConfig(lr=1e-2, warmup=5, precision="float32"))
    with clips:
        measured = [learner.update(next(clips)) for _ in range(updates)]
    return objective, measured


def test_frames_close_in_time_become_close_features(pushing):
    _, measured = trained(pushing, TimeContrastiveConfig())
    late = np.mean([m["ordered"] for m in measured[-10:]])
    assert late > 0.6, f"{late:.2f} of the clips; 1 in 3 by chance"


def test_values_rise_towards_the_goal(pushing):
    config = VipConfig(projection=16)
    objective, measured = trained(pushing, config)
    assert np.mean([m["nearer"] for m in measured[-10:]]) > 0.6
    store = EpisodeStore.open(pushing)
    rows = np.arange(store.length(11)) + store.starts[11]
    images = torch.from_numpy(store.frames("top", rows)).permute(0, 3, 1, 2)
    with torch.no_grad():
        points = objective.values["top"](objective.encoder.eval().encode("top", objective.encoder.pixels("top", images)))
    away = distance(points, points[-1:].expand_as(points))
    assert away[0] > away[len(away) // 2] > away[-1]


def test_the_value_loss_is_the_one_of_the_paper():
    from robolearn.learners.pretraining.vip import _soft_bellman

    rng = np.random.default_rng(0)
    now, then, goal = (torch.tensor(rng.normal(size=(5, 3)), dtype=torch.float32) for _ in range(3))
    value = lambda x: -np.linalg.norm((x - goal).numpy(), axis=1)  # noqa: E731
    expected = np.log(np.mean(np.exp(1 + value(now) - 0.9 * value(then))))
    assert float(_soft_bellman(now, then, goal, 0.9)) == pytest.approx(expected, rel=1e-5)


def test_actions_say_which_future_comes(pushing):
    config = TacoConfig(latent=16, hidden=32, curl=False)
    objective, measured = trained(pushing, config, 80)
    assert np.mean([m["accuracy"] for m in measured[-10:]]) > 0.3, "1 in 32 by chance"
    with torch.no_grad(), reader(pushing, config, ("top",), 128, seed=5) as clips:
        clip = next(clips)
        right = objective.eval().loss(clip)[1]["accuracy"]
        assert clip.action is not None
        wrong = objective.loss(Clip(clip.images, clip.rows, clip.action.flip(0)))[1]["accuracy"]
    assert right > 1.3 * wrong, "with other actions it guesses another future"


# Who fits whom -------------------------------------------------------------------------------------------------------


def test_keypoints_ask_for_an_encoder_that_has_some(pushing):
    with pytest.raises(UserError, match="objective.type: keypoints: ResNet's features are no keypoints; expected encoder.type cnn"):
        made(pushing, KeypointsConfig(), ResNetConfig(size=32))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MaeConfig(ratio=1.0), "objective.ratio: 1.0 of the patches; expected above 0 and below 1"),
        (MaeConfig(grid=1), "objective.grid: 1 squares; expected at least 2"),
        (MocoConfig(queue=0), "objective.queue: 0 keys; expected at least 1"),
        (TacoConfig(steps=0), "objective.steps: 0 actions; expected at least 1"),
        (TimeContrastiveConfig(span=1), "objective.span: 1 rows; expected 0, or 2 and more"),
        (ObjectiveConfig(), "pick an objective by its type"),
    ],
)
def test_wrong_settings_are_named(pushing, config, message):
    with pytest.raises(UserError, match=message):
        made(pushing, config)
