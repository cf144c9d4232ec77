"""What is added to the reward so that the agent looks around; online only."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from robolearn.agents.agent import Agent
from robolearn.models.ensemble import EnsembleMlp


def state_entropy(z: Float[Tensor, "N L"], k: int = 5) -> Float[Tensor, " N"]:
    """log(1 + distance to the k-th nearest of the batch), over its mean: a particle estimate of the entropy (Zhang et al. 2023, SERA)."""
    distance = torch.cdist(z, z).kthvalue(min(k + 1, len(z))).values
    return (distance / distance.mean().clamp(min=1e-6)).log1p()


def disagreement(agent: Agent, z: Float[Tensor, "N L"], action: Float[Tensor, "N A"]) -> Float[Tensor, " N"]:
    """The critics' spread over their range."""
    return agent.critic(z, action).std(0, correction=0) / agent.critic.spread_range


class Novelty(nn.Module):
    """What a network fails to predict of another, random one (Burda et al. 2019, RND), over its running mean."""

    mean: Tensor

    def __init__(self, latent: int, width: int = 64, outputs: int = 32):
        super().__init__()
        # Without LayerNorm, which would show both of them a state's direction only, and hide how far away it is.
        self.goal = EnsembleMlp(1, latent, width, outputs, layer_norm=False).requires_grad_(False)
        self.guess = EnsembleMlp(1, latent, width, outputs, layer_norm=False)
        self.register_buffer("mean", torch.ones(()))

    def errors(self, z: Float[Tensor, "N L"]) -> Float[Tensor, " N"]:
        return (self.guess.all(z)[0] - self.goal.all(z)[0]).square().mean(-1)

    @torch.no_grad()
    def forward(self, z: Float[Tensor, "N L"]) -> Float[Tensor, " N"]:
        errors = self.errors(z)
        self.mean.lerp_(errors.mean().clamp(min=1e-9), 0.01)
        return errors / self.mean


class SuccessClassifier(nn.Module):
    """The probability that an action ends in success, taught with rows that did and rows that did not."""

    def __init__(self, latent: int, action: int, width: int = 128):
        super().__init__()
        self.net = EnsembleMlp(1, latent + action, width, 1, zero_last=True)

    def loss(self, z: Float[Tensor, "N L"], action: Float[Tensor, "N A"], success: Float[Tensor, " N"]) -> Float[Tensor, ""]:
        """Both kinds weigh alike, however rare successes are."""
        share = success.mean().clamp(0.01, 0.99)
        weight = torch.where(success > 0.5, 0.5 / share, 0.5 / (1 - share))
        return F.binary_cross_entropy_with_logits(self._logit(z, action), success, weight=weight)

    @torch.no_grad()
    def forward(self, z: Float[Tensor, "N L"], action: Float[Tensor, "N A"]) -> Float[Tensor, " N"]:
        return self._logit(z, action).sigmoid()

    def _logit(self, z: Tensor, action: Tensor) -> Tensor:
        return self.net.all(torch.cat([z, action], -1))[0, :, 0]
