"""What the agent expects of plans: its world model walked by every head, its critics asked on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from robolearn.agents.critic import reduced
from robolearn.planning.caution import Caution, Score, score
from robolearn.worldmodels.imagined import Imagined

if TYPE_CHECKING:
    from robolearn.agents.agent import Agent


class Imagination:
    """`proposals` are the policy's own plans, `judge` says what plans are worth with all doubt taken off."""

    def __init__(self, agent: Agent, caution: Caution, terminal: str = "v"):
        assert agent.model is not None
        self.agent, self.model, self.caution, self.terminal = agent, agent.model, caution, terminal
        self.doubts = caution.dynamics > 0 and agent.model.config.heads > 1

    def proposals(self, z: Float[Tensor, "1 L"], count: int, horizon: int) -> Float[Tensor, "P H A"]:
        """The policy rolled in the model: row 0 without noise, the others as it explores. Rows take the heads by turns."""
        agent, heads = self.agent, self.model.config.heads
        z_rows, rows, plan = z.expand(count, -1), torch.arange(count, device=z.device), []
        for _ in range(horizon):
            told = agent.told(z_rows)
            action = agent.actor.sample(told, agent.generator)
            action[:1] = agent.actor.best(told[:1], agent.generator)
            plan.append(action)
            z_heads = self.model.step(z_rows.expand(heads, -1, -1), action.expand(heads, -1, -1))
            z_rows = z_heads[rows % heads, rows]
        return torch.stack(plan, 1)

    def judge(self, z: Float[Tensor, "1 L"], plans: Float[Tensor, "N H A"]) -> Score:
        agent, model = self.agent, self.model
        return score(self.imagine(z, plans), agent.config.discount, agent.critic.spread_range, model.spread_median, self.caution)

    def imagine(self, z: Float[Tensor, "1 L"], plans: Float[Tensor, "N H A"]) -> Imagined:
        """Every head through every plan, from one latent. What the caution does not ask for is not computed."""
        model, (count, horizon, _) = self.model, plans.shape
        heads = model.config.heads
        z_heads = z.expand(heads, count, -1)
        alive = z.new_ones(heads, count)
        rewards, alives, q_stds, spreads = [], [], [], []
        for h in range(horizon):
            action = plans[:, h].expand(heads, -1, -1)
            za = torch.cat([z_heads, action], -1)
            reward, ends = model.outcomes(za)
            rewards.append(reward)
            alives.append(alive)
            if self.caution.critics and not (self.caution.ends_only and h > 0):
                q_stds.append(self._critic_spread(z_heads.mean(0), plans[:, h]))
            else:
                q_stds.append(z.new_zeros(count))
            alive = alive * (1 - ends)
            z_heads = model.squash(model.dynamics(za))
            spreads.append((z_heads - z_heads.mean(0)).square().mean((0, 2)) if self.doubts else z.new_zeros(count))
        value, doubt = self._end_value(z_heads)
        q_stds.append(doubt)
        return Imagined(torch.stack(rewards, -1), torch.stack(alives, -1), alive * value, torch.stack(q_stds, -1), torch.stack(spreads, -1))

    def _end_value(self, z: Float[Tensor, "K N L"]) -> tuple[Float[Tensor, "K N"], Float[Tensor, " N"]]:
        """What the last latents are worth, and the critics' spread there where it is asked for."""
        agent, none = self.agent, z.new_zeros(z.shape[1])
        if self.terminal == "v":
            assert agent.value is not None
            return agent.value(z), none
        flat = z.flatten(0, 1)
        action = agent.actor.sample(agent.told(flat), agent.generator)
        asked = agent.critic.some(agent.generator)
        q = agent.critic(flat, action, heads=None if self.caution.critics else asked)
        some = q if asked is None or not self.caution.critics else q[asked]
        worth = reduced(some, agent.config.actor.q_reduce, agent.level).unflatten(0, z.shape[:2])
        spread = q.std(0, correction=0).unflatten(0, z.shape[:2]).mean(0)
        return worth, spread if self.caution.critics else none

    def _critic_spread(self, z: Float[Tensor, "N L"], action: Float[Tensor, "N A"]) -> Float[Tensor, " N"]:
        return self.agent.critic(z, action).std(0, correction=0)
