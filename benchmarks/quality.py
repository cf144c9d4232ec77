"""What speed costs: the same trained policies with fewer sampler steps, another sampler, lower precision, and their one-step student.

    python benchmarks/policies.py --out runs/bench_policies --only pusht_state/diffusion --seeds 0
    python benchmarks/policies.py --out runs/bench_policies --only pusht_state/flow --seeds 0
    python benchmarks/quality.py --out runs/bench_policies                    # trains the student, flies every variant from the same starts

Push-T, human data, block pose known; 100 starts drawn from [100000, i].
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from policies import Config as Flight
from policies import fly

from robolearn.core.checkpoint import load_policy, read_header
from robolearn.core.config import load_config
from robolearn.core.files import write_atomic
from robolearn.core.types import Policy
from robolearn.evaluation.statistics import mean_interval, success_interval
from robolearn.experiments import train
from robolearn.models.precision import Precision


@dataclass(frozen=True)
class Variant:
    """A checkpoint, what of its config is changed to act, and the precision of that."""

    name: str
    trained: str
    changes: dict[str, Any]
    precision: Precision = "float32"


VARIANTS = (
    Variant("DDPM, 100 steps", "diffusion", {"sampler": "ddpm", "sample_steps": 100}),
    Variant("DDPM, 16 (as configured)", "diffusion", {}),
    Variant("DDPM, 16, bfloat16", "diffusion", {}, "bfloat16"),
    Variant("DDIM, 16", "diffusion", {"sampler": "ddim"}),
    Variant("DDIM, 8", "diffusion", {"sampler": "ddim", "sample_steps": 8}),
    Variant("DDIM, 4", "diffusion", {"sampler": "ddim", "sample_steps": 4}),
    Variant("DDIM, 2", "diffusion", {"sampler": "ddim", "sample_steps": 2}),
    Variant("DPM-Solver++, 8", "diffusion", {"sampler": "dpm", "sample_steps": 8}),
    Variant("DPM-Solver++, 4", "diffusion", {"sampler": "dpm", "sample_steps": 4}),
    Variant("flow, 10 (the default)", "flow", {}),
    Variant("flow, 4", "flow", {"sample_steps": 4}),
    Variant("flow, 1", "flow", {"sample_steps": 1}),
    Variant("one-step student of the flow", "consistency", {}),
    Variant("the same, bfloat16", "consistency", {}, "bfloat16"),
)


@dataclass(frozen=True)
class Config:
    data: Path = Path("runs/pusht.zarr")
    out: Path = Path("runs/bench_policies")
    """Where policies.py left pusht_state_diffusion_SEED and pusht_state_flow_SEED."""
    seed: int = 0
    trials: int = 100
    threads: int = 2
    only: str = ""
    """A part of the names of variants."""


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    flight = Flight(threads=config.threads)
    print(f"\n| variant | success (95 %) of {config.trials} | mean max coverage (95 %) | ms per chunk, {config.threads} threads |")
    print("|---|---|---|---|")
    for variant in VARIANTS:
        if config.only not in variant.name:
            continue
        folder = config.out / f"pusht_state_{variant.trained}_{config.seed}"
        if variant.trained == "consistency":
            student(config, folder)
        name = "".join(letter if letter.isalnum() else "_" for letter in variant.name)
        result = folder / f"quality_{name}_{config.trials}.json"
        if not result.exists():
            found = fly(changed(folder / "policy.pt", variant), "pusht:state", config.trials, flight, precision=variant.precision)
            write_atomic(result, json.dumps(found).encode())
        found = json.loads(result.read_text())
        won, coverage = [trial["success"] for trial in found["trials"]], np.array(found["coverage"])
        low, high = success_interval(sum(won), len(won))
        edges = mean_interval(coverage)
        ms = np.median([trial["inference_ms"] for trial in found["trials"]])
        print(
            f"| {variant.name} | **{100 * sum(won) / len(won):.0f} %** ({100 * low:.0f}-{100 * high:.0f}) "
            f"| {coverage.mean():.3f} ({edges[0]:.3f}-{edges[1]:.3f}) | {ms:.1f} |",
            flush=True,
        )


def changed(path: Path, variant: Variant) -> Policy:
    """The trained weights under another config."""
    header, trained = read_header(path), load_policy(path)
    policy = replace(header.config, **variant.changes).build(header.spec)  # type: ignore[type-var] policies' configs are dataclasses
    policy.load_state_dict(trained.state_dict())
    return policy.eval()


def student(config: Config, folder: Path) -> None:
    """Train it, or find that it was."""
    settings = load_config(Path("configs/train/pusht_state_consistency.yaml"), train.Config)
    policy = replace(settings.policy, teacher=config.out / f"pusht_state_flow_{config.seed}" / "policy.pt")  # type: ignore[call-arg]
    train.run(replace(settings, data=config.data, out=folder, policy=policy, seed=config.seed, threads=config.threads))


if __name__ == "__main__":
    main(tyro.cli(Config))
