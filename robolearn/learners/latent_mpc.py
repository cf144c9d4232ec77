"""Learns a latent world model, and a policy drawn to what turned out well: old and new data alike.

Losses after FOWM (Feng et al. 2023, section 3; expectile V, in-sample targets, advantage-weighted policy), on the body
of TD-MPC2. One difference: the policy is a diffusion policy, weighted through its denoising loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from robolearn.core.types import Batch, Metrics, Obs
from robolearn.learners.imitation import Imitation
from robolearn.models.expectile_value import expectile_loss
from robolearn.models.returns import lambda_returns
from robolearn.models.weighted import weighted_mean
from robolearn.worldmodels.latent import LatentWorldModel, bernoulli_loss


@dataclass(frozen=True)
class LatentMpcConfig:
    """Settings of the world model's and the policy's updates."""

    horizon: int = 5
    """Steps the model is unrolled in training."""
    discount: float = 0.95
    """Per decision."""
    rho: float = 0.5
    """Weight of step t is rho^t."""
    expectile: float = 0.8
    """Of V over the in-sample critics: above 0.5 leans to what the better actions reach."""
    reward_shift: float = -1.0
    """Added to every stored reward, so that each step costs and ending in success is best. The only place rewards change."""
    consistency_weight: float = 20.0
    reward_weight: float = 0.5
    value_weight: float = 0.1
    lr: float = 3e-4
    clip: float = 10.0
    """Largest gradient norm."""
    trace: float = 0.95
    """lambda: 0 trusts V after one step, 1 only real rewards as far as a batch shows them."""
    advantage_beta: float = 0.5
    """Sharpness of the policy's weights exp(beta * A / std(A)); 0 is plain imitation."""
    weight_max: float = 10.0
    """Cap on one row's weight."""


