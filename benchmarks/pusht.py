"""Push-T from the 206 human demonstrations: trains the state and the image policy from their configs, measures both.

    robolearn ingest --path pusht_cchi_v7_replay.zarr --out runs/pusht.zarr
    python benchmarks/pusht.py --data runs/pusht.zarr --out runs/bench_pusht          # 2 x 28 minutes on two cores, and 50 episodes each

Start i of the evaluation is drawn from [100000, i]; settings were tuned on starts of [500000, i] and on the demonstrations only.
Max coverage is the largest share of the goal that was covered in an episode of 300 steps; the published score divides it by 0.95
and cuts it at 1; strict success is coverage above 0.95. Prints the table of docs/results.md, writes it to OUT/table.json.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro

import hardware
from hardware import RobotConfig
from hardware.pusht import SUCCESS_COVERAGE
from robolearn.core.checkpoint import load_policy
from robolearn.core.config import load_config
from robolearn.core.files import write_atomic
from robolearn.data.episode import Episode
from robolearn.evaluation.evaluate import Trial, evaluate
from robolearn.evaluation.statistics import mean_interval, success_interval
from robolearn.experiments import train
from robolearn.runtime.policy_pilot import PolicyPilot
from robolearn.tasks import task_for

BODIES = {"state": "pusht:state", "image": "pusht"}


@dataclass(frozen=True)
class Config:
    data: Path = Path("runs/pusht.zarr")
    out: Path = Path("runs/bench_pusht")
    policies: tuple[str, ...] = ("state", "image")
    seeds: tuple[int, ...] = (0,)
    """Of training."""
    minutes: float | None = None
    """Of training; None: what the config says."""
    steps: int | None = None
    trials: int = 50
    evaluation_seed: int = 100000
    chunk: int = 8
    """Actions executed per inference."""
    threads: int = 2


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    rows = []
    for name in config.policies:
        for seed in config.seeds:
            out = config.out / f"{name}_{seed}"
            settings = load_config(Path(f"configs/train/pusht_{name}.yaml"), train.Config)
            settings = replace(settings, data=config.data, out=out, seed=seed, threads=config.threads)
            if config.minutes is not None:
                settings = replace(settings, minutes=config.minutes)
            if config.steps is not None:
                settings = replace(settings, steps=config.steps)
            train.run(settings)
            result = out / f"coverage_{config.evaluation_seed}_{config.trials}.json"
            if not result.exists():
                write_atomic(result, json.dumps(fly(out / "policy.pt", BODIES[name], config)).encode())
            trained = json.loads((out / "done.json").read_text())
            facts = {key: trained[key] for key in ("steps", "train_seconds", "trainable", "device")}
            rows.append({"policy": name, "seed": seed, **facts, **json.loads(result.read_text())})
            write_atomic(config.out / "table.json", (json.dumps(rows, indent=2) + "\n").encode())
    show(rows)


def fly(checkpoint: Path, body: str, config: Config) -> dict[str, list[float]]:
    """The largest coverage of each episode, and how long inference took in it."""
    coverage: list[float] = []
    inference: list[float] = []
    robot = hardware.open(RobotConfig(body=body))

    def measure(trial: Trial, episode: Episode | None) -> None:
        world = robot.world
        assert world is not None
        # The reward is cut at 0.95; an episode that got there ended in its best moment, which the world still shows.
        coverage.append(float(world.privileged()["coverage"][0]) if trial.success else SUCCESS_COVERAGE * trial.max_reward)
        inference.append(trial.inference_ms or float("nan"))
        sys.stderr.write(f"\r{body}: {len(coverage)} of {config.trials} episodes, mean max coverage {np.mean(coverage):.3f}")

    with robot:
        pilot = PolicyPilot(load_policy(checkpoint), config.chunk)
        evaluate(robot, pilot, task_for(body), config.trials, config.evaluation_seed, on_episode=measure)
    sys.stderr.write("\n")
    return {"coverage": coverage, "inference_ms": inference}


def show(rows: list[dict]) -> None:
    print("| policy | seed | parameters | training | max coverage | 95 % | score | strict success | 95 % | ms per chunk |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        best = np.array(row["coverage"])
        low, high = mean_interval(best)
        wins = int((best > SUCCESS_COVERAGE).sum())
        worst, most = success_interval(wins, len(best))
        cells = [
            row["policy"],
            str(row["seed"]),
            f"{row['trainable'] / 1e6:.1f} M",
            f"{row['steps']} steps, {row['train_seconds'] / 60:.0f} min {row['device']}",
            f"{best.mean():.3f}",
            f"{low:.3f}-{high:.3f}",
            f"{np.minimum(best / SUCCESS_COVERAGE, 1).mean():.3f}",
            f"{wins}/{len(best)}",
            f"{100 * worst:.0f}-{100 * most:.0f} %",
            f"{np.nanmedian(row['inference_ms']):.0f}",
        ]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main(tyro.cli(Config))
