"""What flows between data, models and learners. Torch tensors; shapes are checked by beartype in tests only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from hardware import llvm
from hardware.types import RobotSpec

llvm.tritons_first()  # not everything that draws is ours: Gymnasium's and dm_control's pictures are made without hardware.mujoco.gl

Metrics = dict[str, Any]  # numbers, as `logged` gives them


def logged(value: Tensor) -> float | Tensor:
    """A number for the log. On a GPU it stays there until it is written: to read it now would make the queue of work run dry."""
    return float(value.detach()) if value.is_cpu else value.detach()


@dataclass(frozen=True)
class Obs:
    """A short history of observations, oldest first. Images stay uint8 until an encoder sees them.

    features, where present, are the frozen encoder's output for the same images, and images may then be empty.
    goal: what is wanted, as an observation of one time step: its images, or its features (of an image, or of an instruction's words).
    past: what was done and earned on the way, for policies that model whole sequences.
    """

    images: Mapping[str, UInt8[Tensor, "B T 3 H W"]]
    state: Float[Tensor, "B T S"]  # RobotSpec.state concatenated in its order, physical units
    features: Float[Tensor, "B T E"] | None = None
    goal: Obs | None = None
    past: Past | None = None

    def to(self, device: torch.device | str) -> Obs:
        return apply(self, lambda tensor: tensor.to(device, non_blocking=True))


@dataclass(frozen=True)
class Past:
    """One row for each observation of the history, oldest first."""

    action: Float[Tensor, "B T A"]  # taken after the observation, physical units; 0 for the newest, whose action is asked for
    to_go: Float[Tensor, "B T"]  # rewards still to come from there to the episode's end; in deployment: that are wanted
    step: Int[Tensor, "B T"]  # rows since the episode began
    real: Bool[Tensor, "B T"]  # false where the episode had not begun and its first row is repeated


@dataclass(frozen=True)
class Batch:
    """H = chunk of actions from the newest observation on; pad marks rows past the episode's end.

    future and what follows serve learners that need what happened next: `future` is the observation after each of
    the H actions (images absent, features present), mask says where it exists. What comes after `weight` is a Replay's.
    """

    obs: Obs
    action: Float[Tensor, "B H A"]
    pad: Bool[Tensor, "B H"]
    reward: Float[Tensor, "B H"] | None = None
    terminal: Bool[Tensor, "B H"] | None = None
    future: Obs | None = None
    future_mask: Bool[Tensor, "B H"] | None = None
    weight: Float[Tensor, " B"] | None = None
    to_go: Float[Tensor, "B H"] | None = None  # discounted rewards that were really seen from there to the episode's end
    source: UInt8[Tensor, "B H"] | None = None  # who acted, hardware.types.Source
    won: Bool[Tensor, " B"] | None = None  # its episode is not known to have failed
    fresh: Bool[Tensor, " B"] | None = None  # the row comes from the online phase

    def to(self, device: torch.device | str) -> Batch:
        return apply(self, lambda tensor: tensor.to(device, non_blocking=True))


def apply(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with `function` applied to every tensor in it."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {k: apply(v, function) for k, v in value.items()}
    if isinstance(value, Obs | Past | Batch):
        return replace(value, **{f.name: apply(getattr(value, f.name), function) for f in fields(value)})
    return value


class Encoder(nn.Module):
    """Images of every camera at every time step -> one feature vector per time step. Deterministic in eval mode."""

    out_dim: int

    def forward(self, images: Mapping[str, UInt8[Tensor, "B T 3 H W"]]) -> Float[Tensor, "B T E"]:
        raise NotImplementedError


class Policy(nn.Module):
    """Anything that turns a history of observations into a chunk of actions, and learns to from batches."""

    spec: RobotSpec
    history: int  # observations it looks at
    horizon: int  # actions it predicts, the first for the newest observation

    def loss(self, batch: Batch) -> tuple[Float[Tensor, ""], Metrics]:
        raise NotImplementedError

    def act(self, obs: Obs) -> Float[Tensor, "B H A"]:
        """Actions in physical units. No gradient, eval mode."""
        raise NotImplementedError


def concat(first: Batch, second: Batch) -> Batch:
    """Two batches of the same kind as one, `first`'s rows first."""
    return _concat(first, second)


def _concat(a: Any, b: Any) -> Any:
    if isinstance(a, Tensor):
        return torch.cat([a, b])
    if isinstance(a, Mapping):
        return {k: _concat(v, b[k]) for k, v in a.items()}
    if isinstance(a, Obs | Past | Batch):
        return replace(a, **{f.name: _concat(getattr(a, f.name), getattr(b, f.name)) for f in fields(a)})
    return a