class LatentMpc:
    """`update_model` and `update_policy` take a Batch with future; both return what to log."""

    def __init__(self, model: LatentWorldModel, imitation: Imitation, config: LatentMpcConfig, generator: torch.Generator):
        self.model, self.imitation, self.config, self.generator = model, imitation, config, generator
        heads = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(heads, lr=config.lr)
        self.updates = 0

    def update_model(self, batch: Batch) -> Metrics:
        loss, metrics = self.model_loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        metrics["model_grad_norm"] = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip))
        self.optimizer.step()
        self.model.update_target()
        self.updates += 1
        return metrics

    def model_loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Weighted sum over the unrolled steps; rows past an episode's end count nowhere."""
        model, config, steps = self.model, self.config, self.config.horizon
        _, terminal, real, followed = _outcomes(batch)
        action = model.action_norm.normalize(batch.action)
        latents = model.encode_sequence(_sequence(batch, model.history, steps))  # (B, 1 + steps, L)
        goal = latents[:, 1:].detach()
        q_target, value, grounded = (x[:, :steps] for x in self.returns(batch))
        reward = self._reward(batch)

        heads = model.config.dynamics
        turn = torch.arange(len(action), device=action.device) % heads  # each row walks with one head
        z_heads, walked, apart = latents[:, 0].expand(heads, -1, -1), [], []
        for t in range(steps):
            walked.append(z_heads[turn, torch.arange(len(turn), device=turn.device)])
            z_heads = model.step(z_heads, action[:, t].expand(heads, -1, -1))
            apart.append((z_heads - goal[:, t]).square().mean((0, 2)) * model.config.latent / model.config.group)
        z, a = torch.stack(walked, 1).flatten(0, 1), action[:, :steps].flatten(0, 1)  # (B * steps, ...): all heads in one go
        za, shape = torch.cat([z, a], -1), (len(action), steps)
        error = model.min_target(z, a, self.generator) - model.value.all(z)[0, :, 0]
        q_loss = model.twohot.loss(model.critics.all(za), q_target.flatten().expand(model.config.critics, -1)).mean(0)
        ends_loss = bernoulli_loss(model.ends.all(za)[0, :, 0], terminal[:, :steps].flatten().float())
        real, followed, grounded = real[:, :steps], followed[:, :steps], grounded[:, :steps]
        terms = {  # weight, loss of each row and step, where it counts
            "consistency": (config.consistency_weight, torch.stack(apart, 1), real & followed),
            "reward": (config.reward_weight, model.twohot.loss(model.reward.all(za)[0], reward[:, :steps].flatten()), real),
            "ends": (config.reward_weight, ends_loss, real),
            "q": (config.value_weight, q_loss, grounded),
            "v": (config.value_weight, expectile_loss(error, config.expectile), real),
        }
        rho = config.rho ** torch.arange(steps, device=action.device)
        means = {name: weighted_mean(values.view(shape), rho * mask) for name, (_, values, mask) in terms.items()}
        loss = sum((terms[name][0] * mean for name, mean in means.items()), latents.new_zeros(()))
        self._track_value_range(value[:, 0])
        return loss, {f"model_{name}": float(mean.detach()) for name, mean in means.items()}

    @torch.no_grad()
    def returns(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Lambda-returns of the rows as they were, V of each row, and where a return is known; (B, H) each.

        In-sample: no action is ever replaced by one that nobody took. With a few hundred rows to learn from, real
        rewards carry much further than a value that has to creep back one step per update (FOWM uses one step).
        """
        config, model = self.config, self.model
        reward, (_, terminal, real, followed) = self._reward(batch), _outcomes(batch)
        steps = reward.shape[1]
        latents = model.encode_sequence(_sequence(batch, model.history, steps))
        value = model.value.all(latents.flatten(0, 1))[0, :, 0].unflatten(0, latents.shape[:2])
        grounded = real & (followed | terminal)  # after a cut-off row nothing was seen, so its return is not known
        return lambda_returns(reward, terminal, grounded, value[:, 1:], config.discount, config.trace), value[:, :-1], grounded

    def advantage(self, batch: Batch) -> Tensor:
        """(B,) what followed, as a return, minus V; 0 where nothing is known to have followed."""
        returns, value, grounded = self.returns(batch)
        return torch.where(grounded[:, 0], returns[:, 0] - value[:, 0], torch.zeros_like(returns[:, 0]))

    def update_policy(self, batch: Batch) -> Metrics:
        """One advantage-weighted imitation step (AWR, Peng et al. 2019, through the denoising loss)."""
        advantage = self.advantage(batch)
        weight = (self.config.advantage_beta * advantage / advantage.std().clamp(min=1e-6)).clamp(max=10).exp()
        weight = weight.clamp(max=self.config.weight_max)
        metrics = self.imitation.update(replace(batch, weight=weight / weight.mean()))
        return {f"policy_{name}": value for name, value in metrics.items()} | {"advantage_std": float(advantage.std())}

    @torch.no_grad()
    def calibrate(self, batch: Batch) -> float:
        """Set the model's `spread_median` from held-out rows: how far the heads differ where they should agree."""
        z = self.model.encode_sequence(_sequence(batch, self.model.history, 1))[:, 0]
        action = self.model.action_norm.normalize(batch.action[:, 0])
        heads = self.model.config.dynamics
        spread = self.model.step(z.expand(heads, -1, -1), action.expand(heads, -1, -1)).var(0).mean(-1)
        self.model.spread_median.copy_(spread.median().clamp(min=1e-12))
        return float(self.model.spread_median)

    def _reward(self, batch: Batch) -> Tensor:
        return _outcomes(batch)[0] + self.config.reward_shift

    @torch.no_grad()
    def _track_value_range(self, value: Tensor) -> None:
        low, high = torch.quantile(value, torch.tensor([0.05, 0.95], device=value.device))
        rate = max(0.01, 1 / (self.updates + 1))
        self.model.value_range.lerp_((high - low).clamp(min=1e-3), rate)

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "imitation": self.imitation.state_dict(),
            "updates": self.updates,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.imitation.load_state_dict(state["imitation"])
        self.updates = state["updates"]
        self.generator.set_state(state["generator"])


def _outcomes(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(reward, terminal, the row is real, the next observation exists), each (B, H)."""
    if batch.reward is None or batch.terminal is None or batch.future_mask is None:
        raise ValueError("LatentMpc: batch has no reward, terminal and future; make the windows with future=True")
    return batch.reward, batch.terminal, ~batch.pad, batch.future_mask


def _sequence(batch: Batch, history: int, steps: int) -> Obs:
    """The newest `history` observations and the `steps` that followed, as one sequence."""
    now, then = batch.obs, batch.future
    if then is None:
        raise ValueError("LatentMpc: batch has no future; make the windows with future=True")
    join = lambda a, b: torch.cat([a[:, -history:], b[:, :steps]], 1)  # noqa: E731
    has_features = now.features is not None and then.features is not None  # a robot without cameras has none
    return Obs({}, join(now.state, then.state), join(now.features, then.features) if has_features else None)
