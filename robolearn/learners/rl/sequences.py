"""A batch as the losses want it: normalised, row by row, with masks that say what counts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from robolearn.agents.agent import Agent
from robolearn.agents.axes import Reward
from robolearn.core.types import Batch, Obs


@dataclass(frozen=True)
class Sequences:
    """T rows of B sequences. inputs has one row more: what followed the last action."""

    inputs: Float[Tensor, "B S I"]  # S = T + 1
    action: Float[Tensor, "B T A"]  # normalised
    reward: Float[Tensor, "B T"]  # scaled and shifted
    terminal: Bool[Tensor, "B T"]
    real: Bool[Tensor, "B T"]  # not past the episode's end, nor past a terminal row on the way: a walk does not know what came then
    followed: Bool[Tensor, "B T"]  # the next observation exists

    @property
    def grounded(self) -> Bool[Tensor, "B T"]:
        """What came of the action is known: after a cut-off row nothing was seen."""
        return self.real & (self.followed | self.terminal)


def sequences(batch: Batch, agent: Agent, steps: int, reward: Reward) -> Sequences:
    """The first `steps` rows of a batch with future. ValueError: it has none."""
    if batch.reward is None or batch.terminal is None or batch.future is None or batch.future_mask is None:
        raise ValueError("batch: no reward, terminal and future; draw it from a Replay, or make the windows with future=True")
    now, then = batch.obs, batch.future
    join = lambda a, b: torch.cat([a[:, -agent.history :], b[:, :steps]], 1)  # noqa: E731
    features = join(now.features, then.features) if now.features is not None and then.features is not None else None
    terminal = batch.terminal[:, :steps]
    return Sequences(
        inputs=agent.inputs(Obs({}, join(now.state, then.state), features)),
        action=agent.action_norm.normalize(batch.action[:, :steps]).clamp(-1, 1),
        reward=reward.scale * batch.reward[:, :steps] + reward.shift,
        terminal=terminal,
        real=~batch.pad[:, :steps] & (terminal.cumsum(1) - terminal.int() == 0),
        followed=batch.future_mask[:, :steps],
    )
