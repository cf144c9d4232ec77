"""A planner is a policy that holds a world model: deployment does not know whether anyone is planning.

Model-predictive path integral control (Williams et al. 2015) as in TD-MPC2, with three changes. Candidates start from the
imitation policy's own chunks, and noise is released around them only as online data grows (constrained planning). Elites are
resampled by their weights, not averaged: halfway between an open and a closed gripper lies no plan. The score carries
`caution`: the policy's own plan is flown unless another is better beyond doubt.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hardware.types import RobotSpec
from robolearn.core.errors import UserError
from robolearn.core.types import Batch, Metrics, Obs, Policy
from robolearn.planning.caution import Caution, score
from robolearn.policies.diffusion import DiffusionConfig
from robolearn.worldmodels.latent import LatentConfig, LatentWorldModel


@dataclass(frozen=True)
class MppiConfig:
    """Search settings. All of them are plain numbers: a plan takes tens of milliseconds on one CPU core."""

    horizon: int = 8
    """Decisions looked ahead."""
    proposals: int = 24
    """Chunks drawn from the imitation policy."""
    samples: int = 72
    """Noisy copies of elites per iteration."""
    iterations: int = 2
    elites: int = 12
    temperature: float = 0.5
    """Of the elites' weights, in standard deviations of their score."""
    std_min: float = 0.03
    """Of the noise at first, in units of the normalised action [-1, 1]."""
    std_max: float = 0.05
    """Of the noise once fully released. Small: at 0.16 a model of a few thousand rows planned worse than its own proposals."""
    discount: float = 0.95
    caution: Caution = Caution()


@dataclass(frozen=True)
class PlannerConfig:
    """An imitation policy, a world model and how to search. `build` makes one checkpointable policy of the three."""

    prior: DiffusionConfig = DiffusionConfig()
    model: LatentConfig = LatentConfig()
    search: MppiConfig = MppiConfig()

    def build(self, spec: RobotSpec) -> Planner:
        return Planner(self, spec)


class Planner(Policy):
    """act() imagines, scores, and draws `horizon` actions among all plans that beat the policy's own, which is flown where none does.

    It draws in evaluation as well, as FOWM does: a planner that always takes its maximum repeats itself for ever where its
    model is wrong, and never leaves the place.
    """

    release: Tensor

    def __init__(self, config: PlannerConfig, spec: RobotSpec):
        super().__init__()
        self.config = config
        if config.prior.goal != "none":
            raise UserError(f"policy.goal: {config.prior.goal}; a planner plans towards rewards, and its policy is told no goal: none")
        self.prior = config.prior.build(spec)
        self.spec, self.history, self.horizon = self.prior.spec, self.prior.history, config.search.horizon
        if self.horizon > self.prior.horizon:
            raise ValueError(f"search.horizon: {self.horizon} decisions; the prior proposes chunks of {self.prior.horizon}")
        features = self.prior.encoder.out_dim if self.prior.encoder is not None else 0
        self.model = LatentWorldModel(config.model, self.spec, features, self.history)
        self.register_buffer("release", torch.zeros(()))  # 0: search only around the prior; 1: free
        self.notes: dict[str, float] = {}
        self.generator = torch.Generator().manual_seed(0)

    def seed(self, seed: int) -> None:
        """Fix every draw of this planner and its prior from here on."""
        self.generator.manual_seed(seed)
        self.prior.seed(seed + 1)

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        return self.prior.loss(batch)

    @torch.no_grad()
    def act(self, obs: Obs) -> Float[Tensor, "B H A"]:
        """One plan per observation, in physical units. `notes` then holds what the planner thought of the last one."""
        features = self.prior.encode(obs)
        rows = [slice(i, i + 1) for i in range(len(obs.state))]
        plans = [self._plan(Obs({}, obs.state[row], None if features is None else features[row])) for row in rows]
        return self.model.action_norm.unnormalize(torch.stack(plans))

    def _plan(self, obs: Obs) -> Float[Tensor, "H A"]:
        search = self.config.search
        z = self.model.encode(obs)
        proposals = self.prior.sample(obs, search.proposals)[0, :, : self.horizon]
        proposals = self.model.action_norm.normalize(proposals).clamp(-1, 1)
        std = search.std_min + float(self.release) * (search.std_max - search.std_min)
        candidates, scored = proposals, self._score(z, proposals)
        for _ in range(search.iterations):
            top = scored.total.topk(min(search.elites, len(candidates))).indices
            parents = torch.multinomial(self._weights(scored.total[top]).cpu(), search.samples, replacement=True, generator=self.generator)
            noise = torch.randn(search.samples, *proposals.shape[1:], generator=self.generator).to(proposals)
            sampled = (candidates[top][parents.to(top.device)] + std * noise).clamp(-1, 1)
            candidates = torch.cat([proposals, candidates[top], sampled])
            scored = self._score(z, candidates)
        chosen = self._choose(scored.total)
        self.notes = {
            "uncertainty": float(scored.model_doubt[chosen]) / self.horizon,
            "critic_doubt": float(scored.critic_doubt[chosen]) / self.horizon,
            "gain": float(scored.total[chosen]),
            "own_plan": float(chosen == 0),
        }
        return candidates[chosen]

    def _choose(self, total: Float[Tensor, " N"]) -> int:
        """One of those that beat row 0, the policy's own plan; that one where none does."""
        better = (total > 0).nonzero()[:, 0]
        if len(better) == 0:
            return 0
        return int(better[torch.multinomial(self._weights(total[better]).cpu(), 1, generator=self.generator)])

    def _weights(self, total: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        spread = total.std(correction=0).clamp(min=1e-6)
        return ((total - total.max()) / spread / self.config.search.temperature).softmax(0)

    def _score(self, z: Tensor, candidates: Float[Tensor, "N H A"]):
        imagined = self.model.imagine(z, candidates)
        return score(imagined, self.config.search.discount, self.model.value_range, self.model.spread_median, self.config.search.caution)
