"""Which checkpoint is the product: rollouts choose, as the loss does not know the best policy (robomimic, Mandlekar et al., CoRL 2021).

The best of many checkpoints was also lucky. So the few best are flown again, and the one chosen a last time on starts that had no say
in the choice: only that number is an estimate of what the policy does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import hardware
from hardware import RobotConfig
from robolearn.core.errors import UserError, require_at_least
from robolearn.data.windows import restrict
from robolearn.evaluation.evaluate import Evaluation
from robolearn.evaluation.statistics import success_interval
from robolearn.experiments import evaluate
from robolearn.experiments.checkpoints import Checkpoints
from robolearn.policies.chunk import ChunkPolicy

ROUNDS = ("first", "runoff", "fresh")  # round k starts its trials from seed + k


@dataclass(frozen=True)
class SelectionConfig:
    """Rollouts during training. every: 0 leaves them out, and the last weights are the product."""

    every: int = 0
    """Updates between two checkpoints that are flown."""
    robot: RobotConfig = RobotConfig()
    trials: int = 20
    """Rollouts of each."""
    top: int = 3
    """How many of the best, by success rate and then by mean best reward, are flown again before one is chosen."""
    final_trials: int = 50
    """Rollouts of each of these, and then of the one chosen, on fresh starts."""
    seed: int = 500_000
    """Starts of the first round; the next two take seed + 1 and seed + 2. Keep them apart from those of evaluations."""
    chunk: int = 8
    """Actions executed per inference."""
    ensemble: float | None = None
    """Temporal ensembling, as in robolearn evaluate."""
    prefix: int = 0
    """Actions that are already on their way, as in robolearn evaluate."""
    goal: str = ""
    """What to reach, for a policy that is told, as in robolearn evaluate."""
    target: float | None = None
    """The rewards wanted of an episode, for a policy that is told them, as in robolearn evaluate."""


def check(config: SelectionConfig, policy: ChunkPolicy) -> None:
    """UserError for what would fail only after hours of training."""
    for name, value in (("trials", config.trials), ("top", config.top), ("final_trials", config.final_trials)):
        require_at_least(f"select.{name}", value, 1, "rollouts" if "trials" in name else "checkpoints")
    if policy.learns_by == "memory":
        raise UserError(f"select.every: {config.every}; a policy that learns by memory has nothing to select from, leave it out")
    if config.ensemble is None and not 1 <= config.chunk <= policy.horizon:
        raise UserError(f"select.chunk: {config.chunk} actions; the policy predicts {policy.horizon}: valid 1 to {policy.horizon}")
    if (policy.config.goal == "none") != (config.goal == ""):
        raise UserError(f"select.goal: {config.goal!r}; policy.goal is {policy.config.goal}")
    robot = hardware.spec_of(config.robot)
    try:
        offered = restrict(robot, list(policy.spec.cameras), list(policy.spec.state))
    except UserError:
        offered = robot
    if differences := policy.spec.diff(offered):
        raise UserError(f"select.robot: not the robot of the data (data != {config.robot.body}): {'; '.join(differences)}")


class Selection:
    """Flies checkpoints and remembers how each did, in `folder`. Killed, it goes on with the next trial."""

    def __init__(self, config: SelectionConfig, folder: Path, checkpoints: Checkpoints, device: torch.device):
        self.config, self.folder, self.checkpoints, self.device = config, folder, checkpoints, device

    def missing(self) -> list[int]:
        """Checkpoints whose first round is still to be flown."""
        done = {row["step"] for row in self.checkpoints.scores()}
        return [step for step in self.checkpoints.steps() if step not in done]

    def fly(self, step: int) -> Evaluation:
        """The first round of one checkpoint."""
        result = self._evaluate(step, 0)
        self.checkpoints.score(step, result.rate, result.mean_max_reward, successes=result.successes, trials=result.trials)
        return result

    def finish(self) -> tuple[int, dict[str, Any]]:
        """The chosen step, and what every round showed."""
        best = self.checkpoints.best(self.config.top)
        candidates = [{**row, "rounds": {"first": _facts(row["successes"], row["trials"])}} for row in best]
        if len(candidates) > 1:
            for row in candidates:
                again = self._evaluate(row["step"], 1)
                row["rounds"]["runoff"] = _facts(again.successes, again.trials)
                trials = row["trials"] + again.trials
                reward = (row["score"][1] * row["trials"] + again.mean_max_reward * again.trials) / trials
                row["score"] = [(row["successes"] + again.successes) / trials, reward]
        winner = max(candidates, key=lambda row: (row["score"], row["step"]))
        fresh = self._evaluate(winner["step"], 2)
        return winner["step"], {
            "step": winner["step"],
            "flown": len(self.checkpoints.scores()),
            "fresh": _facts(fresh.successes, fresh.trials) | {"mean_max_reward": fresh.mean_max_reward},
            "biased": winner["rounds"],  # by these it was chosen: they are too high
            "candidates": [row["step"] for row in candidates],
        }

    def _evaluate(self, step: int, number: int) -> Evaluation:
        config, threads = self.config, torch.get_num_threads()
        flight = evaluate.Config(
            checkpoint=self.checkpoints.path(step),
            out=self.folder / ROUNDS[number] / f"step_{step:06d}",
            robot=config.robot,
            trials=config.trials if number == 0 else config.final_trials,
            seed=config.seed + number,
            chunk=config.chunk,
            ensemble=config.ensemble,
            prefix=config.prefix,
            goal=config.goal,
            target=config.target,
            videos=0,
            device=str(self.device),
        )
        # A policy that is loaded first draws initial weights: not from the stream that dropout draws from.
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            try:
                return evaluate.run(flight)
            finally:
                torch.set_num_threads(threads)


def sentence(facts: dict[str, Any]) -> str:
    """How the product was chosen, for `choice`."""
    fresh, first = facts["fresh"], facts["biased"]["first"]
    low, high = (100 * edge for edge in fresh["interval"])
    runoff = f", then of {len(facts['candidates'])} in a runoff" if "runoff" in facts["biased"] else ""
    return (
        f"step {facts['step']}, the best of {facts['flown']} checkpoints in rollouts{runoff}; on fresh starts "
        f"{fresh['successes']}/{fresh['trials']} (95 % interval {low:.0f} to {high:.0f} %); the {first['successes']}/{first['trials']} "
        "of the selection is biased upwards"
    )


def _facts(successes: int, trials: int) -> dict[str, Any]:
    return {"successes": successes, "trials": trials, "interval": list(success_interval(successes, trials))}
