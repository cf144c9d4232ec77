"""What diffusion and flow share: the networks' sizes, and actions known beforehand."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hardware import RobotConfig, spec_of
from robolearn.core.config import load_config
from robolearn.core.errors import UserError
from robolearn.experiments.train import Config
from robolearn.policies._denoising import DenoisingConfig, of_the_rest
from robolearn.policies.consistency import ConsistencyConfig, _shared
from robolearn.policies.diffusion import DiffusionConfig
from robolearn.policies.flow import FlowConfig
from robolearn.testing import SPEC, PolicyContract

UNET, TOKENS = {"widths": (16, 32), "horizon": 8}, {"width": 32, "layers": 2, "heads": 2, "dropout": 0.0, "horizon": 8}


def two_ways(config, steps: int = 150, lr: float = 5e-3):
    """A policy that saw half the chunks go left and half right, always from the same state, and an observation of that state."""
    contract = PolicyContract()
    contract.config = config
    policy, batch = contract.build(), contract.batch(32)
    policy.prepare()
    action = torch.zeros_like(batch.action)
    action[..., 0] = torch.where(torch.arange(32) % 2 == 0, 0.1, -0.1)[:, None]
    batch = replace(batch, action=action, obs=replace(batch.obs, state=torch.zeros_like(batch.obs.state)))
    policy.fit_normalizers(torch.rand(9, 3).numpy(), action.flatten(0, 1).numpy())
    optimizer = torch.optim.Adam([p for p in policy.parameters() if p.requires_grad], lr)
    for _ in range(steps):
        optimizer.zero_grad()
        policy.loss(batch)[0].backward()
        optimizer.step()
    return policy, replace(batch.obs, state=batch.obs.state[:1])


@pytest.mark.parametrize(
    "config",
    [
        DiffusionConfig(**UNET, sample_steps=8, prefix=3, prediction="sample"),
        FlowConfig(**TOKENS, net="dit", sample_steps=8, prefix=3),
        FlowConfig(**TOKENS, net="transformer", causal=True, sample_steps=8, prefix=3),
    ],
    ids=["unet", "dit", "transformer"],
)
def test_the_rest_goes_on_from_the_prefix(config):
    """From the same state half the data goes left, half right. Told which way it is going, the policy goes on that way."""
    policy, obs = two_ways(config)
    for side in (0.1, -0.1):
        prefix = torch.zeros(1, 2, 3)
        prefix[..., 0] = side
        samples = policy.sample(obs, 32, torch.Generator().manual_seed(2), prefix)[0]
        assert torch.allclose(samples[:, :2], prefix.expand(32, -1, -1), atol=1e-7)
        assert ((samples[:, 2:, 0].mean(1) - side).abs() < 0.05).float().mean() > 0.9
    free = policy.sample(obs, 64, torch.Generator().manual_seed(2))[0, :, :, 0].mean(1)
    assert 0.2 < (free > 0).float().mean() < 0.8, "without a prefix both ways stay open"


def test_known_actions_teach_nothing_and_the_others_as_much_as_ever():
    errors, known = torch.ones(3, 4), torch.arange(4) < torch.tensor([[0], [1], [3]])
    rest = of_the_rest(errors, known)
    assert not rest[known].any() and rest.mean() == pytest.approx(1.0)
    assert of_the_rest(errors, None) is errors


def test_the_delay_of_each_row_is_drawn():
    policy = DiffusionConfig(**UNET, prefix=3).build(SPEC)
    delays = policy.told(torch.zeros(400, 8, 3)).sum(1)
    assert delays.unique().tolist() == [0, 1, 2, 3] and (delays.bincount() > 70).all()
    assert DiffusionConfig(**UNET).build(SPEC).told(torch.zeros(4, 8, 3)) is None


def test_a_longer_prefix_than_it_was_trained_for_is_refused():
    contract = PolicyContract()
    contract.config = DiffusionConfig(**UNET, prefix=2)
    obs = contract.batch(1).obs
    with pytest.raises(ValueError, match="prefix: 3 actions; DiffusionPolicy was trained for at most 2"):
        contract.build().sample(obs, 1, prefix=torch.zeros(1, 3, 3))
    contract.config = DiffusionConfig(**UNET)
    with pytest.raises(ValueError, match="trained for at most 0"):
        contract.build().sample(obs, 1, prefix=torch.zeros(1, 1, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefix": 16}, "policy.prefix: 16 actions; expected less than the horizon of 16"),
        ({"prefix": -1}, "policy.prefix: -1 actions; expected at least 0"),
        ({"net": "dit", "width": 30}, r"policy.width: 30 channels; expected a multiple of 4 \(heads\), at least 8"),
        ({"net": "dit", "heads": 0}, "policy.heads: 0 heads; expected at least 1"),
        ({"net": "transformer", "layers": 0}, "policy.layers: 0 layers; expected at least 1"),
        ({"net": "transformer", "dropout": 1.0}, "policy.dropout: 1.0; expected 0 to below 1"),
    ],
)
@pytest.mark.parametrize("kind", [DiffusionConfig, FlowConfig])
def test_a_config_that_cannot_be_built_says_why_in_one_line(kind: type[DenoisingConfig], options, message):
    with pytest.raises(UserError, match=message) as error:
        kind(**options).build(SPEC)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "kind"), [("flow", FlowConfig), ("dit", DiffusionConfig), ("consistency", ConsistencyConfig)])
def test_the_configs_are_valid(name, kind):
    policy = load_config(Path(f"configs/train/pusht_state_{name}.yaml"), Config).policy
    built = policy.build(spec_of(RobotConfig("pusht:state")))
    assert type(policy) is kind and sum(p.numel() for p in built.net.parameters()) > 1e6


def test_the_students_config_fits_its_teachers():
    student, teacher = (load_config(Path(f"configs/train/pusht_state_{name}.yaml"), Config).policy for name in ("consistency", "flow"))
    assert _shared(student) == _shared(teacher)
