"""A latent world model whose doubt can be read: several dynamics heads and several critics on one bounded latent.

Body after TD-MPC2 (Hansen et al. 2024): SimNorm latent, LayerNorm and Mish, two-hot rewards and critics. Value learning
after FOWM (Feng et al. 2023, section 3): expectile V, in-sample targets, no action that the data does not hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hardware.types import RobotSpec
from robolearn.core.types import Obs
from robolearn.models.ema import follow, slow_copy
from robolearn.models.ensemble import EnsembleMlp
from robolearn.models.normalizer import Normalizer
from robolearn.models.twohot import TwoHot
from robolearn.worldmodels.imagined import Imagined


@dataclass(frozen=True)
class LatentConfig:
    """Sizes of the world model. The defaults plan in tens of milliseconds on one CPU core."""

    latent: int = 64
    """Latent units; a multiple of `group`."""
    group: int = 8
    """Units per SimNorm group (softmax inside each)."""
    width: int = 128
    """Hidden units of every head."""
    critics: int = 5
    """Q heads; their spread is the value doubt."""
    dynamics: int = 3
    """Dynamics heads; their spread is the model doubt."""
    target_rate: float = 0.05
    """EMA step of the target critics per update; five times TD-MPC2's, for a tenth of its updates."""


class LatentWorldModel(nn.Module):
    """encode -> imagine; the parts are public because the learner trains them one by one."""

    value_range: Tensor
    spread_median: Tensor

    def __init__(self, config: LatentConfig, spec: RobotSpec, feature_dim: int, history: int):
        super().__init__()
        self.config, self.history = config, history
        latent, width, action = config.latent, config.width, spec.action.dim
        self.feature_norm = Normalizer(feature_dim, "gaussian") if feature_dim else None  # None: no cameras, state only
        self.state_norm, self.action_norm = Normalizer(spec.state_dim), Normalizer(action)
        self.encoder = EnsembleMlp(1, history * (feature_dim + spec.state_dim), 2 * width, latent)
        self.twohot = TwoHot()
        self.dynamics = EnsembleMlp(config.dynamics, latent + action, width, latent)
        self.reward = EnsembleMlp(1, latent + action, width, self.twohot.count, zero_last=True)
        self.ends = EnsembleMlp(1, latent + action, width, 1, zero_last=True)
        self.critics = EnsembleMlp(config.critics, latent + action, width, self.twohot.count, zero_last=True)
        self.value = EnsembleMlp(1, latent, width, 1, zero_last=True)
        self.target_critics = slow_copy(self.critics)
        # What makes the planner's penalty dimensionless: the range of values, and how far heads differ on held-out data.
        self.register_buffer("value_range", torch.ones(()))
        self.register_buffer("spread_median", torch.ones(()))

    def simnorm(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.config.group)).softmax(-1).flatten(-2)

    def encode(self, obs: Obs) -> Float[Tensor, "B L"]:
        """The newest `history` observations, as frozen features and proprioception, to one latent."""
        return self.encode_sequence(obs)[:, -1]

    def encode_sequence(self, obs: Obs) -> Float[Tensor, "B C L"]:
        """Every window of `history` consecutive observations to its latent, oldest first: C = T - history + 1."""
        x = self.state_norm.normalize(obs.state)
        if self.feature_norm is not None:
            if obs.features is None:
                raise ValueError("LatentWorldModel: obs.features is missing; encode the images with the policy's encoder first")
            x = torch.cat([self.feature_norm.normalize(obs.features), x], -1)
        windows = x.unfold(1, self.history, 1).transpose(-1, -2).flatten(2)  # (B, C, history * inputs)
        return self.simnorm(self.encoder.all(windows.flatten(0, 1))[0]).unflatten(0, windows.shape[:2])

    def step(self, z: Float[Tensor, "K N L"], action: Float[Tensor, "K N A"]) -> Float[Tensor, "K N L"]:
        """One step, each head on its own rows. `action` is normalised."""
        return self.simnorm(self.dynamics(torch.cat([z, action], -1)))

    def imagine(self, z: Float[Tensor, "1 L"], actions: Float[Tensor, "N H A"]) -> Imagined:
        """Roll every head through every sequence of normalised actions, from one latent."""
        heads, (count, horizon, _) = self.config.dynamics, actions.shape
        z_k = z.expand(heads, count, -1)
        alive = z.new_ones(heads, count)
        rewards, alives, q_stds, spreads = [], [], [], []
        for h in range(horizon):
            a_k = actions[:, h].expand(heads, -1, -1)
            za = torch.cat([z_k, a_k], -1)
            flat = za.flatten(0, 1)
            rewards.append(self.twohot.decode(self.reward.all(flat)[0]).unflatten(0, (heads, count)))
            alives.append(alive)
            q_stds.append(self.twohot.decode(self.critics.all(za.mean(0))).std(0))
            alive = alive * (1 - self.ends.all(flat)[0, :, 0].sigmoid().unflatten(0, (heads, count)))
            z_k = self.simnorm(self.dynamics(za))
            spreads.append(z_k.var(0).mean(-1))
        value = alive * self.value.all(z_k.flatten(0, 1))[0, :, 0].unflatten(0, (heads, count))
        return Imagined(torch.stack(rewards, -1), torch.stack(alives, -1), value, torch.stack(q_stds, -1), torch.stack(spreads, -1))

    def update_target(self) -> None:
        follow(self.target_critics, self.critics, self.config.target_rate)

    @torch.no_grad()
    def min_target(self, z: Float[Tensor, "N L"], action: Float[Tensor, "N A"], generator: torch.Generator) -> Float[Tensor, " N"]:
        """Minimum over two target critics drawn at random (Chen et al. 2021, REDQ)."""
        pick = torch.randperm(self.config.critics, generator=generator)[:2]
        q = self.twohot.decode(self.target_critics.all(torch.cat([z, action], -1)))
        return q[pick.to(z.device)].min(0).values


def bernoulli_loss(logit: Tensor, happened: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logit, happened, reduction="none")
