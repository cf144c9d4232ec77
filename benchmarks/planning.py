"""How long a plan and an update take, one thread, at the sizes of others: medians of CPU time, beside what their code takes.

    python benchmarks/planning.py

Theirs, measured on the same kind of machine with random weights, one thread: FOWM's xArm planner 1700 ms a plan and 423 ms an update;
TD-MPC2 with 5 M parameters 660 ms and 390 ms; latent 128, width 256, 152 samples, 3 iterations, penalised 78 ms and 135 ms (batch 256);
latent 64, width 128, batch 128 35 ms an update. The matrix product's speed says what the machine could do at best. Run it with nothing
else.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from hardware.types import ArraySpec, RobotSpec
from robolearn.agents.config import AgentConfig
from robolearn.core.config import from_dict
from robolearn.core.types import Obs
from robolearn.data.episode import Episode
from robolearn.data.replay import Replay
from robolearn.learners.rl.finetuning import build

SMALL = {"critic": {"width": 128}, "actor": {"width": 128}, "model": {"latent": 64, "width": 128}}
MIDDLE = {"critic": {"width": 256}, "actor": {"width": 256}, "model": {"latent": 128, "width": 256, "encoder_width": 256, "horizon": 3}}
PENALISED = {"search": {"horizon": 3, "samples": 128, "proposals": 24, "iterations": 3}, "caution": {"critics": 0.5}}
SIZES: dict[
    str, tuple[dict[str, Any], tuple[int, int], float | None, float | None]
] = {  # config, (state, action), theirs [ms]: plan, update
    "FOWM xArm": ({"preset": "fowm"}, (28, 4), 1700.0, 423.0),
    "TD-MPC2 5M": ({"preset": "tdmpc2"}, (24, 6), 660.0, 390.0),
    "latent 128, width 256": ({"preset": "tdmpc2", **MIDDLE, "planner": PENALISED}, (24, 6), 78.0, 135.0),
    "latent 64, width 128, batch 128": ({"preset": "tdmpc2", **SMALL, "update": {"batch": 128}}, (24, 6), None, 35.0),
    "ours (small)": ({"preset": "ours"}, (14, 4), None, None),
}


def median_ms(work: Callable[[], Any], times: int) -> float:
    """CPU time of this process [ms]; one call to warm up."""
    work()
    spent = []
    for _ in range(times):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return 1e3 * float(np.median(spent))


def measure(config: AgentConfig, state: int, action: int, times: int) -> tuple[float, float]:
    """(a plan, an update) [ms]."""
    range_of = lambda n: ((-1.0,) * n, (1.0,) * n)  # noqa: E731
    names = lambda n, letter: tuple(f"{letter}{i}" for i in range(n))  # noqa: E731
    spec = RobotSpec(
        "bench",
        {},
        {"x": ArraySpec(names(state, "x"), ("1",) * state, *range_of(state))},
        ArraySpec(names(action, "a"), ("1",) * action, *range_of(action)),
        "gym",
        10.0,
    )
    rng, rows = np.random.default_rng(0), Replay(spec, config.history)
    for _ in range(20):
        x, a = rng.normal(size=(50, state)).astype(np.float32), rng.uniform(-1, 1, (50, action)).astype(np.float32)
        ends, source = np.zeros(50, bool), np.zeros(50, np.uint8)
        rows.add(Episode(np.arange(50.0), {}, {"x": x}, a, a, rng.random(50).astype(np.float32), ends, source))
    tuning = build(config, rows)
    tuning.offline(3)
    agent, obs = tuning.agent, Obs({}, torch.randn(1, config.history, state))
    agent.release.fill_(1.0)
    return median_ms(lambda: agent.act(obs), times), median_ms(lambda: tuning.offline(1), times)


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--times", type=int, default=15)
    asked = words.parse_args()
    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.bfloat16):
        left, right = torch.randn(1024, 1024, dtype=dtype), torch.randn(1024, 1024, dtype=dtype)
        spent = median_ms(lambda left=left, right=right: left @ right, 20)
        print(json.dumps({"matrix product": str(dtype).removeprefix("torch."), "GFLOP/s": round(2 * 1024**3 / spent / 1e6, 1)}), flush=True)
    for name, (values, (state, action), plan, update) in SIZES.items():
        ours = measure(from_dict(AgentConfig, values), state, action, asked.times)
        row: dict[str, Any] = {"size": name, "plan_ms": round(ours[0], 1), "update_ms": round(ours[1], 1)}
        row |= {"plan_ratio": round(plan / ours[0], 2)} if plan else {}
        row |= {"update_ratio": round(update / ours[1], 2)} if update else {}
        print(json.dumps(row), flush=True)
