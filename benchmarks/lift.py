"""The main job over several seeds: success of the offline policy and of the fine-tuned one, on the same fresh starts.

    python benchmarks/lift.py --out runs/bench_lift            # 3 seeds, 30 evaluation episodes each, 40 online episodes

Each seed is a pipeline of its own: its recordings, its encoder, its policy, its fine-tuning. Evaluation starts come from
seeds that nothing was trained or tuned on. Prints the table of docs/results.md and writes it to OUT/table.json.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro

from robolearn.core.config import load_config
from robolearn.core.files import write_atomic
from robolearn.evaluation.statistics import fisher_p, success_interval
from robolearn.experiments import demo
from robolearn.experiments.evaluate import read_evaluation


@dataclass(frozen=True)
class Config:
    out: Path = Path("runs/bench_lift")
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of recording, training and fine-tuning."""
    trials: int = 30
    """Evaluation episodes, before and after."""
    settings: Path = demo.DEFAULT
    """Of every stage: a config of the demo verb."""
    online_episodes: int = 40


def main(config: Config) -> None:
    os.environ.setdefault("MUJOCO_GL", "egl")
    rows, settings = [], load_config(config.settings, demo.Config)
    for seed in config.seeds:
        out = config.out / f"seed_{seed}"
        evaluation, tuning = replace(settings.evaluate, trials=config.trials), replace(settings.finetune, episodes=config.online_episodes)
        demo.run(replace(settings, out=out, seed=seed, evaluate=evaluation, finetune=tuning))
        before, after = (read_evaluation(out / stage / "evaluation.json") for stage in ("evaluate_before", "evaluate_after"))
        tuned = json.loads((out / "finetune/done.json").read_text())
        rows.append(
            {
                "seed": seed,
                "before": before.successes,
                "after": after.successes,
                "trials": before.trials,
                "online_episodes": tuned["episodes"],
                "online_successes": tuned["successes"],
                "setpoints": tuned["setpoints"],
                "violations": tuned["violations_at_the_actuator"],
                "minutes": {stage.parent.name: json.loads(stage.read_text())["seconds"] / 60 for stage in sorted(out.glob("*/done.json"))},
            }
        )
        write_atomic(config.out / "table.json", (json.dumps(rows, indent=2) + "\n").encode())
    show(rows)


def show(rows: list[dict]) -> None:
    print("| seed | offline | 95 % | fine-tuned | 95 % | p (Fisher) | online episodes | violations at the actuator / setpoints |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        cells = [str(row["seed"])]
        for stage in ("before", "after"):
            low, high = success_interval(row[stage], row["trials"])
            cells += [f"{row[stage]}/{row['trials']}", f"{100 * low:.0f}-{100 * high:.0f} %"]
        p = fisher_p(row["before"], row["trials"], row["after"], row["trials"])
        cells += [f"{p:.3f}", str(row["online_episodes"]), f"{sum(row['violations'].values())} / {row['setpoints']}"]
        print(f"| {' | '.join(cells)} |")
    before, after = ([row[stage] / row["trials"] for row in rows] for stage in ("before", "after"))
    gain = np.median(np.subtract(after, before))
    print(f"median of {len(rows)} seeds: {np.median(before):.0%} -> {np.median(after):.0%}; median gain {100 * gain:.0f} points")


if __name__ == "__main__":
    main(tyro.cli(Config, config=(tyro.conf.AvoidSubcommands,)))
