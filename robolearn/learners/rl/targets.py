"""What Q should be: real rewards as far as they are trusted, then what the next state is worth."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from robolearn.agents.actors import DeterministicActor, DiffusionActor
from robolearn.agents.agent import Agent
from robolearn.agents.critic import reduced
from robolearn.learners.rl.sequences import Sequences
from robolearn.models.returns import lambda_returns


@torch.no_grad()
def worth(agent: Agent, z: Float[Tensor, "N L"], generator: torch.Generator) -> Float[Tensor, " N"]:
    """What it is worth to be in z, by `critic.target`."""
    config = agent.config.critic
    if config.target == "in_sample":
        assert agent.value is not None
        return agent.value(z)
    if config.target == "best_of_n":
        actions = agent.candidates(z, agent.config.actor.candidates)
        return target_q(agent, z.expand(len(actions), *z.shape), actions, generator).amax(0)
    if config.target == "expansion":
        return _expanded(agent, z, generator)
    told = agent.told(z)
    if isinstance(agent.actor, DeterministicActor):
        return target_q(agent, z, agent.actor.smoothed(told, generator), generator)
    if isinstance(agent.actor, DiffusionActor):  # what it learns with is a glance, not a draw
        return target_q(agent, z, agent.actor.sample(told, generator), generator)
    action, log_prob = agent.actor.learn(told, generator)
    return target_q(agent, z, action, generator) - agent.temperature * log_prob * config.entropy


@torch.no_grad()
def target_q(agent: Agent, z: Float[Tensor, "*N L"], action: Float[Tensor, "*N A"], generator: torch.Generator) -> Float[Tensor, "*N"]:
    """The target heads' value as one."""
    config = agent.config.critic
    asked = agent.critic.some(generator)
    return reduced(agent.critic(z, action, target=True, heads=asked), config.reduce[int(agent.online)], agent.level)


def _expanded(agent: Agent, z: Float[Tensor, "N L"], generator: torch.Generator) -> Float[Tensor, " N"]:
    """The policy's return in the model over its horizon, each row walked by one head, then Q; less where heads disagree
    (Rafailov et al. 2023, MOTO)."""
    model, config = agent.model, agent.config
    assert model is not None
    total, alive, heads, rows = z.new_zeros(len(z)), z.new_ones(len(z)), model.config.heads, torch.arange(len(z), device=z.device)
    for step in range(model.config.horizon):
        action = agent.actor.sample(agent.told(z), generator)
        za = torch.cat([z, action], -1)
        ahead = model.step(z.expand(heads, -1, -1), action.expand(heads, -1, -1))
        doubt = ahead.var(0, correction=0).mean(-1).sqrt() / model.spread_median.sqrt()
        reward, ends = model.outcomes(za)
        total += config.discount**step * alive * (reward - config.critic.expansion_penalty * doubt)
        alive = alive * (1 - ends)
        z = ahead[rows % heads, rows]
    action = agent.actor.sample(agent.told(z), generator)
    return total + config.discount**model.config.horizon * alive * target_q(agent, z, action, generator)


def returns(known: Sequences, ahead: Float[Tensor, "B T"], discount: float, trace: float) -> Float[Tensor, "B T"]:
    """Lambda-returns of the rows as they were; ahead: what the observation after each action is worth."""
    return lambda_returns(known.reward, known.terminal, known.grounded, ahead, discount, trace)
