"""Every policy on the same data: coverage or success with intervals, seeds, parameters, minutes. The table of docs/results.md.

    robolearn ingest --path pusht_cchi_v7_replay.zarr --out runs/pusht.zarr       # 206 human demonstrations, see datasets/
    robolearn teleop configs/teleop/lift_scripted.yaml                            # 40 scripted ones: noise, misjudged grasps, failures kept
    python benchmarks/policies.py --out runs/bench_policies                       # two cores: 19 trainings of the minutes their configs say
    python benchmarks/policies.py --out runs/bench_policies --only pusht_state/act --seeds 0
    python benchmarks/policies.py --grid encoders --out runs/bench_policies       # fetches public weights for one of the three
    robolearn teleop configs/teleop/can_scripted.yaml                             # and square_scripted.yaml: 200 each
    python benchmarks/policies.py --grid full --out runs/full                     # a GPU overnight: Lift, Can, Square, 3 seeds, full sizes

Settings are configs/train/TASK_POLICY.yaml, in the full grid configs/train/full_POLICY.yaml. Start i of an evaluation is drawn from
[100000, i]; settings were chosen on starts of [500000, i] and training seeds from 100 on, never on these. The last weights are flown: no
checkpoint was selected. Finished parts are found again. What is flown takes the actions of these bodies, in metres and radians: record your
own demonstrations of the three tasks with `robolearn teleop`, too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

import hardware
from hardware import RobotConfig
from hardware.pusht import SUCCESS_COVERAGE
from robolearn.core.checkpoint import load_policy
from robolearn.core.config import load_config
from robolearn.core.files import write_atomic
from robolearn.core.types import Policy
from robolearn.data.episode import Episode
from robolearn.evaluation.evaluate import Trial, evaluate
from robolearn.evaluation.statistics import mean_interval, success_interval
from robolearn.experiments import train
from robolearn.experiments.goals import goal_obs
from robolearn.experiments.vision import device_named
from robolearn.models.precision import Precision
from robolearn.runtime.policy_pilot import PolicyPilot
from robolearn.tasks import task_for


@dataclass(frozen=True)
class Task:
    """What is flown, and what its data is called."""

    body: str
    store: str
    trials: int = 50


TASKS = {
    "pusht_state": Task("pusht:state", "pusht.zarr"),
    "pusht_image": Task("pusht", "pusht.zarr"),
    "lift": Task("robosuite:Lift", "lift/teleop/dataset.zarr"),
    "can": Task("robosuite:PickPlaceCan", "can/teleop/dataset.zarr"),
    "square": Task("robosuite:NutAssemblySquare:pose", "square/teleop/dataset.zarr"),
}
PUSHT = ("regression", "bc_rnn", "act", "diffusion", "dit", "flow", "vinn")
LIFT = ("regression", "act", "diffusion", "diffclone")
GRIDS: dict[str, list[tuple[str, str, tuple[int, ...]]]] = {  # task, policy, training seeds
    "small": [("pusht_state", policy, (0, 1)) for policy in PUSHT]
    + [("pusht_image", "diffusion", (0,))]
    + [("lift", policy, (0,)) for policy in LIFT],
    "encoders": [("pusht_image", policy, (0,)) for policy in ("diffusion", "scratch", "pretrained")],
    "full": [(task, policy, (0, 1, 2)) for task in ("lift", "can", "square") for policy in (*LIFT, "bc_rnn", "dit", "flow")],
}
# Published, for orientation; other budgets: GPU days, up to 300 M parameters (Chi et al., RSS 2023; docs/results.md says more).
PUBLISHED = {
    "pusht_state/diffusion": "score 0.91",
    "pusht_state/bc_rnn": "",
    "pusht_image/diffusion": "score 0.91 best, 0.84 last ten",
    "lift/diffusion": "100 % (human data)",
}


@dataclass(frozen=True)
class Config:
    data: Path = Path("runs")
    """Folder of the stores."""
    out: Path = Path("runs/bench_policies")
    grid: Literal["small", "encoders", "full"] = "small"
    """encoders: one policy behind an encoder taught on its own images, one taught by the policy alone, and one with public weights."""
    only: str = ""
    """TASK/POLICY, or the start of it: leave out the others."""
    seeds: tuple[int, ...] | None = None
    """Of training; None: the grid's."""
    minutes: float | None = None
    """Of training at most; None: what the config says."""
    steps: int | None = None
    """Updates at most; None: what the config says."""
    trials: int | None = None
    evaluation_seed: int = 100000
    chunk: int = 8
    """Actions executed per inference, at most the policy's horizon."""
    threads: int = 2
    device: str = "auto"


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    rows = []
    for task, policy, seeds in GRIDS[config.grid]:
        if not f"{task}/{policy}".startswith(config.only):
            continue
        for seed in config.seeds or seeds:
            rows.append(measure(config, task, policy, seed))
            show(rows)
    write_atomic(config.out / f"{config.only.replace('/', '_') or 'table'}.json", (json.dumps(rows, indent=2) + "\n").encode())


