"""A policy as a function of tensors alone, for what runs it without this project: the noise it draws goes in as well."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hardware.types import ArraySpec
from robolearn.core.types import Obs, Past
from robolearn.policies.chunk import ChunkPolicy

Inputs = dict[str, Tensor]


class Program(nn.Module):
    """`policy.act` of `batch` observations: Inputs -> actions, physical units (B, H, A).

    The inputs are named after the fields of Obs: state, image_CAMERA, features (of an instruction, under goal), past_action ...;
    behind them stand noise_0 ... (normal) and chance_0 ... (uniform, 0 to 1), what the policy draws at random, in that order.
    """

    def __init__(self, policy: ChunkPolicy, batch: int = 1) -> None:
        super().__init__()
        self.policy, self.batch = policy.eval(), batch
        with Draws() as draws:
            policy.sample(observation(self.seen(np.random.default_rng(0))), 1, torch.Generator().manual_seed(0))
        self.drawn = {name: tuple(value.shape) for name, value in draws.made.items()}
        self._left_out: Inputs = {}

    def leave_out(self, names: Iterable[str]) -> None:
        """No longer ask for these: the answer does not depend on them."""
        example = self.example(np.random.default_rng(0))
        self._left_out = {name: torch.zeros_like(example[name]) for name in names}

    def forward(self, inputs: Inputs) -> Float[Tensor, "B H A"]:
        inputs = inputs | self._left_out
        with Draws(inputs):
            return self.policy.act(observation(inputs))

    def example(self, rng: np.random.Generator) -> Inputs:
        """Inputs such as the policy may meet: states within its data's range, images of noise."""
        noise: dict[str, np.ndarray] = {
            name: rng.standard_normal(shape) if name.startswith("noise") else rng.uniform(size=shape) for name, shape in self.drawn.items()
        }
        inputs = self.seen(rng) | {name: torch.from_numpy(value.astype(np.float32)) for name, value in noise.items()}
        return {name: value for name, value in inputs.items() if name not in self._left_out}

    def seen(self, rng: np.random.Generator) -> Inputs:
        """What of it is observed, or wanted."""
        policy, config = self.policy, self.policy.config
        found = self._of(rng, policy.history)
        if config.goal == "language":
            assert config.language is not None
            found["goal_features"] = torch.from_numpy(rng.standard_normal((self.batch, 1, config.language.dim)).astype(np.float32))
        elif config.goal != "none":
            keep = "image" if config.goal == "image" else "state"
            found |= {f"goal_{name}": value for name, value in self._of(rng, 1).items() if name.startswith(keep)}
        if policy.sees_past:
            shape = (self.batch, policy.history)
            action = _within(policy.spec.action, rng, shape)
            action[:, -1] = 0
            step = np.arange(policy.history) + rng.integers(0, 50, (self.batch, 1))
            past = (action, rng.uniform(0, 10, shape).astype(np.float32), step, np.ones(shape, dtype=bool))
            names = ("past_action", "past_to_go", "past_step", "past_real")
            found |= dict(zip(names, map(torch.from_numpy, past), strict=True))
        return found

    def _of(self, rng: np.random.Generator, steps: int) -> Inputs:
        spec, shape = self.policy.spec, (self.batch, steps)
        state = torch.from_numpy(rng.uniform(-1, 1, (*shape, spec.state_dim)).astype(np.float32))
        images = {
            f"image_{name}": torch.from_numpy(rng.integers(0, 256, (*shape, 3, *size), dtype=np.uint8))
            for name, size in spec.cameras.items()
        }
        return {"state": self.policy.state_norm.unnormalize(state)} | images


def observation(inputs: Mapping[str, Tensor]) -> Obs:
    """The inverse of naming them."""
    images = {name.removeprefix("image_"): value for name, value in inputs.items() if name.startswith("image_")}
    goal = {name.removeprefix("goal_"): value for name, value in inputs.items() if name.startswith("goal_")}
    past = {name.removeprefix("past_"): value for name, value in inputs.items() if name.startswith("past_")}
    state = inputs.get("state")
    if state is None:
        some = next(iter(inputs.values()))
        state = some.new_zeros((*some.shape[:2], 0), dtype=torch.float32)
    return Obs(images, state, inputs.get("features"), goal=observation(goal) if goal else None, past=Past(**past) if past else None)


class Draws(TorchFunctionMode):
    """Inside, torch.randn and torch.multinomial take what is `given`, by name; without it they draw, and `made` keeps what they drew.

    A choice by weights is read off a uniform number, so that it, too, is a function of an input.
    """

    def __init__(self, given: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self._given, self.made = given, dict[str, Tensor]()

    def __torch_function__(self, func: Any, types: Any, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        args, kwargs = tuple(args), dict(kwargs or {})
        if func is torch.randn:
            shape = torch.Size(args[0] if isinstance(args[0], tuple | list | torch.Size) else args)
            return self._next("noise", shape, torch.randn, kwargs.get("generator"))
        if func is torch.multinomial:
            weights, count = args[:2]
            chance = self._next("chance", torch.Size((*weights.shape[:-1], count)), torch.rand, kwargs.get("generator"))
            reached = weights.cumsum(-1).unsqueeze(-2) / weights.sum(-1)[..., None, None]
            return (reached <= chance.unsqueeze(-1)).sum(-1).clamp(max=weights.shape[-1] - 1)
        return func(*args, **kwargs)

    def _next(self, kind: str, shape: torch.Size, draw: Callable[..., Tensor], generator: torch.Generator | None) -> Tensor:
        if shape.numel() == 0:
            return torch.zeros(shape)
        name = f"{kind}_{sum(made.startswith(kind) for made in self.made)}"
        self.made[name] = draw(shape, generator=generator) if self._given is None else self._given[name]
        return self.made[name]


def _within(spec: ArraySpec, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    low, high = (np.where(np.isfinite(edge), edge, side) for edge, side in ((spec.low, -1.0), (spec.high, 1.0)))
    return rng.uniform(low, high, (*shape, spec.dim)).astype(np.float32)
