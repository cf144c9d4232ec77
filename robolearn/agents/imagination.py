"""What the agent expects of plans: its world model walked by every head, its critics asked on the way where that can change anything."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from robolearn.agents.critic import reduced
from robolearn.planning.caution import Caution, Score, expected, score
from robolearn.worldmodels.imagined import Imagined

if TYPE_CHECKING:
    from robolearn.agents.agent import Agent


@dataclass(frozen=True)
class Path:
    """Where plans led: the heads' mean latents, from the first on, and the action of the policy in the last."""

    z: Float[Tensor, "N T L"]  # T = H + 1
    last_action: Float[Tensor, "N A"] | None  # None where the last latent is worth V


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

    def judge(self, z: Float[Tensor, "1 L"], plans: Float[Tensor, "N H A"], elites: int | None = None) -> Score:
        """elites: only so many of the best need their exact score; the others may get -inf instead.

        The critics' spread can only lower a score. So plans are asked for theirs from the best on, until nothing that was not asked
        could still be among the best: the same elites for a fraction of the critics' work.
        """
        imagined, path = self._walk(z, plans)
        plain = self._score(imagined)
        if not self.caution.critics:
            return plain
        q_std = torch.full_like(imagined.q_std, torch.inf)
        for rows in self._worth_asking(plain.total, len(plans) if elites is None else elites, q_std):
            q_std[rows] = self._critics_spread(path, plans, rows)
        return self._score(replace(imagined, q_std=q_std))

    @torch.no_grad()
    def returns(self, z: Float[Tensor, "N L"], plans: Float[Tensor, "N H A"]) -> Float[Tensor, " N"]:
        """What the heads expect on average of plans, each from its own latent."""
        return expected(self._walk(z, plans)[0], self.agent.config.discount).mean(0)

    def imagine(self, z: Float[Tensor, "1 L"], plans: Float[Tensor, "N H A"]) -> Imagined:
        """Every head through every plan, from one latent, and the critics' spread all along."""
        imagined, path = self._walk(z, plans)
        rows = torch.arange(len(plans), device=z.device)
        return replace(imagined, q_std=self._critics_spread(path, plans, rows)) if self.caution.critics else imagined

    def _score(self, imagined: Imagined) -> Score:
        agent = self.agent
        model = self.model
        return score(imagined, agent.config.discount, agent.critic.spread_range, model.spread_median, self.caution, model.return_error)

    def _worth_asking(self, bound: Float[Tensor, " N"], elites: int, q_std: Float[Tensor, "N T"]):
        """Blocks of rows, the most promising first, row 0 among them; q_std is filled in between."""
        order = bound.argsort(descending=True)
        order = torch.cat([order.new_zeros(1), order[order != 0]])
        weight, size, asked = self._penalty_per_spread(q_std), max(elites, 1), 0
        while asked < len(order):
            if asked:
                known = bound[order[:asked]] - q_std[order[:asked]] @ weight
                if asked >= elites and bound[order[asked]] <= known.topk(elites).values[-1]:
                    return
            yield order[asked : asked + size]
            asked += size

    def _penalty_per_spread(self, q_std: Float[Tensor, "N T"]) -> Float[Tensor, " T"]:
        gamma = self.agent.config.discount ** torch.arange(q_std.shape[1], device=q_std.device)
        scale = self.agent.critic.spread_range if self.caution.units == "range" else 1.0
        return self.caution.critics * gamma / scale

    def _walk(self, z: Float[Tensor, "M L"], plans: Float[Tensor, "N H A"]) -> tuple[Imagined, Path]:
        model, (count, horizon, _) = self.model, plans.shape
        heads = model.config.heads
        z_heads = z.expand(heads, count, -1)
        alive = z.new_ones(heads, count)
        rewards, alives, spreads, means = [], [], [], [z_heads[0]]
        for h in range(horizon):
            za = torch.cat([z_heads, plans[:, h].expand(heads, -1, -1)], -1)
            reward, ends = model.outcomes(za)
            rewards.append(reward)
            alives.append(alive)
            alive = alive * (1 - ends)
            z_heads = model.squash(model.dynamics(za))
            mean = z_heads.mean(0) if heads > 1 else z_heads[0]
            spreads.append((z_heads - mean).square().mean((0, 2)) if self.doubts else z.new_zeros(count))
            means.append(mean)
        value, last_action = self._end_value(z_heads)
        q_std = z.new_zeros(count, horizon + (last_action is not None))
        imagined = Imagined(torch.stack(rewards, -1), torch.stack(alives, -1), alive * value, q_std, torch.stack(spreads, -1))
        return imagined, Path(torch.stack(means, 1), last_action)

    def _end_value(self, z: Float[Tensor, "K N L"]) -> tuple[Float[Tensor, "K N"], Float[Tensor, "N A"] | None]:
        """What the last latents are worth, and the policy's action in the first head's."""
        agent = self.agent
        if self.terminal == "v":
            assert agent.value is not None
            return agent.value(z), None
        flat = z.flatten(0, 1)
        action = agent.actor.sample(agent.told(flat), agent.generator)
        q = agent.critic(flat, action, heads=agent.critic.some(agent.generator))
        return reduced(q, agent.config.actor.q_reduce, agent.level).unflatten(0, z.shape[:2]), action[: z.shape[1]]

    def _critics_spread(self, path: Path, plans: Tensor, rows: Tensor) -> Float[Tensor, "R T"]:
        """Of some rows: at every step, or at both ends only; in one go."""
        z, action = path.z[rows], plans[rows]
        z = z[:, :-1] if path.last_action is None else z
        action = action if path.last_action is None else torch.cat([action, path.last_action[rows, None]], 1)
        steps = z.shape[1]
        if self.caution.ends_only:
            z, action = z[:, :: max(steps - 1, 1)], action[:, :: max(steps - 1, 1)]
        spread = self.agent.critic(z, action).std(0, correction=0)
        if not self.caution.ends_only or steps < 3:
            return spread
        middle = spread.new_zeros(len(spread), steps - 2)
        return torch.cat([spread[:, :1], middle, spread[:, 1:]], 1)
