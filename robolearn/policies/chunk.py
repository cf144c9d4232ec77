"""What every policy that answers with a chunk of actions shares: selection, normalisation, features, weights, noise."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from hardware.types import RobotSpec
from robolearn.core.errors import UserError, require_at_least
from robolearn.core.types import Batch, Metrics, Obs, Policy, logged
from robolearn.data.windows import restrict
from robolearn.models.encoders.base import CameraEncoder, EncoderConfig
from robolearn.models.language.base import LanguageConfig
from robolearn.models.normalizer import Normalizer
from robolearn.models.weighted import weighted_mean
from robolearn.policies._action_space import Actions, ActionSpace, Rotations


@dataclass(frozen=True)
class ChunkConfig:
    """What a chunk policy looks at and how far ahead it answers."""

    history: int = 2  # observations it looks at
    horizon: int = 16  # actions it predicts, the first for the newest observation
    encoder: EncoderConfig | None = None  # null: no cameras, state only
    cameras: tuple[str, ...] = ()  # empty: all of the robot's (none without an encoder)
    state: tuple[str, ...] = ()  # empty: all of the robot's; [none]: none of them, cameras only
    goal: Literal["none", "image", "state", "language"] = "none"  # what it is told to reach: a picture, a state, words
    language: LanguageConfig | None = None  # the text encoder of a goal in words
    actions: Actions = "absolute"  # inside: as stored, or position targets from the newest observed state on
    relative_to: tuple[str, ...] = ()  # delta: the states they are relative to; empty: found by name and unit
    rotations: Rotations = "as stored"  # inside; 6d: those of the action become two vectors
    units: Literal["range", "gaussian"] = "range"  # of states and actions inside: [min, max] -> [-1, 1], or mean 0 and deviation 1
    mask_pad: bool = False  # leave actions past an episode's end out of the loss, or teach to stay there (the last target again; no step)

    def build(self, spec: RobotSpec) -> ChunkPolicy:
        """Only a kind of policy knows how: UserError otherwise."""
        raise UserError(f"policy.type: {type(self).__name__} is what several share; pick a kind of policy by its type")

    def select(self, spec: RobotSpec) -> RobotSpec:
        """The part of `spec` the policy looks at. Raises UserError naming the valid choices."""
        state = () if self.state == ("none",) else self.state or None
        chosen = restrict(spec, (self.cameras or None) if self.encoder else (), state)
        if self.encoder and not chosen.cameras:
            raise UserError(f"policy.encoder: robot '{spec.name}' has no camera; leave the encoder out (null)")
        if state == () and not chosen.cameras:
            raise UserError("policy.state: none, and no encoder: the policy would see nothing")
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
        self.space = ActionSpace(self.spec, config.actions, config.rotations, config.relative_to)
        self.action_dim = self.space.dim  # numbers per action inside; spec.action.dim outside
        self.action_norm = Normalizer(self.action_dim, config.units)
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
        self.row_dim = self.spec.state_dim + features + self._build_goal(features)  # of the condition, at each time step
        self.cond_dim = self.history * self.row_dim

    def _build_goal(self, features: int) -> int:
        """What turns a goal into numbers, and how many they are. UserError where the config lacks something."""
        kind, language = self.config.goal, self.config.language
        if kind == "image" and not features:
            raise UserError("policy.goal: image; a picture needs an encoder, and policy.encoder is null")
        if kind == "state" and not self.spec.state_dim:
            raise UserError(f"policy.goal: state; robot '{self.spec.name}' shows none")
        if (kind == "language") != (language is not None):
            raise UserError(
                f"policy.language: {'given' if language else 'null'}, and policy.goal is {kind}; words need goal: language and a "
                "text encoder: --policy.language.type transformer, or hashed (shared words only)"
            )
        if language is None:
            return {"none": 0, "image": features, "state": self.spec.state_dim}[kind]
        require_at_least("policy.language.dim", language.dim, 1, "numbers, those of the text encoder; robolearn train fills it in")
        self.words = nn.Linear(language.dim, language.width)
        return language.width

    def fit_normalizers(self, state: np.ndarray, action: np.ndarray, features: np.ndarray | None = None) -> None:
        """Learn the units from all rows of a dataset: state (N, S), action (N, A), a frozen encoder's features (N, E).

        Actions relative to the state come as the chunks that begin in those rows, (N, H, A).
        """
        self.state_norm.fit(state)
        self.action_norm.fit(self.space.rows(action, state))
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
        """Everything the policy looks at, normalised: one vector for each time step, and what it is told to reach in each of them."""
        steps, goal = obs.state.shape[1], None
        parts = [self.state_norm.normalize(obs.state)]
        if self.encoder is not None:
            features = self.visual(self._seen(obs))
            parts.append(features[:, :steps])
            goal = features[:, steps:]
        if self.config.goal == "state":
            goal = self.state_norm.normalize(self._wanted(obs).state)
        elif self.config.goal == "language":
            goal = self.words(self._wanted(obs).features)
        if self.config.goal != "none":
            assert goal is not None
            parts.append(goal.expand(-1, steps, -1))
        return torch.cat(parts, dim=-1)

    def visual(self, features: Float[Tensor, "B T E"]) -> Float[Tensor, "B T E"]:
        """Image features, of observations and of goals, as the network gets them."""
        return self.feature_norm.normalize(features) if self.feature_norm is not None else features

    def _seen(self, obs: Obs) -> Tensor:
        """(B, T, E) features of the history; with a goal image (B, T + 1, E), its own behind them."""
        if self.config.goal != "image":
            parts = [self.encode(obs)]
        elif (goal := self._wanted(obs)).features is None and obs.features is None and self.encoder is not None:
            # As one history, so that one random crop serves both.
            parts = [self.encoder({name: torch.cat([obs.images[name], goal.images[name]], 1) for name in self.encoder.cameras})]
        else:
            parts = [self.encode(obs), self.encode(goal)]
        return torch.cat([part for part in parts if part is not None], 1)

    def _wanted(self, obs: Obs) -> Obs:
        if obs.goal is None:
            raise ValueError(f"{type(self).__name__}: the observation has no goal; the policy is told what to reach: {self.config.goal}")
        return obs.goal

    def loss(self, batch: Batch) -> tuple[Float[Tensor, ""], Metrics]:
        """Mean over what is neither padded (with mask_pad) nor weighted away; a row of weight 0 teaches nothing."""
        errors = self.errors(self.condition(batch.obs), self.inside(batch.action, batch.obs))
        loss = weighted_mean(errors, self.counts(batch))
        return loss, {"loss": logged(loss)}

    def hold(self, chunk: Tensor) -> Tensor:
        """A normalised answer, held at the edge of the data's own range: it is all that was seen, as diffusion's clipping has it."""
        return chunk.clamp(-1, 1) if self.config.units == "range" else chunk

    def counts(self, batch: Batch) -> Float[Tensor, "B H"]:
        """How much each action counts: nothing where it is padded (with mask_pad) or weighted away."""
        weight = torch.ones_like(batch.pad, dtype=torch.float32)
        if batch.weight is not None:
            weight = weight * batch.weight.unsqueeze(1)
        return weight * ~batch.pad if self.config.mask_pad else weight

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
        known = self.inside(prefix, obs) if prefix is not None and prefix.shape[1] else None
        self.eval()
        with torch.no_grad():
            return self.outside(self.draw(self.condition(obs), n, generator or self.generator, known), obs)

    def inside(self, action: Float[Tensor, "B H A"], obs: Obs) -> Float[Tensor, "B H D"]:
        """Chunks from the newest observation on, physical units -> as the network knows them."""
        return self.action_norm.normalize(self.space.encode(action, obs.state[:, -1]))

    def outside(self, chunks: Float[Tensor, "B n H D"], obs: Obs) -> Float[Tensor, "B n H A"]:
        """The inverse of `inside`, for n chunks each."""
        return self.space.decode(self.action_norm.unnormalize(chunks), obs.state[:, -1:].expand(-1, chunks.shape[1], -1))

    @abstractmethod
    def errors(self, cond: Float[Tensor, "B T C"], action: Float[Tensor, "B H A"]) -> Float[Tensor, "B H"]:
        """How wrong the network is about each normalised action."""

    @abstractmethod
    def draw(
        self, cond: Float[Tensor, "B T C"], n: int, generator: torch.Generator, prefix: Float[Tensor, "B D A"] | None = None
    ) -> Float[Tensor, "B n H A"]:
        """n normalised chunks per condition. prefix: None for a policy whose `prefix` is 0."""
