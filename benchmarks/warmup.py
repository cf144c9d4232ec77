"""WSRL's dip, and the order of the Three Regimes, on robosuite:Reach:state.

    python benchmarks/warmup.py --what dip --seeds 0 1 2        # the WSRL preset with and without its frozen decisions
    python benchmarks/warmup.py --what regimes --seeds 0 1 2    # RLPD and WSRL after an expert's data and after a mediocre operator's

dip: offline Cal-QL on the 200 scripted episodes of mixed quality, which are then dropped (Zhou et al. 2024). regimes: 30 episodes of skill
0.8 and above, or 60 of skill 0.5 and below; with the better of policy and data kept, methods should change places (arXiv 2510.01460).
Both at small sizes: 10 heads of width 128, batch 128. One JSON line for each run goes to --out, curves with all seeds are made of them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fowm import SHARED, TASKS, data_of, lay
from peers.curves import curve, draw, keep, known, summary

import hardware
from hardware import RobotConfig
from robolearn.agents.config import AgentConfig
from robolearn.core.config import from_dict
from robolearn.data.episode import Episode
from robolearn.data.replay import Replay
from robolearn.data.store import EpisodeStore
from robolearn.evaluation.regime import regime
from robolearn.learners.rl.finetuning import build
from robolearn.runtime.policy_pilot import PolicyPilot
from robolearn.runtime.random_pilot import RandomPilot
from robolearn.runtime.rollout import rollout
from robolearn.tasks import task_for

TASK = "reach"
METHODS: dict[str, dict[str, Any]] = {
    "with warm-up": {"preset": "wsrl", "warmup": {"frozen": 500}},
    "without": {"preset": "wsrl", "warmup": {"frozen": 0}},
    "rlpd": {"preset": "rlpd", "warmup": {"random": 500}, "update": {"utd": 4, "actor_every": 4}},
    "wsrl": {"preset": "wsrl", "warmup": {"frozen": 500}},
}


def chosen(store: EpisodeStore, quality: str) -> list[int]:
    """The episodes of a quality: mixed is all of them."""
    skill = [float(store.meta(i)["skill"]) for i in range(len(store))]
    if quality == "mixed":
        return list(range(len(store)))
    wanted = (lambda s: s >= 0.8) if quality == "expert" else (lambda s: s <= 0.5)
    return [i for i, s in enumerate(skill) if wanted(s)][: 30 if quality == "expert" else 60]


def run(method: str, quality: str, seed: int, asked: argparse.Namespace) -> list[dict[str, float]]:
    torch.set_num_threads(1)
    values: dict[str, Any] = {}
    for part in (METHODS[method], SHARED):
        lay(values, part)
    config, store = from_dict(AgentConfig, values), data_of(TASK, asked.data)
    episodes = chosen(store, quality)
    tuning = build(config, Replay(store.spec, discount=config.discount).extend(store, episodes), seed)
    tuning.offline(asked.offline if config.carry.policy or config.carry.critic else 0)
    with hardware.open(RobotConfig(body=TASKS[TASK])) as robot:
        pilot = PolicyPilot(tuning.agent, tuning.agent.horizon, seed)
        points = curve(tuning, lambda rng, flight: fly(robot, pilot, rng, flight), asked.decisions, asked.every, asked.trials, seed)
    if method == "wsrl":
        successes = [float(bool(store.meta(i)["success"])) for i in episodes]
        offline = [1.0] * round(points[0]["success"] * asked.trials) + [0.0] * round((1 - points[0]["success"]) * asked.trials)
        print(json.dumps({"data": quality, "seed": seed, "rule": regime(offline, successes).sentence()}), flush=True)
    return points


def fly(robot: Any, pilot: PolicyPilot, rng: np.random.Generator, flight: str) -> Episode:
    due = RandomPilot(robot.spec, int(rng.integers(2**31))) if flight == "random" else pilot
    return rollout(robot, due, task_for(TASKS[TASK]), rng)


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--what", choices=["dip", "regimes"], required=True)
    words.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    words.add_argument("--decisions", type=int, default=4000)
    words.add_argument("--every", type=int, default=500)
    words.add_argument("--trials", type=int, default=20)
    words.add_argument("--offline", type=int, default=4000)
    words.add_argument("--data", type=Path, default=Path("runs/fowm"))
    words.add_argument("--out", type=Path, default=Path("runs/warmup.jsonl"))
    words.add_argument("--picture", type=Path, help="draw all seeds into this file")
    asked = words.parse_args()
    kinds = [("with warm-up", "mixed"), ("without", "mixed")] if asked.what == "dip" else []
    kinds += [(m, q) for q in ("expert", "mediocre") for m in ("rlpd", "wsrl")] if asked.what == "regimes" else []
    for seed in asked.seeds:
        for method, quality in kinds:
            names = {"what": asked.what, "method": method, "data": quality, "seed": seed}
            if not known(asked.out, **names):
                keep(asked.out, run(method, quality, seed, asked), **names)
    print(summary(asked.out, ("what", "data", "method")))
    if asked.picture is not None:
        draw(asked.out, ("data", "method"), asked.picture)
