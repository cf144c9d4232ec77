"""Hierarchical behaviour cloning (GTI, Mandlekar et al., RSS 2020): a subgoal is proposed, a low level reaches it. With `values` it is
IRIS (Mandlekar et al., ICRA 2020): of many proposals the one of most value is taken."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hardware.types import RobotSpec
from robolearn.core.errors import UserError, require_at_least
from robolearn.core.types import Batch, Metrics, Obs, logged
from robolearn.models.cvae import Cvae
from robolearn.models.expectile_value import ExpectileValue
from robolearn.models.mlp import mlp
from robolearn.models.weighted import weighted_mean
from robolearn.policies.chunk import ChunkConfig, ChunkPolicy


@dataclass(frozen=True)
class HbcConfig(ChunkConfig):
    """The two levels, and the value that chooses between subgoals."""

    horizon: int = 10  # rows from an observation to its subgoal, and as many actions to get there
    hidden: tuple[int, ...] = (512, 512)  # of every network
    latent: int = 16
    modes: int = 10  # of the prior over subgoals
    kl_weight: float = 5e-4
    values: bool = False  # choose the best of `proposals` subgoals; needs rewards in the data
    proposals: int = 100
    discount: float = 0.99  # per row
    expectile: float = 0.9  # a state's value among the returns seen from it: 0.5 their mean, towards 1 the best
    target_rate: float = 0.005  # of the value that is bootstrapped from, per update

    def build(self, spec: RobotSpec) -> HbcPolicy:
        return HbcPolicy(self, spec)


class HbcPolicy(ChunkPolicy):
    """A subgoal is an observation, state and image features, normalised. Each chunk has its own."""

    config: HbcConfig  # pyright: ignore[reportIncompatibleVariableOverride] never reassigned
    sees_future = True

    def __init__(self, config: HbcConfig, spec: RobotSpec):
        super().__init__(config, spec)
        _check(config)
        subgoal = self.spec.state_dim + (0 if self.encoder is None else self.encoder.out_dim)
        self.high = Cvae(subgoal, self.cond_dim, config.latent, config.hidden, config.modes)
        self.low = mlp([self.cond_dim + subgoal, *config.hidden, self.horizon * self.action_dim])
        if config.values:
            self.value = ExpectileValue(subgoal, config.hidden, config.discount, config.expectile, config.target_rate)

    def loss(self, batch: Batch) -> tuple[Float[Tensor, ""], Metrics]:
        """Both levels learn from where people got to, not from proposals; the value from what they earned on the way."""
        if batch.future is None or batch.future_mask is None:
            raise ValueError("hbc: the batch lacks the future; it learns from what was reached")
        cond, counts = self.condition(batch.obs).flatten(1), self.counts(batch)
        rows = torch.cat([self._observed(batch.obs)[:, -1:], self._observed(batch.future)], dim=1)
        last = batch.future_mask.sum(1).view(-1, 1, 1)  # where the episode ends before, its last observation
        reached = rows.gather(1, last.expand(-1, 1, rows.shape[-1])).squeeze(1)
        noise = torch.randn(len(cond), self.config.latent, generator=self.generator).to(cond)
        decoded, divergence = self.high(reached, cond, noise)
        low = (self._chunks(cond, reached) - self.inside(batch.action, batch.obs)).square().mean(-1)
        losses = {
            "low": weighted_mean(low, counts),
            "high": weighted_mean((decoded - reached).square().mean(-1) + self.config.kl_weight * divergence, counts[:, 0]),
        }
        if self.config.values:
            assert batch.reward is not None and batch.terminal is not None
            if self.training:
                self.value.follow(batch.reward)
            losses["value"] = weighted_mean(self.value.errors(rows, batch.reward, batch.terminal, batch.future_mask), counts[:, 0])
        loss = torch.stack(list(losses.values())).sum()
        return loss, {"loss": logged(loss)} | {f"loss_{name}": logged(value) for name, value in losses.items()}

    def errors(self, cond: Float[Tensor, "B T C"], action: Float[Tensor, "B H D"]) -> Float[Tensor, "B H"]:
        return (self.draw(cond, 1, self.generator)[:, 0] - action).square().mean(-1)

    def draw(
        self, cond: Float[Tensor, "B T C"], n: int, generator: torch.Generator, prefix: Tensor | None = None
    ) -> Float[Tensor, "B n H D"]:
        cond = cond.flatten(1)
        return self.hold(self._chunks(cond.unsqueeze(1).expand(-1, n, -1), self.propose(cond, n, generator)))

    def propose(self, cond: Float[Tensor, "B C"], n: int, generator: torch.Generator) -> Float[Tensor, "B n G"]:
        """n subgoals for each condition; with `values` each is the best of `proposals`."""
        if not self.config.values:
            return self.high.sample(cond, n, generator)
        several = self.high.sample(cond, n * self.config.proposals, generator).unflatten(1, (n, -1))
        best = self.value(several).argmax(2)[..., None, None]
        return several.gather(2, best.expand(-1, -1, -1, several.shape[-1])).squeeze(2)

    def _chunks(self, cond: Float[Tensor, "*B C"], subgoal: Float[Tensor, "*B G"]) -> Float[Tensor, "*B H D"]:
        return self.low(torch.cat([cond, subgoal], dim=-1)).float().unflatten(-1, (self.horizon, -1))

    def _observed(self, obs: Obs) -> Float[Tensor, "B T G"]:
        state = self.state_norm.normalize(obs.state)
        features = self.encode(obs)
        return state if features is None else torch.cat([state, self.visual(features)], dim=-1)


def _check(config: HbcConfig) -> None:
    """Raises UserError."""
    if config.encoder is not None and not config.encoder.frozen:
        raise UserError(
            f"policy.encoder.tune: {config.encoder.tune}; hbc learns from features of what came after, which need a frozen encoder: none"
        )
    for name in ("latent", "modes", "proposals"):
        require_at_least(f"policy.{name}", getattr(config, name), 1, name)
    for name in ("discount", "expectile"):
        if not 0 < getattr(config, name) < 1:
            raise UserError(f"policy.{name}: {getattr(config, name)}; expected more than 0 and less than 1")
