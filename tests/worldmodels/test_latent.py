import pytest
import torch

from hardware.types import ArraySpec, RobotSpec
from robolearn.core.types import Obs
from robolearn.models.expectile_value import expectile_loss
from robolearn.worldmodels.latent import LatentConfig, LatentWorldModel

SPEC = RobotSpec("point", {}, {"x": ArraySpec(("x",), ("m",), (-1,), (1,))}, ArraySpec(("dx",), ("m",), (-1,), (1,)), "ee_delta", 10.0)


@pytest.fixture
def model() -> LatentWorldModel:
    torch.manual_seed(0)
    model = LatentWorldModel(LatentConfig(latent=16, width=32), SPEC, feature_dim=3, history=2)
    model.feature_norm.fit(torch.rand(50, 3))
    model.state_norm.fit(torch.rand(50, 1))
    model.action_norm.fit(torch.rand(50, 1) * 2 - 1)
    return model


def some_obs(batch: int = 4, time: int = 2) -> Obs:
    return Obs({}, torch.rand(batch, time, 1), torch.rand(batch, time, 3))


def test_latents_are_groups_of_probabilities(model):
    z = model.encode(some_obs())
    groups = z.unflatten(-1, (-1, model.config.group)).sum(-1)
    torch.testing.assert_close(groups, torch.ones_like(groups))


def test_heads_differ_at_initialisation(model):
    z, action = model.encode(some_obs()), torch.zeros(4, 5, 1)
    imagined = model.imagine(z[:1], action)
    assert (imagined.spread > 0).all()
    first, second = model.dynamics.layers[0].weight[:2]
    assert not torch.equal(first, second)


def test_a_sequence_is_encoded_as_its_windows_are(model):
    long = some_obs(time=4)
    last = Obs({}, long.state[:, -2:], long.features[:, -2:])
    torch.testing.assert_close(model.encode_sequence(long)[:, -1], model.encode(last))
    assert model.encode_sequence(long).shape == (4, 3, 16)


def test_images_without_features_are_refused(model):
    with pytest.raises(ValueError, match="features"):
        model.encode(Obs({}, torch.rand(1, 2, 1)))


def test_imagination_of_one_sequence_does_not_depend_on_the_others(model):
    z, actions = model.encode(some_obs(1)), torch.rand(6, 5, 1)
    together, alone = model.imagine(z, actions), model.imagine(z, actions[2:3])
    torch.testing.assert_close(together.value[:, 2], alone.value[:, 0])
    torch.testing.assert_close(together.q_std[2], alone.q_std[0])


def test_expectile_weighs_the_two_sides(model):
    loss = expectile_loss(torch.tensor([-1.0, 1.0]), tau=0.9)
    torch.testing.assert_close(loss, torch.tensor([0.1, 0.9]))


def test_the_target_follows_slowly(model):
    before = model.target_critics.layers[0].weight.clone()
    model.critics.layers[0].weight.data.add_(1.0)
    model.update_target()
    torch.testing.assert_close(model.target_critics.layers[0].weight, before + model.config.target_rate)
