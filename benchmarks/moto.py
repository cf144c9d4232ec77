"""MOTO's protocol from state on a Meta-World task: 10 scripted demonstrations, a sparse reward, at most 100 online episodes.

    python benchmarks/moto.py --task drawer-open-v3 --methods bc rlpd wsrl expo fowm ours --seeds 0 1 2

Demonstrations come from Meta-World's own scripted policy (called scripted). The reward is 1 at success, which ends the episode; -1 is added
to every step for all methods. Small sizes throughout. MOTO, from images, with 500 episodes, is said to reach about 80 % over ten tasks.
One JSON line for each run goes to --out: success at 0, 20, 40 ... online episodes' worth of decisions, 20 evaluations each.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fowm import MODEL, SHARED, SMALL_SEARCH, lay
from peers.curves import curve, draw, keep, known, summary

from robolearn.agents.config import AgentConfig
from robolearn.core.config import from_dict
from robolearn.data.episode import Episode
from robolearn.data.replay import Replay
from robolearn.learners.rl.finetuning import build
from robolearn.runtime.gym_env import rollout_gym, spec_of
from robolearn.runtime.policy_pilot import PolicyPilot
from robolearn.runtime.random_pilot import RandomPilot
from robolearn.runtime.suites import make, scripted

DEMONSTRATIONS = 10
METHODS: dict[str, list[dict[str, Any]]] = {
    "bc": [{"preset": "iql", "actor": {"beta": 0}}],
    "rlpd": [{"preset": "rlpd", "warmup": {"random": 400}, "update": {"utd": 4, "actor_every": 4}}],
    "wsrl": [{"preset": "wsrl", "warmup": {"frozen": 400}}],
    "expo": [{"preset": "expo", "update": {"utd": 4, "actor_every": 4}}],
    "fowm": [{"preset": "fowm"}, MODEL, {"model": {"latent": 50}}, SMALL_SEARCH],
    "ours": [{"preset": "ours"}, MODEL],
}


def config_of(method: str) -> AgentConfig:
    values: dict[str, Any] = {}
    for part in (*METHODS[method][:1], SHARED, *METHODS[method][1:], {"discount": 0.98}):
        lay(values, part)
    return from_dict(AgentConfig, values)


def run(method: str, seed: int, asked: argparse.Namespace) -> list[dict[str, float]]:
    torch.set_num_threads(1)
    name = f"metaworld:{asked.task}"
    env = make(name, seed, sparse=True)
    spec, config = spec_of(env, name, 10.0), config_of(method)
    old, expert = Replay(spec, config.history, discount=config.discount), scripted(name)
    for i in range(DEMONSTRATIONS):
        old.add(rollout_gym(env, expert, spec, np.random.default_rng([seed, 777, i])))
    tuning = build(config, old, seed)
    tuning.offline(asked.offline if config.carry.policy or config.carry.critic or config.carry.model else 0)
    pilot = PolicyPilot(tuning.agent, tuning.agent.horizon, seed)

    def fly(rng: np.random.Generator, flight: str) -> Episode:
        return rollout_gym(env, RandomPilot(spec, int(rng.integers(2**31))) if flight == "random" else pilot, spec, rng)

    decisions = 0 if method == "bc" else asked.decisions
    return curve(tuning, fly, decisions, asked.every, asked.trials, seed)


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--task", default="drawer-open-v3")
    words.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    words.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    words.add_argument("--decisions", type=int, default=8000, help="online; an episode is 200 at most and 90 if it succeeds")
    words.add_argument("--every", type=int, default=2000)
    words.add_argument("--trials", type=int, default=20)
    words.add_argument("--offline", type=int, default=3000)
    words.add_argument("--out", type=Path, default=Path("runs/moto.jsonl"))
    words.add_argument("--picture", type=Path, help="draw all seeds into this file")
    asked = words.parse_args()
    for seed in asked.seeds:
        for method in asked.methods:
            names = {"task": asked.task, "method": method, "seed": seed}
            if not known(asked.out, **names):
                keep(asked.out, run(method, seed, asked), **names)
    print(summary(asked.out, ("task", "method")))
    if asked.picture is not None:
        draw(asked.out, ("task", "method"), asked.picture)
