"""Masked Trajectory Models (Wu et al., ICML 2023): one network completes trajectories; what is masked is what is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from hardware.types import RobotSpec
from robolearn.core.errors import UserError
from robolearn.core.types import Batch, Metrics, Obs, logged
from robolearn.models.returns import Returns
from robolearn.models.trajectory_masks import NAMES, Mask, TrajectoryMasks
from robolearn.models.trajectory_transformer import MaskedTrajectory
from robolearn.models.weighted import weighted_mean
from robolearn.policies.chunk import ChunkConfig, ChunkPolicy

Parts = dict[str, Tensor]  # kind of token -> its value at each step, (B, J, size)


@dataclass(frozen=True)
class MaskedTrajectoryConfig(ChunkConfig):
    """The masked autoencoder, and what it learns to complete."""

    history: int = 4
    horizon: int = 12
    masks: tuple[Mask, ...] = ("random", "act", "reach", "inverse", "forward")  # in training each sample draws one
    shown: tuple[float, float] = (0.7, 1.0)  # share of the tokens before its cut that a random mask shows
    returns: bool = False  # a token for the rewards still to come: acting is then told what to earn
    width: int = 128
    layers: int = 2
    decoder_layers: int = 1
    heads: int = 4
    dropout: float = 0.0

    def build(self, spec: RobotSpec) -> MaskedTrajectoryPolicy:
        return MaskedTrajectoryPolicy(self, spec)


class MaskedTrajectoryPolicy(ChunkPolicy):
    """Deterministic. A trajectory has J = history + horizon steps, and each step a token of K kinds: state, features, return, action.

    A goal (`Obs.goal`, a state or a picture) stands where the last observation will be, `horizon` rows from now. Goals further off are
    learned where the config says `goal`, so that training batches bring them.
    """

    config: MaskedTrajectoryConfig  # pyright: ignore[reportIncompatibleVariableOverride] never reassigned
    sees_past = True
    sees_future = True

    def __init__(self, config: MaskedTrajectoryConfig, spec: RobotSpec):
        super().__init__(config, spec)
        _check(config)
        self.prefix = self.horizon - 1 if "prefix" in config.masks else 0
        features = 0 if self.encoder is None else self.encoder.out_dim
        dims = {"state": self.spec.state_dim, "features": features, "return": int(config.returns), "action": self.action_dim}
        self.dims = {kind: dim for kind, dim in dims.items() if dim}
        self.masks = TrajectoryMasks(list(self.dims), self.history, self.horizon)
        sizes, steps = list(self.dims.values()), self.masks.steps
        self.net = MaskedTrajectory(sizes, steps, config.width, config.layers, config.decoder_layers, config.heads, config.dropout)
        self.returns = Returns()

    @property
    def target(self) -> float:
        """The return [reward units] to ask for where nobody says another: the best of the training episodes; 0 before training."""
        return float(self.returns.best) if torch.isfinite(self.returns.best) else 0.0

    def loss(self, batch: Batch) -> tuple[Float[Tensor, ""], Metrics]:
        """The mean error of each kind's hidden tokens, summed. With mask_pad, padded actions are no tokens."""
        parts, exists = self._trajectory(batch)
        drawn, shown = self.masks.draw(self.config.masks, len(exists), self.config.shown, self.generator)
        if batch.obs.goal is not None:
            reaching = torch.tensor([mask == "reach" for mask in self.config.masks], device=drawn.device)
            parts, exists = self._towards(batch.obs.goal, parts, exists, reaching[drawn])
        completed = self.net(list(parts.values()), shown & exists, exists)
        weight = self.counts(batch)[:, :1]  # of the row: its newest action is never padded
        hidden = (exists & ~shown) * weight.unsqueeze(-1)
        losses = {}
        for k, (kind, part) in enumerate(parts.items()):
            error = (completed[k] - part).square().mean(-1)
            losses[kind] = weighted_mean(error, hidden[..., k])
        loss = torch.stack(list(losses.values())).sum()
        return loss, {"loss": logged(loss)} | {f"loss_{kind}": logged(value) for kind, value in losses.items()}

    def condition(self, obs: Obs) -> Float[Tensor, "B J C"]:
        """The trajectory when an action is asked for: its tokens, which of them are known, and which there are."""
        if obs.past is None:
            raise ValueError("masked_trajectory: obs.past is missing; it answers from what was done so far")
        values = self._observed(obs) | self._acted(obs.past.action, obs.past.to_go, obs)
        parts = {kind: F.pad(values[kind], (0, 0, 0, self.horizon)) for kind in self.dims}
        exists = F.pad(obs.past.real, (0, self.horizon), value=True).unsqueeze(-1) & self.masks["possible"]
        if obs.goal is not None:
            parts, exists = self._towards(obs.goal, parts, exists, torch.ones_like(obs.past.real[:, 0]))
        known = exists & self.masks["act" if obs.goal is None else "reach"]
        return torch.cat([*parts.values(), known.float(), exists.float()], dim=-1)

    def errors(self, cond: Float[Tensor, "B J C"], action: Float[Tensor, "B H A"]) -> Float[Tensor, "B H"]:
        return (self._answer(cond) - action).square().mean(-1)

    def draw(
        self, cond: Float[Tensor, "B J C"], n: int, generator: torch.Generator, prefix: Tensor | None = None
    ) -> Float[Tensor, "B n H A"]:
        return self._answer(cond, prefix).unsqueeze(1).expand(-1, n, -1, -1)

    def _answer(self, cond: Float[Tensor, "B J C"], prefix: Tensor | None = None) -> Float[Tensor, "B H A"]:
        """The actions from now on, completed. A prefix is a few of them that are known."""
        *values, known, exists = cond.split([*self.dims.values(), len(self.dims), len(self.dims)], dim=-1)
        told = 0 if prefix is None else prefix.shape[1]
        if prefix is not None:
            ahead = slice(self.masks.now, self.masks.now + told)
            values[-1], known = values[-1].clone(), known.clone()
            values[-1][:, ahead], known[:, ahead, -1] = prefix, 1.0
        actions = self.hold(self.net(values, known.bool(), exists.bool())[-1][:, self.masks.now : -1])
        return actions if prefix is None else torch.cat([prefix, actions[:, told:]], dim=1)

    def _observed(self, obs: Obs) -> Parts:
        parts = {"state": self.state_norm.normalize(obs.state)} if obs.state.shape[-1] else {}
        if self.encoder is None or not (obs.images or obs.features is not None):
            return parts
        features = self.encode(obs)
        assert features is not None
        return parts | {"features": self.visual(features)}

    def _acted(self, action: Float[Tensor, "B J A"], to_go: Float[Tensor, "B J"], obs: Obs) -> Parts:
        return {"return": self.returns.normalize(to_go).unsqueeze(-1), "action": self.inside(action, obs)}

    def _trajectory(self, batch: Batch) -> tuple[Parts, Bool[Tensor, "B J K"]]:
        """Every token of a training window, and which of them there are."""
        past, future = batch.obs.past, batch.future
        if past is None or future is None or batch.future_mask is None or batch.reward is None:
            raise ValueError("masked_trajectory: the batch lacks past or future; it learns from whole trajectories")
        if self.training:
            self.returns.watch(past.to_go, past.step, past.real & (self.counts(batch)[:, :1] > 0))
        to_go = torch.cat([past.to_go, past.to_go[:, -1:] - batch.reward.cumsum(1)], dim=1)
        action = torch.cat([past.action[:, :-1], batch.action, batch.action[:, -1:]], dim=1)
        before, after = self._observed(batch.obs), self._observed(future)
        values = {kind: torch.cat([before[kind], after[kind]], dim=1) for kind in before} | self._acted(action, to_go, batch.obs)
        seen = torch.cat([past.real, batch.future_mask], dim=1)
        acted = F.pad(torch.cat([past.real[:, :-1], ~batch.pad | (not self.config.mask_pad)], dim=1), (0, 1))
        exists = torch.stack([acted if kind == "action" else seen for kind in self.dims], dim=-1)
        return {kind: values[kind] for kind in self.dims}, exists

    def _towards(self, goal: Obs, parts: Parts, exists: Bool[Tensor, "B J K"], told: Bool[Tensor, " B"]) -> tuple[Parts, Tensor]:
        """For the samples that are `told`, the goal in place of the last observation; what the goal does not show is no token there."""
        wanted = self._observed(goal)
        parts = dict(parts)
        for kind, value in wanted.items():
            last = torch.where(told[:, None, None], value, parts[kind][:, -1:])
            parts[kind] = torch.cat([parts[kind][:, :-1], last], dim=1)
        shows = torch.tensor([kind in wanted for kind in self.dims], device=told.device)
        told = told[:, None, None]  # and not torch.where, which onnxruntime lacks for booleans
        last = (told & shows) | (~told & exists[:, -1:])
        return parts, torch.cat([exists[:, :-1], last], dim=1)


def _check(config: MaskedTrajectoryConfig) -> None:
    """Raises UserError."""
    if config.encoder is not None and not config.encoder.frozen:
        raise UserError(
            f"policy.encoder.tune: {config.encoder.tune}; masked_trajectory learns from features of what came after, which need a frozen "
            "encoder: none"
        )
    if config.goal == "language":
        raise UserError("policy.goal: language; masked_trajectory reaches what can be observed: none, image, state")
    if not config.masks or (config.goal != "none" and "reach" not in config.masks):
        raise UserError(f"policy.masks: {list(config.masks)}; expected at least one of {', '.join(NAMES)}, and reach where there is a goal")
    if not 0 < config.shown[0] <= config.shown[1] <= 1:
        raise UserError(f"policy.shown: {config.shown} of the tokens; expected two shares, 0 < first <= second <= 1")
    if config.heads < 1 or config.width % config.heads:
        raise UserError(f"policy.heads: {config.heads}; expected a divisor of width = {config.width}")
