"""What keeps Q from promising more than the data can say."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from robolearn.agents.actors import GaussianActor
from robolearn.agents.agent import Agent


def conservatism(
    agent: Agent,
    z: Float[Tensor, "N L"],
    z_next: Float[Tensor, "N L"],
    action: Float[Tensor, "N A"],
    q_data: Float[Tensor, "M N"],
    generator: torch.Generator,
    floor: Float[Tensor, " N"] | None = None,
) -> Float[Tensor, " N"]:
    """logsumexp_a Q(s, a) - Q(s, data): what unseen actions promise beyond the data's (Kumar et al. 2020, CQL, equation 4).

    Actions come at random, from the policy here and from the policy in the next state, each weighed by how likely it was drawn.
    floor: returns really seen; the policy's actions are not pushed below them (Nakamoto et al. 2023, Cal-QL, equation 5.1).
    """
    count, rows, dim = agent.config.critic.samples, len(z), action.shape[-1]
    anywhere = (2 * torch.rand(count * rows, dim, generator=generator) - 1).to(z)
    here, there = z.repeat(count, 1), z_next.repeat(count, 1)
    with torch.no_grad():
        drawn = [agent.actor.learn(agent.told(start), generator) for start in (here, there)]
    actions = torch.cat([anywhere, *(a for a, _ in drawn)]).unflatten(0, (3 * count, rows))
    log_prob = torch.cat([z.new_full((count * rows,), -dim * math.log(2)), *(p for _, p in drawn)]).unflatten(0, (3 * count, rows))
    q = agent.critic(z.expand(3 * count, rows, -1), actions)  # (M, 3C, N)
    if floor is not None:
        q = torch.cat([q[:, :count], q[:, count:].maximum(floor)], 1)
    promised = (q - log_prob).logsumexp(1) - math.log(3 * count)
    return (promised - q_data).mean(0)


def unseen(agent: Agent, z: Float[Tensor, "N L"], generator: torch.Generator) -> Float[Tensor, " N"]:
    """How far Q of the policy's own actions is from its own lower bound, mean minus `critic.level` spreads (Yang et al. 2022, RORL)."""
    with torch.no_grad():
        action = agent.actor.sample(agent.told(z), generator)
        q = agent.critic(z, action)
        bound = q.mean(0) - agent.level * q.std(0, correction=0)
    return (agent.critic(z, action) - bound).square().mean(0)


def roughness(agent: Agent, z: Float[Tensor, "N L"], action: Float[Tensor, "N A"], generator: torch.Generator) -> Float[Tensor, " N"]:
    """How much Q changes when the state is a little off; a rise counts 0.8, a fall 0.2 (RORL)."""
    config = agent.config.critic
    moved = agent.critic(z + _shaken(z, config.smooth_noise, generator), action)
    change = moved - agent.critic(z, action)
    return torch.where(change > 0, 0.8, 0.2).mul(change.square()).mean(0)


def fickleness(agent: Agent, z: Float[Tensor, "N L"], generator: torch.Generator) -> Float[Tensor, " N"]:
    """How much the policy changes when the state is a little off (RORL)."""
    assert isinstance(agent.actor, GaussianActor)
    shaken = z + _shaken(z, agent.config.critic.smooth_noise, generator)
    return agent.actor.divergence(agent.told(z), agent.told(shaken))


def _shaken(z: Tensor, size: float, generator: torch.Generator) -> Tensor:
    return size * (2 * torch.rand(z.shape, generator=generator).to(z) - 1)
