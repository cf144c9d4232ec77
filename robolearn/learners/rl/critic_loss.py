"""What teaches the critic, V and the world model, in one backward pass: their gradients meet in the encoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from robolearn.agents.agent import Agent
from robolearn.agents.axes import phased
from robolearn.core.types import Batch, Metrics
from robolearn.learners.rl.pessimism import conservatism, roughness, unseen
from robolearn.learners.rl.sequences import Sequences
from robolearn.learners.rl.targets import returns, target_q, worth
from robolearn.models.expectile_value import expectile_loss
from robolearn.models.weighted import weighted_mean


@dataclass(frozen=True)
class Walked:
    """The rows that were learned from, flat, as the actor learns from them: N = B * T."""

    z: Float[Tensor, "N L"]  # without gradients
    action: Float[Tensor, "N A"]
    earned: Float[Tensor, " N"]
    counts: Float[Tensor, " N"]  # 0 past the end; later steps of a walk count less
    q: Float[Tensor, " N"]  # the heads' mean, as it was


def critic_loss(
    agent: Agent, known: Sequences, batch: Batch, generator: torch.Generator, phase: float, weight: Float[Tensor, " B"] | None = None
) -> tuple[Tensor, Metrics, Walked]:
    """weight: of each sequence in the Bellman error. phase: 0 offline, 1 online."""
    config, model = agent.config.critic, agent.model
    steps = 1 if agent.config.model is None else agent.config.model.horizon
    with torch.no_grad():
        after = agent.encode(known.inputs[:, 1:])
        ahead = worth(agent, after.flatten(0, 1), generator).unflatten(0, after.shape[:2])
        earned = returns(known, ahead, agent.config.discount, config.trace)[:, :steps]
    action, real, grounded = known.action[:, :steps], known.real[:, :steps], known.grounded[:, :steps]
    terms: dict[str, tuple[float, Tensor]] = {}
    if model is None:
        z, rho, scale = known.inputs[:, :steps], torch.ones(steps, device=action.device), 1.0
    else:
        goal = after[:, :steps] if model.target_encoder is None else model.encode_target(known.inputs[:, 1 : steps + 1])
        z, apart = model.walk(agent.encode(known.inputs[:, 0]), action, goal)
        rho, scale = model.fading(steps, action.device), model.config.value
        terms |= model.losses(
            torch.cat([z, action], -1), apart, known.reward[:, :steps], known.terminal[:, :steps], real, known.followed[:, :steps]
        )
    flat_z, flat_a, share = z.flatten(0, 1), action.flatten(0, 1), (rho * grounded).flatten()
    errors, values = agent.critic.loss(flat_z, flat_a, earned.flatten())
    trusted = share if weight is None else share * weight.repeat_interleave(steps)
    terms["q"] = (scale, weighted_mean(errors.mean(0), trusted))
    if agent.value is not None:
        best = target_q(agent, flat_z.detach(), flat_a, generator)
        off = best - agent.value(flat_z)
        terms["v"] = (scale, weighted_mean(expectile_loss(off, config.expectile), (rho * real).flatten()))
    strength = phased(config.weight, phase)
    if config.pessimism != "none" and strength:
        terms["pessimism"] = (
            scale * strength,
            _pessimism(agent, flat_z, after[:, :steps].flatten(0, 1), flat_a, values, share, batch, generator, weight),
        )
    if config.smooth:
        terms["rough"] = (config.smooth, weighted_mean(roughness(agent, flat_z, flat_a, generator), share))
    loss = sum((factor * mean for factor, mean in terms.values()), z.new_zeros(()))
    metrics = {name: float(mean.detach()) for name, (_, mean) in terms.items()}
    walked = Walked(flat_z.detach(), flat_a, earned.flatten(), (rho * real * grounded).flatten(), values.detach().mean(0))
    return loss, metrics | {"q_mean": float(values.detach().mean()), "q_spread": float(values.detach().std(0).mean())}, walked


def _pessimism(
    agent: Agent,
    z: Tensor,
    after: Tensor,
    action: Tensor,
    values: Tensor,
    share: Tensor,
    batch: Batch,
    generator: torch.Generator,
    weight: Tensor | None,
) -> Tensor:
    config, steps = agent.config.critic, len(z) // len(batch.action)
    if config.pessimism == "ood":
        return weighted_mean(unseen(agent, z, generator), share)
    floor = None
    if config.pessimism == "cal":
        if batch.to_go is None:
            raise ValueError("batch: no to_go; Cal-QL needs the returns that were seen, and a Replay knows them")
        floor = _scaled_returns(agent, batch.to_go[:, :steps]).flatten()
    gap = conservatism(agent, z, after, action, values, generator, floor)
    if config.pessimism == "gap":  # only rows that the present dynamics would hardly have made
        share = share * (torch.zeros_like(share) if weight is None else (1 - weight.clamp(max=1)).repeat_interleave(steps))
        return (gap * share).mean()
    return weighted_mean(gap, share)


def _scaled_returns(agent: Agent, to_go: Tensor) -> Tensor:
    """Discounted returns of stored rewards, with the reward's scale; a shift is counted for ever, which a return to the episode's end is
    not: with a negative one the floor is the lower, and safe."""
    reward = agent.config.reward
    return reward.scale * to_go + min(reward.shift, 0.0) / (1 - agent.config.discount)
