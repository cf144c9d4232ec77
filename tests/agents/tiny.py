"""A point in a square and agents of sixteen units: what their tests share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hardware.types import ArraySpec, RobotSpec, Source
from robolearn.agents.agent import Agent
from robolearn.agents.config import AgentConfig
from robolearn.core.config import from_dict, preset_values
from robolearn.core.types import Obs
from robolearn.data.episode import Episode
from robolearn.data.replay import Replay
from robolearn.learners.rl.finetuning import fit_units
from robolearn.models.ensemble import EnsembleMlp

LOW, HIGH = (-0.2, -0.1), (0.2, 0.3)  # not symmetric, so that units are seen
ACTION = ArraySpec(("dx", "dy"), ("m", "m"), LOW, HIGH)
SPEC = RobotSpec("point", {}, {"x": ArraySpec(("x", "y"), ("m", "m"), (-1.0, -1.0), (1.0, 1.0))}, ACTION, "ee_delta", 10.0)

SMALL = {
    "history": 1,
    "critic": {"width": 16},
    "actor": {"width": 16},
    "update": {"batch": 16},
    "warmup": {"random": 0, "frozen": 0, "critic_updates": 0},
}
MODEL = {"latent": 16, "group": 8, "width": 16, "encoder_width": 16}
CHUNKS = {"type": "diffusion", "horizon": 4, "widths": [8, 16], "train_steps": 8, "sample_steps": 2}
IN_SAMPLE = {"critic": {"target": "in_sample"}, "actor": {"q": [0, 0], "bc": [1, 1]}}  # what a chunk policy goes with
SEARCH = {"proposals": 4, "samples": 8, "elites": 4, "iterations": 2, "horizon": 3}


def episode(seed: int = 0, rows: int = 8, terminal: bool = False, source: Source = Source.POLICY) -> Episode:
    """A random walk that pays minus the distance to the middle."""
    rng = np.random.default_rng(seed)
    action = rng.uniform(LOW, HIGH, (rows, 2)).astype(np.float32)
    x = (rng.uniform(-1, 1, 2) + np.cumsum(action, 0) - action).clip(-1, 1).astype(np.float32)
    ended = np.zeros(rows, bool)
    ended[-1] = terminal
    reward = -np.abs(x).max(1)
    return Episode(np.arange(rows) / 10.0, {}, {"x": x}, action, action, reward, ended, np.full(rows, source, np.uint8))


def replay(episodes: int = 6, first: int = 0, history: int = 1) -> Replay:
    rows = Replay(SPEC, history)
    for seed in range(first, first + episodes):
        rows.add(episode(seed, terminal=seed % 2 == 0))
    return rows


def config(preset: str | None = None, **fields: Any) -> AgentConfig:
    """A preset, or the common agent, with little nets; fields: dicts laid over it, section by section."""
    has = {} if preset is None else preset_values("agents", preset)
    small: dict[str, Any] = dict(SMALL) | ({"preset": preset} if preset else {})
    if "model" in has or fields.get("model") is not None:
        small["model"] = dict(MODEL)
    if "planner" in has or fields.get("planner") is not None:
        small["planner"] = {"search": dict(SEARCH)}
    if "policy" in has or fields.get("policy") is not None:
        small["policy"] = dict(CHUNKS)
    return from_dict(AgentConfig, {name: _over(small.get(name), fields.get(name, small.get(name))) for name in {**small, **fields}})


def _over(small: Any, value: Any) -> Any:
    if not isinstance(small, dict) or not isinstance(value, dict):
        return value
    return {name: _over(small.get(name), value.get(name, small.get(name))) for name in {**small, **value}}


def agent(preset: str | None = None, seed: int = 0, **fields: Any) -> Agent:
    """Built, and with the units of a few rows."""
    torch.manual_seed(seed)
    built = config(preset, **fields).build(SPEC)
    fit_units(built, replay())
    built.seed(seed)
    return built


def look(rows: int = 3, history: int = 1, seed: int = 0) -> Obs:
    return Obs({}, torch.rand(rows, history, 2, generator=generator(seed)) * 2 - 1)


def latents(of: Agent, rows: int = 5, seed: int = 0) -> torch.Tensor:
    """Latents as they may be: bounded, where there is a model."""
    drawn = torch.randn(rows, of.latent, generator=generator(seed))
    return drawn if of.model is None else of.model.squash(drawn)


def actions(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(*shape, 2, generator=generator(seed)) * 2 - 1


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def say(net: EnsembleMlp, *values: float) -> None:
    """Every member answers its own number, whatever it is asked."""
    last = net.last
    last.weight.zero_()
    last.bias.copy_(torch.tensor(values).view(-1, 1, 1).expand_as(last.bias))
