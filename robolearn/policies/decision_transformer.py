"""Decision Transformer (Chen et al., NeurIPS 2021): actions are predicted from the past and from the return that is wanted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hardware.types import RobotSpec
from robolearn.core.errors import UserError, require_at_least
from robolearn.core.types import Batch, Metrics, Obs, Past, logged
from robolearn.models.returns import Returns
from robolearn.models.trajectory_transformer import CausalTrajectory
from robolearn.models.weighted import weighted_mean
from robolearn.policies.chunk import ChunkConfig, ChunkPolicy


@dataclass(frozen=True)
class DecisionTransformerConfig(ChunkConfig):
    """The transformer over (return-to-go, observation, action)."""

    history: int = 20
    horizon: int = 8  # 1 is the paper's
    width: int = 128
    layers: int = 3
    heads: int = 1
    dropout: float = 0.1
    steps: int = 1000  # of an episode that are told apart

    def build(self, spec: RobotSpec) -> DecisionTransformerPolicy:
        return DecisionTransformerPolicy(self, spec)


class DecisionTransformerPolicy(ChunkPolicy):
    """Deterministic. `target` is the return to ask for where nobody says another: the best of the training episodes."""

    config: DecisionTransformerConfig  # pyright: ignore[reportIncompatibleVariableOverride] never reassigned
    sees_past = True

    def __init__(self, config: DecisionTransformerConfig, spec: RobotSpec):
        super().__init__(config, spec)
        require_at_least("policy.steps", config.steps, 1, "rows of an episode")
        if config.heads < 1 or config.width % config.heads:
            raise UserError(f"policy.heads: {config.heads}; expected a divisor of width = {config.width}")
        self.net = CausalTrajectory(self.row_dim, self.action_dim, config.width, config.layers, config.heads, config.dropout, config.steps)
        self.head = nn.Linear(config.width, self.horizon * self.action_dim)
        self.returns = Returns()

    @property
    def target(self) -> float:
        """The best return [reward units] of an episode that was trained on; 0 before training."""
        return float(self.returns.best) if torch.isfinite(self.returns.best) else 0.0

    def condition(self, obs: Obs) -> Float[Tensor, "B T W"]:
        """What the transformer makes of the past, at each observation of the history."""
        past = _past(obs)
        # An embedding that was never trained is noise: beyond the longest training episode time stands still.
        step = past.step.clamp(max=self.returns.longest).clamp(max=self.config.steps - 1)
        action = self._normalized(past.action.unsqueeze(2), obs).squeeze(2)
        return self.net(self.returns.normalize(past.to_go), super().condition(obs), action, step, past.real).float()

    def loss(self, batch: Batch) -> tuple[Float[Tensor, ""], Metrics]:
        """Every real step of the history answers with its chunk, too: the sequence of actions is known from the oldest step on."""
        past = _past(batch.obs)
        counts = self.counts(batch)
        weight = counts[:, :1].expand_as(past.to_go)  # of the row: its newest action is never padded
        if self.training:
            self.returns.watch(past.to_go, past.step, past.real & (weight > 0))
        taken = torch.cat([past.action[:, :-1], batch.action], dim=1)
        chunks = taken.unfold(1, self.horizon, 1).transpose(-1, -2)  # (B, T, H, A)
        errors = (self._chunks(self.condition(batch.obs)) - self._normalized(chunks, batch.obs)).square().mean(-1)
        weights = torch.cat([weight[:, :-1], counts], dim=1).unfold(1, self.horizon, 1) * past.real.unsqueeze(-1)
        loss = weighted_mean(errors, weights)
        return loss, {"loss": logged(loss)}

    def errors(self, cond: Float[Tensor, "B T W"], action: Float[Tensor, "B H D"]) -> Float[Tensor, "B H"]:
        return (self._chunks(cond[:, -1:])[:, 0] - action).square().mean(-1)

    def draw(
        self, cond: Float[Tensor, "B T W"], n: int, generator: torch.Generator, prefix: Tensor | None = None
    ) -> Float[Tensor, "B n H D"]:
        return self.hold(self._chunks(cond[:, -1:])).expand(-1, n, -1, -1)

    def _chunks(self, cond: Float[Tensor, "B T W"]) -> Float[Tensor, "B T H D"]:
        return self.head(cond).float().unflatten(-1, (self.horizon, -1))

    def _normalized(self, chunks: Float[Tensor, "B T H A"], obs: Obs) -> Float[Tensor, "B T H D"]:
        """Actions relative to the state are so to that of the step at which their chunk begins."""
        return self.action_norm.normalize(self.space.encode(chunks, obs.state))


def _past(obs: Obs) -> Past:
    if obs.past is None:
        raise ValueError("decision_transformer: obs.past is missing; it answers from what was done and earned so far")
    return obs.past
