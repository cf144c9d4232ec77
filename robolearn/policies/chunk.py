"""What every policy that answers with a chunk of actions shares: selection, normalisation, features, weights, noise."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hardware.types import RobotSpec
from robolearn.core.errors import UserError, require_at_least
from robolearn.core.types import Batch, Metrics, Obs, Policy
from robolearn.data.windows import restrict
from robolearn.models.encoders.base import CameraEncoder, EncoderConfig
from robolearn.models.normalizer import Normalizer


@dataclass(frozen=True)
class ChunkConfig:
    """What a chunk policy looks at and how far ahead it answers."""

    history: int = 2  # observations it looks at
    horizon: int = 16  # actions it predicts, the first for the newest observation
    encoder: EncoderConfig | None = None  # null: no cameras, state only
    cameras: tuple[str, ...] = ()  # empty: all of the robot's (none without an encoder)
    state: tuple[str, ...] = ()  # empty: all of the robot's
    goal: Literal["none", "image", "state", "language"] = "none"  # what it is told to reach: the episode's last picture or state, words
    units: Literal["range", "gaussian"] = "range"  # of states and actions inside: [min, max] -> [-1, 1], or mean 0 and deviation 1
    mask_pad: bool = False  # leave actions past an episode's end out of the loss, or teach the repeated last one (position targets)

    def build(self, spec: RobotSpec) -> ChunkPolicy:
        """Only a kind of policy knows how."""
        raise NotImplementedError(f"{type(self).__name__}: pick a kind of policy by its type")

    def select(self, spec: RobotSpec) -> RobotSpec:
        """The part of `spec` the policy looks at. Raises UserError naming the valid choices."""
        chosen = restrict(spec, (self.cameras or None) if self.encoder else (), self.state or None)
        if self.encoder and not chosen.cameras:
            raise UserError(f"policy.encoder: robot '{spec.name}' has no camera; leave the encoder out (null)")
        return chosen


class ChunkPolicy(Policy):
    """Conditions a network on normalised state and image features; the network is the subclass's business.

    `generator` is where all its noise comes from; `seed` restarts it. What a kind of policy needs beside observations and actions it
    says by `sees_past` and `sees_future`.
    """

    config: ChunkConfig
    learns_by: Literal["gradient", "memory"] = "gradient"  # memory: train shows it every window once, in order, by `memorize`
    sees_past = False  # Obs.past
    sees_future = False  # Batch.reward, terminal, future, future_mask
    prefix = 0  # actions it can be told it will take anyway, see `sample`

    def __init__(self, config: ChunkConfig, spec: RobotSpec):
        super().__init__()
        self.config, self.spec = config, config.select(spec)
        require_at_least("policy.history", config.history, 1, "observations")
        require_at_least("policy.horizon", config.horizon, 1, "actions")
        self.history, self.horizon = config.history, config.horizon
        self.generator = torch.Generator().manual_seed(0)
        self.state_norm = Normalizer(self.spec.state_dim, config.units)
        self.action_norm = Normalizer(self.spec.action.dim, config.units)
        self.encoder: CameraEncoder | None = None
        self.feature_norm: Normalizer | None = None
        features = 0
        if config.encoder:
            self.encoder = config.encoder.build(self.spec.cameras)
            self.encoder.generator = self.generator
            features = self.encoder.out_dim
            if config.encoder.frozen:
                self.encoder.requires_grad_(False)
                self.feature_norm = Normalizer(features, "gaussian")
        self.row_dim = self.spec.state_dim + features  # of the condition, at each time step
        self.cond_dim = self.history * self.row_dim

    def fit_normalizers(self, state: np.ndarray, action: np.ndarray, features: np.ndarray | None = None) -> None:
        """Learn the units from all rows of a dataset: state (N, S), action (N, A), a frozen encoder's features (N, E)."""
        self.state_norm.fit(state)
        self.action_norm.fit(action)
        if self.feature_norm is not None:
            if features is None:
                raise ValueError("policy: features are missing; a policy with a frozen encoder normalises its features")
            self.feature_norm.fit(features)

    def prepare(self) -> None:
        """Called once before training begins, and again where it goes on: for what training needs and the robot does not, as a teacher."""

    def memorize(self, batch: Batch) -> None:
        """Keep these windows to answer from. Only for a policy that learns by memory."""
        raise NotImplementedError(f"{type(self).__name__} learns by gradient")

    def seed(self, seed: int) -> None:
        self.generator.manual_seed(seed)

    def train(self, mode: bool = True) -> ChunkPolicy:
        super().train(mode)
        if self.encoder is not None and self.feature_norm is not None:
            self.encoder.eval()  # frozen: what was cached is what the robot will see
        return self

    def encode(self, obs: Obs) -> Float[Tensor, "B T E"] | None:
        """Image features: the cached ones where `obs` brings them, else the encoder's. None for a policy without one."""
        if self.encoder is None or obs.features is not None:
            return obs.features
        return self.encoder(obs.images)

    def condition(self, obs: Obs) -> Float[Tensor, "B T C"]:
        """Everything the policy looks at, normalised: one vector for each time step."""
        parts = [self.state_norm.normalize(obs.state)]
        if self.encoder is not None:
            features = self.encode(obs)
            assert features is not None
            parts.append(self.feature_norm.normalize(features) if self.feature_norm is not None else features)
        return torch.cat(parts, dim=-1)

    def loss(self, batch: Batch) -> tuple[Float[Tensor, ""], Metrics]:
        """Mean over what is neither padded (with mask_pad) nor weighted away; a row of weight 0 teaches nothing."""
        errors = self.errors(self.condition(batch.obs), self.action_norm.normalize(batch.action))
        weight = torch.ones_like(errors) if batch.weight is None else batch.weight.unsqueeze(1).expand_as(errors)
        if self.config.mask_pad:
            weight = weight * ~batch.pad
        loss = (errors * weight).sum() / weight.sum().clamp(min=1e-6)
        return loss, {"loss": float(loss.detach())}

    def act(self, obs: Obs) -> Float[Tensor, "B H A"]:
        """One chunk per observation, physical units. Switches to eval mode; no gradient."""
        return self.sample(obs, 1)[:, 0]

    def sample(
        self, obs: Obs, n: int, generator: torch.Generator | None = None, prefix: Float[Tensor, "B D A"] | None = None
    ) -> Float[Tensor, "B n H A"]:
        """n chunks per observation, physical units; a planner's proposals. Noise from `generator`, else the policy's own.

        prefix: the chunk's first D actions, which will be taken whatever the answer (they are on their way while the policy thinks);
        the rest goes on from them. At most `self.prefix`; ValueError where that is exceeded.
        """
        if prefix is not None and prefix.shape[1] > self.prefix:
            raise ValueError(f"prefix: {prefix.shape[1]} actions; {type(self).__name__} was trained for at most {self.prefix}")
        known = self.action_norm.normalize(prefix) if prefix is not None and prefix.shape[1] else None
        self.eval()
        with torch.no_grad():
            return self.action_norm.unnormalize(self.draw(self.condition(obs), n, generator or self.generator, known))

    @abstractmethod
    def errors(self, cond: Float[Tensor, "B T C"], action: Float[Tensor, "B H A"]) -> Float[Tensor, "B H"]:
        """How wrong the network is about each normalised action."""

    @abstractmethod
    def draw(
        self, cond: Float[Tensor, "B T C"], n: int, generator: torch.Generator, prefix: Float[Tensor, "B D A"] | None = None
    ) -> Float[Tensor, "B n H A"]:
        """n normalised chunks per condition. prefix: None for a policy whose `prefix` is 0."""
