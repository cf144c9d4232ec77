"""Rewards still to come: lambda-returns; as a network likes them, and what the data knows about them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class Returns(nn.Module):
    """Learns from training batches how large returns-to-go are, the best return of an episode and how long episodes last.

    Buffers, so that a checkpoint carries them and a moving average of weights copies them. They only ever grow.
    """

    scale: Tensor
    best: Tensor
    longest: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.zeros(()))
        self.register_buffer("best", torch.full((), -torch.inf))
        self.register_buffer("longest", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def watch(self, to_go: Float[Tensor, "B T"], step: Int[Tensor, "B T"], counts: Bool[Tensor, "B T"]) -> None:
        """Take note of the rows that count. Without a look at any value: that would make a GPU wait."""
        least = torch.full_like(to_go, -torch.inf)
        self.scale.copy_(torch.maximum(self.scale, torch.where(counts, to_go.abs(), least).amax()))
        self.best.copy_(torch.maximum(self.best, torch.where(counts & (step == 0), to_go, least).amax()))
        self.longest.copy_(torch.maximum(self.longest, torch.where(counts, step, 0).amax()))

    def normalize(self, to_go: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """Into [-1, 1], as far as the data goes."""
        return to_go / torch.where(self.scale > 0, self.scale, torch.ones_like(self.scale))


def lambda_returns(
    reward: Float[Tensor, "B T"],
    terminal: Bool[Tensor, "B T"],
    grounded: Bool[Tensor, "B T"],
    ahead: Float[Tensor, "B T"],
    discount: float,
    trace: float,
) -> Float[Tensor, "B T"]:
    """Returns of rows as they were; ahead: what the observation after each action is worth; grounded: what came of the action is known.

    G_t = r_t + gamma ((1 - lambda) W_t + lambda G_t+1), nothing after a terminal row, W_t alone where the next row's return is not
    known. With some hundred rows, real rewards carry further than a value that creeps back one step per update.
    """
    returns, steps = torch.zeros_like(reward), reward.shape[1]
    for t in reversed(range(steps)):
        after = ahead[:, t]
        if trace and t + 1 < steps:
            after = torch.where(grounded[:, t + 1], torch.lerp(after, returns[:, t + 1], trace), after)
        returns[:, t] = reward[:, t] + discount * after * ~terminal[:, t]
    return returns
