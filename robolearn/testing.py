"""What every policy promises, as tests to inherit: subclass, give `config`, and pytest does the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardware.types import ArraySpec, RobotSpec
from robolearn.core.checkpoint import load_policy, save_checkpoint
from robolearn.core.types import Batch, Obs
from robolearn.learners.imitation import Imitation, ImitationConfig

SPEC = RobotSpec(
    name="contract",
    cameras={"front": (32, 32), "wrist": (24, 28)},
    state={
        "position": ArraySpec(("x", "y"), ("m", "m"), (-1.0, -1.0), (1.0, 1.0)),
        "gripper": ArraySpec(("opening",), ("1",), (0.0,), (1.0,)),
    },
    action=ArraySpec(("dx", "dy", "grip"), ("m", "m", "1"), (-0.1, -0.1, 0.0), (0.1, 0.1, 1.0)),
    action_mode="ee_delta",
    rate_hz=10.0,
)


class PolicyContract:
    """Set `config` to a policy's config (with `build`, `history`, `horizon`); override `spec` for another robot."""

    config: Any
    spec: RobotSpec = SPEC
    overfit_steps = 60
    overfit_lr = 5e-3

    def build(self, config: Any = None) -> Any:
        """A new policy, its normalizers fitted on the data of `batch`."""
        torch.manual_seed(0)
        policy = (config or self.config).build(self.spec)
        data = self.batch(64)
        features = None
        if getattr(policy, "feature_norm", None) is not None:
            with torch.no_grad():
                features = policy.encoder.eval()(data.obs.images)[:, -1].numpy()
        policy.fit_normalizers(data.obs.state[:, -1].numpy(), data.action.flatten(0, 1).numpy(), features)
        policy.seed(0)
        return policy

    def batch(self, rows: int, seed: int = 0) -> Batch:
        """Actions a policy can work out from the state: they lead back to the middle."""
        rng = np.random.default_rng(seed)
        shape = (rows, self.config.history)
        state = rng.uniform(-1, 1, (*shape, 3)).astype(np.float32)
        action = np.repeat(np.clip(-0.1 * state[:, -1:], [-0.1, -0.1, 0], [0.1, 0.1, 1]), self.config.horizon, axis=1).astype(np.float32)
        seen = self.config.select(self.spec)
        images = {name: torch.from_numpy(rng.integers(0, 256, (*shape, 3, *size), dtype=np.uint8)) for name, size in seen.cameras.items()}
        keep = [i for i, key in enumerate(("position", "position", "gripper")) if key in seen.state]
        pad = torch.zeros(rows, self.config.horizon, dtype=torch.bool)
        return Batch(Obs(images, torch.from_numpy(state[..., keep])), torch.from_numpy(action), pad)

    def test_the_loss_is_finite_and_falls_on_data_it_sees_again(self):
        learner = Imitation(self.build(), ImitationConfig(lr=self.overfit_lr, warmup=5, schedule="constant", precision="float32"))
        batch = self.batch(16)
        losses = [learner.update(batch)["loss"] for _ in range(self.overfit_steps)]
        assert np.isfinite(losses).all()
        assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])

    def test_it_answers_with_a_chunk_in_physical_units(self):
        policy, batch = self.build(), self.batch(3, seed=1)
        action = policy.act(batch.obs)
        assert action.shape == (3, policy.horizon, self.spec.action.dim) and action.dtype == torch.float32
        low, high = (torch.tensor(edge) - sign * 1e-5 for edge, sign in ((self.spec.action.low, 1), (self.spec.action.high, -1)))
        assert torch.isfinite(action).all() and (action >= low).all() and (action <= high).all()
        assert not action.requires_grad

    def test_the_same_seed_gives_the_same_actions(self):
        policy, obs = self.build(), self.batch(2, seed=1).obs
        policy.seed(7)
        first = policy.act(obs)
        policy.seed(7)
        assert torch.equal(policy.act(obs), first)

    def test_acting_does_not_touch_the_global_random_stream(self):
        policy, batch = self.build(), self.batch(2)
        state = torch.random.get_rng_state()
        policy.act(batch.obs)
        policy.eval().loss(batch)
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_many_samples_cost_one_look(self):
        policy, obs = self.build(), self.batch(2, seed=1).obs
        samples = policy.sample(obs, 5, torch.Generator().manual_seed(3))
        again = policy.sample(obs, 5, torch.Generator().manual_seed(3))
        assert samples.shape == (2, 5, policy.horizon, self.spec.action.dim)
        assert torch.equal(samples, again)

    def test_a_checkpoint_acts_as_the_policy_did(self, tmp_path: Path):
        policy, obs = self.build(), self.batch(2, seed=1).obs
        policy.seed(5)
        before = policy.act(obs)
        save_checkpoint(tmp_path / "policy.pt", policy, self.config)
        loaded: Any = load_policy(tmp_path / "policy.pt", spec=policy.spec)
        loaded.seed(5)
        assert torch.equal(loaded.act(obs), before)

    def test_a_policy_without_units_refuses_to_act(self):
        policy, batch = self.config.build(self.spec), self.batch(1)
        with pytest.raises(RuntimeError, match="not fitted"):
            policy.act(batch.obs)
        with pytest.raises(RuntimeError, match="not fitted"):
            policy.loss(batch)

    def test_a_row_of_weight_zero_teaches_nothing(self):
        policy, good, bad = self.build().eval(), self.batch(4), self.batch(4, seed=2)
        weight = torch.tensor([1.0, 1.0, 0.0, 0.0])
        assert _gradient(policy, replace(good, weight=torch.ones(4))) == pytest.approx(_gradient(policy, good))
        spoiled = good.action.clone()
        spoiled[2:] = bad.action[2:]
        assert _gradient(policy, replace(good, weight=weight)) == pytest.approx(
            _gradient(policy, replace(good, action=spoiled, weight=weight))
        )
        assert _gradient(policy, replace(good, weight=weight)) != pytest.approx(_gradient(policy, good))

    def test_padded_actions_teach_nothing_where_the_config_says_so(self):
        policy, batch = self.build(replace(self.config, mask_pad=True)).eval(), self.batch(4)
        pad = batch.pad.clone()
        pad[2:] = True  # whole rows, so that nothing of them can reach the loss through the chunk's other actions
        without = replace(batch, weight=torch.tensor([1.0, 1.0, 0.0, 0.0]))
        assert _gradient(policy, replace(batch, pad=pad)) == pytest.approx(_gradient(policy, without))
        assert _gradient(policy, replace(batch, pad=pad)) != pytest.approx(_gradient(policy, batch))


def _gradient(policy: Any, batch: Batch) -> float:
    """One number that tells two gradients apart; the noise is the same each time."""
    policy.zero_grad()
    policy.seed(1)
    policy.loss(batch)[0].backward()
    return sum(float(p.grad.double().square().sum()) for p in policy.parameters() if p.grad is not None)
