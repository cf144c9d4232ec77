"""What the contestants of inference.py and training.py share: told what to do a line at a time, each answers with one line of JSON.

    echo "plan 5" | PYTHON benchmarks/peers/SCRIPT.py --data FOLDER --variant '{"widths": [64, 128, 256], ...}'

"plan n": n chunks of actions from an observation, each timed; "update n": n optimizer steps on one batch. The fields of `Setup` are what
both sides must agree on. Random weights, random pixels: nothing here depends on what was learned.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch


@dataclass(frozen=True)
class Setup:
    """One diffusion policy, in words that hold on both sides."""

    widths: tuple[int, ...] = (512, 1024, 2048)
    kernel: int = 5
    horizon: int = 16
    execute: int = 8
    history: int = 2
    cameras: tuple[str, ...] = ("front", "wrist")
    pixels: int = 84
    state: int = 9
    action: int = 7
    sampler: Literal["ddim", "ddpm"] = "ddim"
    sample_steps: int = 10
    train_steps: int = 100
    batch: int = 64
    precision: Literal["float32", "bfloat16"] = "float32"  # of both; bfloat16: autocast
    device: str = "cpu"
    threads: int = 2

    @staticmethod
    def parse(text: str) -> Setup:
        said: dict[str, Any] = json.loads(text)
        said.update({name: tuple(said[name]) for name in ("widths", "cameras") if name in said})
        return Setup(**said)

    def dump(self) -> str:
        return json.dumps({f.name: getattr(self, f.name) for f in fields(self)})


class PolicyContestant(ABC):
    """A diffusion policy and its training. Imports what it needs in its constructor."""

    versions: dict[str, str]
    parameters: dict[str, int]  # part -> count

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        torch.set_num_threads(setup.threads)
        torch.manual_seed(0)

    @abstractmethod
    def plan(self) -> None:
        """One chunk of actions, from the newest observation."""

    @abstractmethod
    def update(self) -> None:
        """One optimizer step on `setup.batch` rows."""


def serve(make: Callable[[Setup], PolicyContestant]) -> None:
    """The main function of every contestant's script."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--data")
    parser.add_argument("--variant", required=True)
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    contestant = make(Setup.parse(args.variant))

    def answer(**found: Any) -> None:
        print(json.dumps(found), file=answers, flush=True)

    answer(versions=contestant.versions, parameters=contestant.parameters)
    for line in sys.stdin:
        kind, count = line.split()
        answer(kind=kind, seconds=timed(getattr(contestant, kind), int(float(count)), contestant.setup.device))
    answer(peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    answers.close()


def timed(call: Callable[[], None], count: int, device: str) -> list[float]:
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds


def count_parameters(**parts: torch.nn.Module) -> dict[str, int]:
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
