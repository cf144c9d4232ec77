"""What draws the actor: `q` towards what the critics like, `bc` towards what the data did, and the few terms that keep it near."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hardware.types import Source
from robolearn.agents.agent import Agent
from robolearn.agents.axes import phased
from robolearn.agents.critic import reduced
from robolearn.core.types import Batch, Metrics
from robolearn.learners.rl.density import ActionDensity
from robolearn.learners.rl.pessimism import fickleness
from robolearn.learners.rl.targets import target_q
from robolearn.models.weighted import weighted_mean


class ActorLoss:
    """Called with rows (latents without gradients) and what was done in them; phase: 0 offline, 1 online."""

    def __init__(self, agent: Agent, generator: torch.Generator, density: ActionDensity | None):
        self.agent, self.generator, self.density = agent, generator, density

    def __call__(
        self,
        z: Float[Tensor, "N L"],
        action: Float[Tensor, "N A"],
        earned: Float[Tensor, " N"],
        counts: Float[Tensor, " N"],
        batch: Batch,
        phase: float,
    ) -> tuple[Float[Tensor, ""], Metrics]:
        """earned: what became of each row, as a return. counts: how much each row does."""
        agent, config = self.agent, self.agent.config.actor
        q, bc, density = (phased(pair, phase) for pair in (config.q, config.bc, config.density))
        total, metrics = z.new_zeros(()), {}
        if q or density:
            total, metrics = self._drawn_by_critics(z, action, counts, q, density)
        if bc:
            weight, told = self.weights(z, action, earned, counts)
            errors = agent.actor.errors(told, action, self.generator)
            total = total + bc * weighted_mean(errors * weight, self.examples(counts, batch))
            metrics |= {"bc": float(errors.detach().mean()), "weight": float(weight.mean())}
        if agent.beta is not None:
            total = total - self._picked(z, counts)
        if config.planner and batch.source is not None:
            flown = counts * (batch.source[:, : counts.numel() // len(batch.source)].flatten() == Source.PLANNER)
            near = agent.actor.errors(agent.told(z), action, self.generator)
            total = total + config.planner * weighted_mean(near, flown) * (flown.sum() / counts.sum().clamp(min=1e-6))
        if config.smooth:
            total = total + config.smooth * weighted_mean(fickleness(agent, z, self.generator), counts)
        return total, metrics | {"actor": float(total.detach())}

    def _drawn_by_critics(self, z: Tensor, action: Tensor, counts: Tensor, weight: float, density: float) -> tuple[Tensor, Metrics]:
        agent, config = self.agent, self.agent.config.actor
        own, log_prob = agent.actor.learn(agent.told(z), self.generator, action)
        asked = agent.critic.some(self.generator) if config.q_subset else None
        q = reduced(agent.critic(z, own, heads=asked), config.q_reduce, agent.level)
        loss = weight * (agent.temperature.detach() * log_prob - q / self._scale(q.detach(), counts))
        if density and self.density is not None:
            loss = loss - density * self.density.elbo(z, own, self.generator)
        total = weighted_mean(loss, counts)
        if not config.fixed_temperature and config.kind in ("gaussian", "edit"):
            target = -0.5 * own.shape[-1]
            total = total - agent.log_temperature * weighted_mean(log_prob.detach() + target, counts)
        return total, {"q_own": float(q.detach().mean()), "entropy": -float(log_prob.detach().mean())}

    def _scale(self, q: Tensor, counts: Tensor) -> Tensor:
        match self.agent.config.actor.q_scale:
            case "abs":
                return weighted_mean(q.abs(), counts).clamp(min=1e-3)
            case "range":
                return self.agent.critic.spread_range
        return torch.ones_like(q[0])

    def _picked(self, z: Tensor, counts: Tensor) -> Tensor:
        """What the critics say of the family's member that was picked; only the picker learns from it."""
        agent = self.agent
        assert agent.beta is not None
        agent.actor.requires_grad_(False)
        own = agent.actor.best(agent.beta.beside(z, agent.beta(z)), self.generator)
        agent.actor.requires_grad_(True)
        return weighted_mean(reduced(agent.critic(z, own), "min"), counts)

    def examples(self, counts: Float[Tensor, " N"], batch: Batch) -> Float[Tensor, " N"]:
        """How much rows count in imitation."""
        if self.agent.config.actor.examples == "all" or batch.won is None:
            return counts
        return counts * batch.won.repeat_interleave(len(counts) // len(batch.won))

    @torch.no_grad()
    def weights(self, z: Tensor, action: Tensor, earned: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """(how much each row is imitated, what the actor is shown)."""
        agent, config = self.agent, self.agent.config.actor
        if not config.beta and agent.beta is None:
            return torch.ones_like(earned), agent.told(z)
        advantage = self._advantage(z, action, earned)
        if config.advantage_scale == "std":
            seen = (counts > 0).float()
            around = (advantage - weighted_mean(advantage, seen)).square()
            advantage = advantage / weighted_mean(around, seen).sqrt().clamp(min=1e-6)
        if agent.beta is None:
            return (config.beta * advantage).exp().clamp(max=config.weight_max), agent.told(z)
        beta = agent.beta.draw(len(z), self.generator, z.device)
        return (beta * advantage).exp().clamp(max=config.weight_max), agent.beta.beside(z, beta)

    def _advantage(self, z: Tensor, action: Tensor, earned: Tensor) -> Tensor:
        agent = self.agent
        if agent.config.actor.advantage == "policy":
            own = agent.actor.sample(agent.told(z), self.generator)
            return target_q(agent, z, action, self.generator) - target_q(agent, z, own, self.generator)
        assert agent.value is not None
        done = earned if agent.config.actor.advantage == "return" else target_q(agent, z, action, self.generator)
        return done - agent.value(z)
