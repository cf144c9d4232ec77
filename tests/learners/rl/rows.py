"""Sequences and batches whose every number is given: what the tests of losses share."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hardware.types import Source
from robolearn.agents.agent import Agent
from robolearn.core.types import Batch, Obs
from robolearn.learners.rl.sequences import Sequences
from tests.agents.tiny import generator


def known(
    reward: Sequence[Sequence[float]],
    terminal: Sequence[Sequence[int]] | None = None,
    real: Sequence[Sequence[int]] | None = None,
    followed: Sequence[Sequence[int]] | None = None,
    inputs: int = 2,
) -> Sequences:
    """By default every row is real and followed by another; inputs and actions are noise."""
    earned = torch.tensor(reward, dtype=torch.float32)
    rows, steps = earned.shape
    flags = lambda given, default: torch.tensor(given, dtype=torch.bool) if given is not None else torch.full((rows, steps), default)  # noqa: E731
    action = torch.rand(rows, steps, 2, generator=generator(1)) * 2 - 1
    x = torch.randn(rows, steps + 1, inputs, generator=generator(2))
    return Sequences(x, action, earned, flags(terminal, False), flags(real, True), flags(followed, True))


def batch(of: Agent, rows: int = 8, steps: int = 1, seed: int = 0, **fields: torch.Tensor) -> Batch:
    """Noise in the robot's units, nothing of it past an end."""
    rng = generator(seed)
    action = of.action_norm.unnormalize(torch.rand(rows, steps, 2, generator=rng) * 2 - 1)
    none = torch.zeros(rows, steps, dtype=torch.bool)
    state = torch.rand(rows, of.history + steps, 2, generator=rng) * 2 - 1
    values = {
        "reward": torch.rand(rows, steps, generator=rng),
        "terminal": none,
        "future": Obs({}, state[:, of.history :]),
        "future_mask": ~none,
        "to_go": torch.rand(rows, steps, generator=rng),
        "source": torch.full((rows, steps), int(Source.POLICY), dtype=torch.uint8),
        "fresh": torch.zeros(rows, dtype=torch.bool),
    }
    return Batch(Obs({}, state[:, : of.history]), action, none, **{**values, **fields})
