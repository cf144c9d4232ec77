"""Networks of timm's: the contract on the smallest of several families, and what is read from timm about each."""

import numpy as np
import pytest
import torch

from robolearn.core.checkpoint import load_policy, save_checkpoint
from robolearn.core.types import Batch, Obs
from robolearn.learners.imitation import Imitation, ImitationConfig
from robolearn.models.encoders.pretrained import PretrainedConfig
from robolearn.policies.bc import BcConfig
from robolearn.testing import SPEC, EncoderContract


class TestTransformer(EncoderContract):
    config = PretrainedConfig(model="test_vit", size=32, tune="none")


class TestTransformerTokens(EncoderContract):
    config = PretrainedConfig(model="test_vit", size=48, tune="lora", rank=2, head="tokens")


class TestTransformerAttention(EncoderContract):
    config = PretrainedConfig(model="test_vit", size=32, tune="last", blocks=1, head="attention")
    can_freeze = False


class TestConvolution(EncoderContract):
    config = PretrainedConfig(model="test_convnext", size=64, tune="full", head="keypoints")


@pytest.mark.parametrize("config", [TestTransformerTokens.config, TestTransformerAttention.config])
def test_a_policy_learns_through_the_little_that_learns(tmp_path, config):
    """Imitation, the moving average and the checkpoint with an encoder that is partly frozen."""
    torch.manual_seed(0)
    policy_config = BcConfig(hidden=(16,), dropout=0.0, horizon=2, history=1, encoder=config)
    policy = policy_config.build(SPEC)
    images = {name: torch.randint(0, 256, (4, 1, 3, *size), dtype=torch.uint8) for name, size in SPEC.cameras.items()}
    batch = Batch(Obs(images, torch.randn(4, 1, 3)), torch.zeros(4, 2, 3), torch.zeros(4, 2, dtype=torch.bool))
    policy.fit_normalizers(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32))
    before = {name: value.clone() for name, value in policy.encoder.state_dict().items()}
    learner = Imitation(policy, ImitationConfig(lr=1e-2, warmup=1, precision="float32"))
    for _ in range(3):
        assert learner.update(batch)["loss"] >= 0
    moved = {name for name, value in policy.encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name, p in policy.encoder.named_parameters() if p.requires_grad}
    save_checkpoint(tmp_path / "policy.pt", learner.policy, policy_config)
    assert torch.equal(load_policy(tmp_path / "policy.pt").act(batch.obs), learner.policy.act(batch.obs))
