"""What every policy and every encoder promises, as tests to inherit: subclass, give `config`, and pytest does the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardware.types import ArraySpec, RobotSpec
from robolearn.core.checkpoint import load_policy, save_checkpoint
from robolearn.core.errors import UserError
from robolearn.core.types import Batch, Obs, Past
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
    feature_dim = 0  # of the frozen encoder, where a policy learns from the features of what came after
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
        policy.fit_normalizers(data.obs.state[:, -1].numpy(), data.action.numpy(), features)
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
        later = np.random.default_rng([seed, 1])  # a stream of its own: what other policies see stays as it is
        return Batch(
            Obs(images, torch.from_numpy(state[..., keep]), goal=self._goal(rows, len(keep), seed), past=self._past(state, later)),
            torch.from_numpy(action),
            pad,
            reward=torch.from_numpy(later.uniform(0, 1, pad.shape).astype(np.float32)),
            terminal=torch.zeros_like(pad),
            future=self._future(rows, len(keep), later),
            future_mask=~pad,
        )

    def _goal(self, rows: int, state_dim: int, seed: int) -> Obs | None:
        """As Windows gives it to a policy that is told what to reach."""
        rng, nothing = np.random.default_rng([seed, 2]), torch.zeros(rows, 1, 0)
        if self.config.goal == "image":
            sizes = self.config.select(self.spec).cameras
            return Obs({k: torch.from_numpy(rng.integers(0, 256, (rows, 1, 3, *v), dtype=np.uint8)) for k, v in sizes.items()}, nothing)
        if self.config.goal == "state":
            return Obs({}, torch.from_numpy(rng.uniform(-1, 1, (rows, 1, state_dim)).astype(np.float32)))
        if self.config.goal == "language":
            return Obs({}, nothing, torch.from_numpy(rng.normal(size=(rows, 1, self.config.language.dim)).astype(np.float32)))
        return None

    def _past(self, state: np.ndarray, rng: np.random.Generator) -> Past:
        """Of episodes that have just begun and of others."""
        rows, history = state.shape[:2]
        action = np.clip(-0.1 * state, [-0.1, -0.1, 0], [0.1, 0.1, 1]).astype(np.float32)
        step = np.arange(history) + rng.integers(1 - history, 10, (rows, 1))
        action[step < 0], action[:, -1] = 0, 0
        to_go = rng.uniform(0, 5, (rows, history)).astype(np.float32)
        return Past(*map(torch.from_numpy, (action, to_go, np.maximum(step, 0), step >= 0)))

    def _future(self, rows: int, state_dim: int, rng: np.random.Generator) -> Obs:
        shape = (rows, self.config.horizon)
        state = torch.from_numpy(rng.uniform(-1, 1, (*shape, state_dim)).astype(np.float32))
        if not self.feature_dim:
            return Obs({}, state)
        return Obs({}, state, torch.from_numpy(rng.standard_normal((*shape, self.feature_dim)).astype(np.float32)))

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


class EncoderContract:
    """Set `config` to an encoder's config; override `cameras` for other sizes, `can_freeze` where a head must be learned."""

    config: Any
    cameras: dict[str, tuple[int, int]] = {"front": (32, 32), "wrist": (24, 28)}
    can_freeze = True
    changes: dict[str, Any] = {"crop": 0.875, "shift": 1, "color": 0.2, "overlay": 0.3, "view": 0.05}

    def build(self, config: Any = None, seed: int = 0) -> Any:
        torch.manual_seed(seed)
        encoder = (config or self.config).build(self.cameras)
        encoder.generator = torch.Generator().manual_seed(0)
        return encoder

    def images(self, rows: int, steps: int = 2) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng(0)
        return {
            name: torch.from_numpy(rng.integers(0, 256, (rows, steps, 3, *size), dtype=np.uint8)) for name, size in self.cameras.items()
        }

    def test_features_of_every_camera_stand_side_by_side(self):
        encoder, images = self.build().eval(), self.images(3)
        with torch.no_grad():
            features = encoder(images)
            parts = [encoder.encode(name, encoder.pixels(name, images[name]).flatten(0, 1)).float() for name in self.cameras]
        assert features.shape == (3, 2, encoder.out_dim) and features.dtype == torch.float32
        assert torch.isfinite(features).all() and not torch.allclose(features[0], features[1], atol=1e-5)
        assert torch.allclose(torch.cat(parts, -1), features.flatten(0, 1), atol=1e-4)
        tokens = features.unflatten(-1, (encoder.tokens, -1))
        assert tokens.shape[-1] == encoder.out_dim // encoder.tokens
        assert encoder.tokens >= len(self.cameras) or len({part.shape[-1] for part in parts}) > 1

    def test_in_eval_mode_nothing_is_random(self):
        encoder, images = self.build(replace(self.config, **self.changes)).eval(), self.images(3)
        streams = torch.random.get_rng_state(), encoder.generator.get_state()
        with torch.no_grad():
            first = encoder(images)
            assert torch.equal(encoder(images), first)
            alone = encoder({name: image[1:2] for name, image in images.items()})
        assert torch.allclose(alone, first[1:2], rtol=1e-3, atol=1e-4), "a row's features do not depend on its batch"
        assert torch.equal(torch.random.get_rng_state(), streams[0]) and torch.equal(encoder.generator.get_state(), streams[1])

    def test_the_state_dict_is_all_there_is_to_know(self):
        encoder, other, images = self.build().eval(), self.build(seed=1).eval(), self.images(2)
        with torch.no_grad():
            assert not torch.allclose(other(images), encoder(images))
            other.load_state_dict(encoder.state_dict())
            assert torch.equal(other(images), encoder(images))

    @pytest.mark.parametrize("wrong", ["float", "size", "channels last"])
    def test_other_images_are_refused(self, wrong: str):
        encoder, images, name = self.build(), self.images(2), next(iter(self.cameras))
        odd = {"float": images[name] / 255, "size": images[name][..., 1:], "channels last": images[name].movedim(2, -1)}[wrong]
        with pytest.raises(ValueError, match=f"camera '{name}' is "):
            encoder.check(name, odd)
        with pytest.raises((ValueError, TypeError)):  # the types of a test's own calls are checked before that
            encoder(images | {name: odd})
        with pytest.raises(ValueError, match=f"no images of camera '{name}'"):
            encoder({k: v for k, v in images.items() if k != name})

    def test_training_changes_images_alike_over_time_and_each_sample_in_its_own_way(self):
        encoder, name = self.build(replace(self.config, **self.changes)), next(iter(self.cameras))
        same = self.images(1, 1)[name].expand(8, 3, -1, -1, -1)
        stream = torch.random.get_rng_state()
        changed = encoder.train().pixels(name, same)
        assert torch.equal(torch.random.get_rng_state(), stream)
        assert changed.shape == (8, 3, 3, *encoder.crop_size(name)) and changed.min() >= 0 and changed.max() <= 1
        assert torch.equal(changed[:, 0], changed[:, 2])
        assert all(not torch.allclose(changed[i], changed[j], atol=0.02) for i in range(8) for j in range(i))
        encoder.generator.manual_seed(0)
        assert torch.equal(encoder.pixels(name, same), changed)
        plain = encoder.eval().pixels(name, same)
        assert torch.equal(plain[0], plain[7]) and set((plain * 255).round().unique().tolist()) <= set(same.unique().tolist())

    def test_what_learns_gets_a_gradient(self):
        encoder = self.build().train()
        learning = {name for name, p in encoder.named_parameters() if p.requires_grad}
        features = encoder(self.images(4))
        assert features.requires_grad == bool(learning) == (not self.config.frozen)
        if learning:
            features.square().mean().backward()
        assert {name for name, p in encoder.named_parameters() if p.grad is not None} == learning

    def test_frozen_it_has_no_gradient_and_stays_as_it_is(self):
        config = replace(self.config, tune="none")
        if not self.can_freeze:
            with pytest.raises(UserError, match="must be learned, and encoder.tune is none"):
                self.build(config)
            return
        encoder = self.build(config).train()
        before = {name: value.clone() for name, value in encoder.state_dict().items()}
        assert not encoder(self.images(4)).requires_grad and not any(p.requires_grad for p in encoder.parameters())
        assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())

    def test_bfloat16_sees_nearly_the_same(self):
        encoder, images = self.build().eval(), self.images(3)
        with torch.no_grad():
            exact = encoder(images)
            with torch.autocast("cpu", torch.bfloat16):
                rough = encoder(images)
        assert rough.dtype == torch.float32
        assert (rough - exact).norm() < 0.05 * exact.norm()
