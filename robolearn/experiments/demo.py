"""The main job, end to end: teleop logs, offline policy, evaluation, safe fine-tuning, evaluation, report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

import configs
from hardware import RobotConfig
from robolearn.experiments import evaluate, finetune, report, teleop, train

DEFAULT = Path(configs.__file__).parent / "demo/lift.yaml"  # what `robolearn demo` runs when no file is named


@dataclass(frozen=True)
class Config:
    """Every stage with its own options (--train.minutes 3, --finetune.episodes 40); robot, seed and folders are set here for all."""

    train: train.Config
    out: Path = Path("runs/demo")
    """Folder of all stages; each writes its own artefacts there, and the same command resumes."""
    robot: RobotConfig = RobotConfig(body="robosuite:Lift")
    seed: int = 0
    """Of recording, training and fine-tuning. Evaluation keeps its own seeds, which nothing is trained on."""
    teleop: teleop.Config = teleop.Config()
    evaluate: evaluate.Config = evaluate.Config()
    finetune: finetune.Config = finetune.Config()
    overwrite: bool = False
    """Begin anew, whatever is in `out`: it is discarded."""


def run(config: Config) -> Path:
    """Run what is not finished yet, in order, and return the report's path."""
    out, console = config.out, Console(stderr=True)
    data, policy, planner = out / "teleop/dataset.zarr", out / "train/policy.pt", out / "finetune/planner.pt"
    shared: dict[str, Any] = {"overwrite": config.overwrite}
    flown = shared | {"robot": config.robot}
    before = replace(config.evaluate, checkpoint=policy, out=out / "evaluate_before", **flown)
    # Evaluated as it collected: a plan is followed for as many actions as during fine-tuning.
    after = replace(before, checkpoint=planner, out=out / "evaluate_after", chunk=config.finetune.chunk)
    stages: list[tuple[str, Callable[[], Any]]] = [
        ("teleop", lambda: teleop.run(replace(config.teleop, out=out / "teleop", seed=config.seed, **flown))),
        ("train", lambda: train.run(replace(config.train, data=data, out=out / "train", seed=config.seed, **shared))),
        ("evaluate", lambda: evaluate.run(before)),
        (
            "finetune",
            lambda: finetune.run(replace(config.finetune, checkpoint=policy, data=data, out=out / "finetune", seed=config.seed, **flown)),
        ),
        ("evaluate again", lambda: evaluate.run(after)),
    ]
    began = time.monotonic()
    for number, (name, stage) in enumerate(stages, start=1):
        console.rule(f"{number}/{len(stages) + 1}  {name}", align="left")
        started = time.monotonic()
        stage()
        console.print(f"{name}: {time.monotonic() - started:.0f} s", highlight=False)
    console.rule(f"{len(stages) + 1}/{len(stages) + 1}  report", align="left")
    page = report.run(report.Config(run=out))
    console.print(f"all stages: {time.monotonic() - began:.0f} s", highlight=False)
    print(f"report: {page.resolve()}")
    return page
