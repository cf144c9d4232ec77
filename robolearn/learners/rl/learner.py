"""The learner of the one agent: a batch in, an update of everything out. What differs between presets lies in the agent's axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robolearn.agents.agent import Agent
from robolearn.agents.axes import phased
from robolearn.agents.imagination import Imagination
from robolearn.core.types import Batch, Metrics
from robolearn.data.replay import Replay
from robolearn.learners.rl.actor_loss import ActorLoss
from robolearn.learners.rl.bonus import Novelty, SuccessClassifier, disagreement, state_entropy
from robolearn.learners.rl.chunk_imitation import ChunkImitation
from robolearn.learners.rl.critic_loss import Walked, critic_loss
from robolearn.learners.rl.density import ActionDensity
from robolearn.learners.rl.dynamics_ratio import DynamicsRatio
from robolearn.learners.rl.sequences import Sequences, sequences
from robolearn.learners.rl.targets import returns

TRACKED = 0.01  # step of running statistics


class AgentLearner:
    """`update` teaches critic, V and world model, and every `update.actor_every`-th time the actor. phase: 0 offline, 1 online.

    generator: where all of its noise comes from.
    """

    def __init__(self, agent: Agent, generator: torch.Generator):
        self.agent, self.generator, self.config = agent, generator, agent.config
        config, action = agent.config, agent.spec.action.dim
        self.updates, self.online_updates, self.actor_updates = 0, 0, 0
        chunk = agent.policy.horizon if agent.policy else 1
        self.rows = max(config.model.horizon if config.model else 1, config.critic.steps, chunk)  # of a sequence
        self.density = ActionDensity(agent.latent, action, config.actor.width) if any(config.actor.density) else None
        self.novelty = Novelty(agent.latent) if config.reward.bonus == "novelty" else None
        self.classifier = SuccessClassifier(agent.latent, action) if config.reward.source == "classifier" else None
        self.ratio = DynamicsRatio(agent.latent, action) if config.replay.ratio else None
        for part in self._extras.values():
            part.to(agent.device)
        self.actor_loss = ActorLoss(agent, generator, self.density)
        self.new_optimizers()

    def new_optimizers(self) -> None:
        config, agent = self.config, self.agent
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        critic: list[dict[str, Any]] = [{"params": list(agent.critic.online.parameters())}]
        critic += [{"params": list(agent.value.parameters())}] if agent.value is not None else []
        if agent.model is not None:
            encoder = list(agent.model.encoder.parameters()) + ([] if agent.model.norm is None else list(agent.model.norm.parameters()))
            rest = [*agent.model.dynamics.parameters(), *agent.model.outcome.parameters()]
            critic += [{"params": encoder, "lr": config.critic.lr * agent.model.config.encoder_rate}, {"params": rest}]
        self.optimizers["critic"] = torch.optim.Adam(critic, lr=config.critic.lr, fused=True)
        if agent.policy is None:
            actor = [*agent.actor.parameters(), *(agent.beta.parameters() if agent.beta else ()), agent.log_temperature]
            self.optimizers["actor"] = torch.optim.Adam([p for p in actor if p.requires_grad], lr=config.actor.lr, fused=True)
        self.imitation = ChunkImitation(agent, self.actor_loss) if agent.policy is not None else None
        extra = [p for part in self._extras.values() for p in part.parameters() if p.requires_grad]
        if extra:
            self.optimizers["extra"] = torch.optim.Adam(extra, lr=config.critic.lr, fused=True)

    @property
    def _extras(self) -> dict[str, nn.Module]:
        parts = {"density": self.density, "novelty": self.novelty, "classifier": self.classifier, "ratio": self.ratio}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def phase(self) -> float:
        """How far Phased fields are on their way to their online value."""
        if not bool(self.agent.online):
            return 0.0
        return min(1.0, (self.online_updates + 1) / max(1, self.config.update.ramp))

    def update(self, batch: Batch, actor: bool = True) -> Metrics:
        """One step. actor: False teaches the critic alone. Raises FloatingPointError for a loss that is not finite."""
        agent = self.agent
        known = sequences(batch, agent, self.rows, self.config.reward)
        extra = self._learn_extras(known, batch)
        known = self._rewarded(known)
        weight = self._likely(known, batch)
        with agent.precision:
            loss, metrics, walked = critic_loss(agent, known, batch, self.generator, self.phase, weight)
        self._step("critic", loss, [agent.critic.online, agent.value, agent.model])
        agent.critic.follow()
        if agent.model is not None:
            agent.model.follow()
        if bool((seen := walked.counts > 0).any()):
            agent.critic.track(walked.q[seen], max(TRACKED, 1 / (self.updates + 1)))
        self.updates += 1
        self.online_updates += int(agent.online)
        if actor and self.updates % self.config.update.actor_every == 0:
            metrics |= self.update_actor(walked, batch)
        return metrics | extra

    def update_actor(self, walked: Walked, batch: Batch) -> Metrics:
        agent = self.agent
        if self.imitation is not None:
            self.actor_updates += 1
            return self.imitation.update(walked, batch) if phased(self.config.actor.bc, self.phase) else {}
        agent.critic.requires_grad_(False)  # its own gradients are not asked for
        try:
            with agent.precision:
                loss, metrics = self.actor_loss(walked.z, walked.action, walked.earned, walked.counts, batch, self.phase)
            self._step("actor", loss, [agent.actor, agent.beta])
        finally:
            agent.critic.online.requires_grad_(True)
        self.actor_updates += 1
        return metrics | {"temperature": float(agent.temperature.detach())}

    @torch.no_grad()
    def calibrate(self, held_out: Replay) -> float:
        """Set what the model knows of its own errors from held-out rows; returns the median of how far its heads differ."""
        agent = self.agent
        assert agent.model is not None
        planner = self.config.planner
        ahead = planner.search.horizon if planner else 1
        steps = max(agent.horizon, ahead, self.config.critic.steps)
        known = sequences(held_out.read(np.arange(len(held_out)), steps), agent, steps, self.config.reward)
        z = agent.encode(known.inputs)
        agent.model.spread_median.copy_(agent.model.spread(z[:, 0], known.action[:, 0]).median().clamp(min=1e-12))
        off = (agent.model.ahead(z[:, 0], known.action[:, : agent.horizon]) - z[:, 1 : agent.horizon + 1]).square().mean(-1)
        for t in range(agent.horizon):
            if bool((there := known.real[:, t] & known.followed[:, t]).any()):
                agent.model.error_median[t] = off[there, t].median().clamp(min=1e-12)
        seen = known.grounded[:, :ahead].all(1)
        if planner is not None and agent.value is not None and bool(seen.any()):
            earned = returns(known, agent.value(z[:, 1:]), self.config.discount, self.config.critic.trace)[seen, 0]
            plans = known.action[seen, :ahead]
            wrong = Imagination(agent, planner.caution, planner.terminal).returns(z[seen, 0], plans) - earned
            agent.model.return_error.copy_(wrong.square().mean().sqrt() / agent.critic.spread_range)
        return float(agent.model.spread_median)

    def _step(self, name: str, loss: Tensor, parts: list[nn.Module | None]) -> None:
        if not loss.isfinite():
            raise FloatingPointError(f"{name}: the loss is {float(loss.detach())} at update {self.updates}; lower its learning rate")
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for part in parts if part is not None for p in part.parameters()], self.config.update.clip)
        optimizer.step()

    def _rewarded(self, known: Sequences) -> Sequences:
        """With the reward of the classifier, and the bonus, where the config asks for them."""
        config, agent = self.config.reward, self.agent
        bonus = config.bonus if bool(agent.online) else "none"
        if self.classifier is None and bonus == "none":
            return known
        with torch.no_grad():
            z = agent.encode(known.inputs)
            here, after, action = z[:, :-1].flatten(0, 1), z[:, 1:].flatten(0, 1), known.action.flatten(0, 1)
            reward, shape = known.reward, known.reward.shape
            if self.classifier is not None:
                reward = config.scale * self.classifier(here, action).view(shape) + config.shift
            if bonus == "entropy":
                reward = reward + config.bonus_weight * state_entropy(after).view(shape)
            elif bonus == "ensemble":
                reward = reward + config.bonus_weight * disagreement(agent, here, action).view(shape)
            elif bonus == "novelty" and self.novelty is not None:
                reward = reward + config.bonus_weight * self.novelty(after).view(shape)
        return Sequences(known.inputs, known.action, reward, known.terminal, known.real, known.followed)

    def _learn_extras(self, known: Sequences, batch: Batch) -> Metrics:
        agent, losses = self.agent, dict[str, Tensor]()
        if not self._extras:
            return {}
        with torch.no_grad():
            z = agent.encode(known.inputs)
        here, after, action, real = z[:, 0], z[:, 1], known.action[:, 0], known.real[:, 0] & known.followed[:, 0]
        if self.density is not None and not bool(agent.online):
            losses["density"] = -self.density.elbo(here, action, self.generator).mean()
        if self.novelty is not None:
            losses["novelty"] = self.novelty.errors(after).mean()
        if self.classifier is not None:
            losses["classifier"] = self.classifier.loss(here, action, known.terminal[:, 0].float())
        if self.ratio is not None and batch.fresh is not None and bool(batch.fresh.any()) and bool(real.any()):
            losses["ratio"] = self.ratio.loss(here[real], action[real], after[real], batch.fresh[real])
        if losses:
            self._step("extra", torch.stack(list(losses.values())).sum(), list(self._extras.values()))
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _likely(self, known: Sequences, batch: Batch) -> Tensor | None:
        """Of old rows, how likely the present dynamics would have made them; 1 for fresh ones."""
        if self.ratio is None or batch.fresh is None or not bool(self.agent.online):
            return None
        with torch.no_grad():
            z = self.agent.encode(known.inputs[:, :2])
        return torch.where(batch.fresh, 1.0, self.ratio(z[:, 0], known.action[:, 0], z[:, 1]))

    @property
    def _generators(self) -> list[torch.Generator]:
        policy = self.agent.policy
        return [self.generator, self.agent.generator] + ([policy.generator] if policy is not None else [])

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data: an update after load_state_dict equals the one that would have followed."""
        return {
            "agent": self.agent.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "extras": {name: part.state_dict() for name, part in self._extras.items()},
            "imitation": None if self.imitation is None else self.imitation.state_dict(),
            "counts": [self.updates, self.online_updates, self.actor_updates],
            "generators": [generator.get_state() for generator in self._generators],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.agent.load_state_dict(state["agent"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        for name, part in self._extras.items():
            part.load_state_dict(state["extras"][name])
        if self.imitation is not None:
            self.imitation.load_state_dict(state["imitation"])
        self.updates, self.online_updates, self.actor_updates = state["counts"]
        for generator, where in zip(self._generators, state["generators"], strict=True):
            generator.set_state(where)
