"""Does the doubt tell the error? Rank correlation of every uncertainty measure with the world model's true one-step error.

    python benchmarks/uncertainty.py --tasks reach push lift

`ours` is trained offline on nine tenths of the scripted episodes of benchmarks/fowm.py; rows are those of the last tenth, and the same rows
with actions drawn uniformly from the whole range, whose true outcomes the simulator is not asked for: only held-out ones are judged.
Error: distance of the heads' mean prediction from the latent of what was seen next. The critics' spread is listed beside the measures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from fowm import TASKS, learned

from robolearn.agents.agent import Agent
from robolearn.data.replay import Replay
from robolearn.learners.rl.sequences import sequences
from robolearn.planning.calibration import calibrate
from robolearn.planning.uncertainty import MEASURES, residual_std


@torch.no_grad()
def correlations(agent: Agent, held_out: Replay) -> dict[str, float]:
    """Spearman's rho of each measure with the true error, over the rows that something followed."""
    assert agent.model is not None
    known = sequences(held_out.read(np.arange(len(held_out)), 1), agent, 1, agent.config.reward)
    followed = known.followed[:, 0] & known.real[:, 0]
    z, after = (agent.encode(known.inputs[followed, i]) for i in (0, 1))
    action, heads = known.action[followed, 0], agent.model.config.heads
    mean = agent.model.step(z.expand(heads, -1, -1), action.expand(heads, -1, -1))
    error = (mean.mean(0) - after).norm(dim=-1)
    std = residual_std(mean, after)
    found = {name: calibrate(measure(mean, std), error).rho for name, measure in MEASURES.items()}
    return found | {"critics_std": calibrate(agent.critic(z, action).std(0), error).rho, "rows": float(len(error))}


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    words.add_argument("--seeds", nargs="+", type=int, default=[0])
    words.add_argument("--updates", type=int, default=5000)
    words.add_argument("--data", type=Path, default=Path("runs/fowm"))
    asked = words.parse_args()
    for task in asked.tasks:
        for seed in asked.seeds:
            tuning, held_out = learned(task, "ours", seed, asked.updates, asked.data)
            row = {name: round(value, 3) for name, value in correlations(tuning.agent, held_out).items()}
            print(json.dumps({"task": task, "seed": seed, **row}), flush=True)