def measure(config: Config, name: str, policy: str, seed: int) -> dict[str, Any]:
    """Train and fly one policy, or find that it was done."""
    task, out = TASKS[name], config.out / f"{name}_{policy}_{seed}"
    settings = load_config(Path(f"configs/train/{'full' if config.grid == 'full' else name}_{policy}.yaml"), train.Config)
    settings = replace(settings, data=config.data / task.store, out=out, seed=seed, threads=config.threads, device=config.device)
    asked = {"minutes": config.minutes, "steps": config.steps}
    train.run(replace(settings, **{field: value for field, value in asked.items() if value is not None}))
    trials = config.trials or task.trials
    result = out / f"flown_{config.evaluation_seed}_{trials}_{config.chunk}.json"
    if not result.exists():
        found = fly(
            load_policy(out / "policy.pt", device=device_named(config.device)), task.body, trials, config, f"{config.data / task.store}#0"
        )
        write_atomic(result, json.dumps(found).encode())
    done = json.loads((out / "done.json").read_text())
    facts = {key: done[key] for key in ("steps", "train_seconds", "stages", "parameters", "trainable", "device", "cpus", "commit")}
    return {"task": name, "policy": policy, "seed": seed, **facts, **json.loads(result.read_text())}


def fly(policy: Policy, body: str, trials: int, config: Config, goal: str = "", precision: Precision = "float32") -> dict[str, Any]:
    """Each trial's success, best reward (Push-T: coverage) and milliseconds of inference. goal: STORE#EPISODE."""
    found: list[Trial] = []
    coverage: list[float] = []
    robot = hardware.open(RobotConfig(body=body))

    def note(trial: Trial, episode: Episode | None) -> None:
        found.append(trial)
        if robot.world is not None and "coverage" in (seen := robot.world.privileged()):
            # The reward is cut at 0.95; an episode that got there ended in its best moment, which the world still shows.
            coverage.append(float(seen["coverage"][0]) if trial.success else SUCCESS_COVERAGE * trial.max_reward)
        sys.stderr.write(f"\r{body}: {len(found)} of {trials} episodes, {sum(t.success for t in found)} successes")

    with robot:
        pilot = PolicyPilot(policy, min(config.chunk, policy.horizon), goal=goal_obs(goal, policy), precision=precision)
        evaluate(robot, pilot, task_for(body), trials, config.evaluation_seed, on_episode=note)
    sys.stderr.write("\n")
    trial_facts = [{k: v for k, v in asdict(t).items() if k in ("success", "length", "max_reward", "inference_ms")} for t in found]
    return {"coverage": coverage, "trials": trial_facts}


def show(rows: list[dict[str, Any]]) -> None:
    """One line per task and policy, its seeds pooled; the seeds' own numbers in brackets."""
    print("\n| task | policy | parameters | training | seeds | coverage (95 %) | success (95 %) | ms per chunk | published |")
    print("|---|---|---|---|---|---|---|---|---|")
    for task, policy in dict.fromkeys((row["task"], row["policy"]) for row in rows):
        print(f"| {' | '.join(_cells([r for r in rows if (r['task'], r['policy']) == (task, policy)]))} |")


def _cells(runs: list[dict[str, Any]]) -> Iterable[str]:
    first = runs[0]
    wins = [[t["success"] for t in run["trials"]] for run in runs]
    pooled = [won for run in wins for won in run]
    low, high = success_interval(sum(pooled), len(pooled))
    yield first["task"]
    yield first["policy"]
    yield f"{first['parameters'] / 1e6:.1f} M"
    yield f"{_mean(r['steps'] for r in runs):.0f} updates, {_mean(sum(r['stages'].values()) for r in runs) / 60:.0f} min, {first['device']}"
    yield ", ".join(str(run["seed"]) for run in runs)
    best = [np.array(run["coverage"]) for run in runs if run["coverage"]]
    if best:
        edges = mean_interval(np.concatenate(best))
        yield f"**{np.concatenate(best).mean():.3f}** ({edges[0]:.3f}-{edges[1]:.3f}) [{', '.join(f'{b.mean():.3f}' for b in best)}]"
    else:
        yield ""
    each = ", ".join(f"{sum(won)}/{len(won)}" for won in wins)
    yield f"**{100 * sum(pooled) / len(pooled):.0f} %** ({100 * low:.0f}-{100 * high:.0f}) [{each}]"
    times = [t["inference_ms"] for run in runs for t in run["trials"] if t["inference_ms"] is not None]
    yield f"{np.median(times):.0f}" if times else ""
    yield PUBLISHED.get(f"{first['task']}/{first['policy']}", "")


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


if __name__ == "__main__":
    main(tyro.cli(Config))
