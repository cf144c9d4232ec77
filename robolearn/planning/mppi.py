"""A planner is a policy that holds a world model: deployment does not know whether anyone is planning.

Model-predictive path integral control (Williams et al. 2015) in the form of TD-MPC2, with two changes. Candidates start from
the imitation policy's own chunks, and the Gaussian is released from them only as online data grows (constrained planning).
The score carries `caution`: the policy's own plan is flown unless another is better beyond doubt.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hardware.types import RobotSpec
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
    """Gaussian sequences per iteration."""
    iterations: int = 2
    elites: int = 12
    temperature: float = 0.5
    """Of the elites' weights, in standard deviations of their score."""
    std_min: float = 0.03
    """Of the Gaussian, in units of the normalised action [-1, 1]."""
    std_max: float = 0.5
    """Of a fully released Gaussian; a fresh planner has only the proposals' own spread."""
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
    """act() imagines, scores and returns the best `horizon` actions. `explore` draws among all that beat the policy's own plan."""

    release: Tensor
    explore: bool = False

    def __init__(self, config: PlannerConfig, spec: RobotSpec):
        super().__init__()
        self.config = config
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
        prior_mean, prior_std = proposals.mean(0), proposals.std(0).clamp(min=search.std_min)
        mean, std = prior_mean, torch.lerp(prior_std, prior_std.clamp(min=search.std_max), self.release)
        candidates, scored = proposals, self._score(z, proposals)
        for _ in range(search.iterations):
            noise = torch.randn(search.samples, *mean.shape, generator=self.generator).to(mean)
            candidates = torch.cat([proposals, mean[None], (mean + std * noise).clamp(-1, 1)])
            scored = self._score(z, candidates)
            top = scored.total.topk(min(search.elites, len(candidates))).indices
            weight = self._weights(scored.total[top])[:, None, None]
            mean = (weight * candidates[top]).sum(0)
            std = (weight * (candidates[top] - mean).square()).sum(0).sqrt().clamp(search.std_min, search.std_max)
        chosen = self._choose(scored.total)
        self.notes = {
            "uncertainty": float(scored.model_doubt[chosen]) / self.horizon,
            "critic_doubt": float(scored.critic_doubt[chosen]) / self.horizon,
            "gain": float(scored.total[chosen]),
            "own_plan": float(chosen == 0),
        }
        return candidates[chosen]

    def _choose(self, total: Float[Tensor, " N"]) -> int:
        """The best; when exploring, one of those that beat row 0, the policy's own plan, which is flown where none does."""
        better = (total > 0).nonzero()[:, 0]
        if not self.explore or len(better) == 0:
            return int(total.argmax())
        return int(better[torch.multinomial(self._weights(total[better]).cpu(), 1, generator=self.generator)])

    def _weights(self, total: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        spread = total.std(correction=0).clamp(min=1e-6)
        return ((total - total.max()) / spread / self.config.search.temperature).softmax(0)

    def _score(self, z: Tensor, candidates: Float[Tensor, "N H A"]):
        imagined = self.model.imagine(z, candidates)
        return score(imagined, self.config.search.discount, self.model.value_range, self.model.spread_median, self.config.search.caution)
