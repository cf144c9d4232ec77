"""The TD-MPC2 preset on DeepMind Control from states, at small sizes: mean return at 100 k environment steps.

    python benchmarks/dmcontrol.py --tasks cartpole-swingup finger-spin

One task after the other. Published for 5 M parameters, mean of 3 seeds, at 100 k steps: cartpole-swingup 839, finger-spin 948,
reacher-easy 937, walker-walk 962 (TD-MPC2's result files). Ours have 0.3 M.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from hardware.types import Source
from robolearn.agents.config import AgentConfig
from robolearn.core.config import from_dict
from robolearn.core.files import append_line
from robolearn.data.replay import Replay
from robolearn.learners.rl.finetuning import build
from robolearn.runtime.gym_env import rollout_gym, spec_of
from robolearn.runtime.policy_pilot import PolicyPilot
from robolearn.runtime.random_pilot import RandomPilot
from robolearn.runtime.suites import make

SMALL = {
    "preset": "tdmpc2",
    "critic": {"width": 128},
    "actor": {"width": 128},
    "model": {"latent": 64, "width": 128, "encoder_width": 128},
    "planner": {"search": {"samples": 116, "proposals": 12, "iterations": 3, "elites": 16}},
    "update": {"batch": 128},
}
REPEAT = 2  # environment steps per decision, as in TD-MPC2


def train(task: str, seed: int, steps: int, evaluate_every: int, out: Path) -> None:
    """One task, one seed; a line for each episode and each evaluation goes to `out`."""
    torch.set_num_threads(1)
    env, flown = make(f"dmc:{task}", seed), make(f"dmc:{task}", seed + 1000)
    spec = spec_of(env, f"dmc:{task}", float(env.metadata.get("render_fps") or 50))
    tuning = build(from_dict(AgentConfig, SMALL), Replay(spec), seed)
    agent, rng, began, evaluated = tuning.agent, np.random.default_rng(seed), time.monotonic(), 0
    tuning.begin_online()
    random, pilot = RandomPilot(spec, seed), PolicyPilot(agent, chunk=1, seed=seed, source=Source.PLANNER)
    while tuning.decisions * REPEAT < steps:
        agent.explore = True
        episode = rollout_gym(env, random if tuning.flight == "random" else pilot, spec, rng)
        tuning.add(episode)
        learned = tuning.learn()
        row = {"task": task, "seed": seed, "steps": tuning.decisions * REPEAT, "return": episode.meta["return"], "updates": len(learned)}
        if tuning.decisions * REPEAT >= evaluated + evaluate_every or tuning.decisions * REPEAT >= steps:
            agent.explore, evaluated = False, tuning.decisions * REPEAT
            trials = [rollout_gym(flown, pilot, spec, np.random.default_rng([seed, 7, i])).meta["return"] for i in range(5)]
            row |= {"evaluation": float(np.mean(trials)), "trials": trials}
        append_line(out, json.dumps(row | {"seconds": round(time.monotonic() - began, 1)}))
        print(json.dumps({k: v for k, v in row.items() if k != "trials"}), flush=True)


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--tasks", nargs="+", default=["cartpole-swingup", "finger-spin"])
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--steps", type=int, default=100_000, help="environment steps")
    words.add_argument("--every", type=int, default=20_000, help="environment steps between evaluations")
    words.add_argument("--out", type=Path, default=Path("runs/dmcontrol.jsonl"))
    asked = words.parse_args()
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    for name in asked.tasks:
        train(name, asked.seed, asked.steps, asked.every, asked.out)
