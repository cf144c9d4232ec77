"""Success rate, measured honestly: fresh starts that depend only on the seed, every trial kept, an interval beside every rate."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hardware.robot import SafeRobot
from hardware.types import Pilot
from robolearn.core.errors import UserError
from robolearn.core.files import append_line
from robolearn.data.episode import Episode
from robolearn.evaluation.statistics import mean_interval, success_interval
from robolearn.evaluation.video import write_video
from robolearn.runtime.rollout import rollout
from robolearn.tasks import Task


@dataclass(frozen=True)
class Trial:
    """One episode of an evaluation. Its start depends on `seed` and `index` alone, so two policies meet the same ones."""

    seed: int
    index: int
    success: bool
    success_step: int | None
    length: int
    total_reward: float
    max_reward: float
    interventions: dict[str, int]
    stopped: str | None
    wall_s: float
    sim_s: float
    inference_ms: float | None  # mean over the decisions that ran the policy
    flown_by: str  # who the pilot was: a checkpoint's digest


@dataclass(frozen=True)
class Evaluation:
    """What `trials` trials showed. interval: 95 %, Wilson, of the success rate."""

    successes: int
    trials: int
    interval: tuple[float, float]
    mean_return: float
    return_interval: tuple[float, float]
    mean_max_reward: float
    max_reward_interval: tuple[float, float]
    interventions: dict[str, int]
    seconds: float  # wall time of all trials
    per_trial: list[Trial] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.successes / self.trials

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def of(trials: list[Trial]) -> Evaluation:
        returns, best = [t.total_reward for t in trials], [t.max_reward for t in trials]
        interventions: dict[str, int] = {}
        for reason, count in ((r, c) for t in trials for r, c in t.interventions.items()):
            interventions[reason] = interventions.get(reason, 0) + count
        successes = sum(t.success for t in trials)
        return Evaluation(
            successes=successes,
            trials=len(trials),
            interval=success_interval(successes, len(trials)),
            mean_return=float(np.mean(returns)),
            return_interval=mean_interval(returns),
            mean_max_reward=float(np.mean(best)),
            max_reward_interval=mean_interval(best),
            interventions=interventions,
            seconds=sum(t.wall_s for t in trials),
            per_trial=trials,
        )


def evaluate(
    robot: SafeRobot,
    pilot: Pilot,
    task: Task,
    trials: int,
    seed: int,
    videos: int = 0,
    out: Path | None = None,
    flown_by: str = "",
    on_episode: Callable[[Trial, Episode | None], None] | None = None,
) -> Evaluation:
    """Fly `trials` episodes; trial i starts from np.random.default_rng([seed, i]).

    A pilot with `seed(int)` is reseeded for each trial. out: folder for trials.jsonl and the first `videos` episodes as
    videos/trial_000.mp4; trials found there are not flown again, so an interrupted evaluation continues. flown_by: who the
    pilot is, such as a checkpoint's digest; UserError where the trials found are someone else's. on_episode: called with
    each trial and its episode, None for one found there.
    """
    if trials < 1:
        raise UserError(f"evaluate: trials is {trials}; expected at least 1")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    done = read_trials(out / "trials.jsonl", seed, flown_by) if out is not None else []
    if on_episode is not None:
        for trial in done[:trials]:
            on_episode(trial, None)
    for index in range(len(done), trials):
        reseed(pilot, seed, index)
        episode = rollout(robot, pilot, task, np.random.default_rng([seed, index]))
        trial = _trial(episode, robot.spec.rate_hz, seed, index, flown_by)
        if out is not None:
            if index < videos and episode.images:
                write_video(episode, out / "videos" / f"trial_{index:03d}.mp4", robot.spec.rate_hz)
            append_line(out / "trials.jsonl", json.dumps(asdict(trial)))
        done.append(trial)
        if on_episode is not None:
            on_episode(trial, episode)
    return Evaluation.of(done[:trials])


def reseed(pilot: Pilot, seed: int, index: int) -> None:
    """Give a pilot that draws random numbers the ones of episode `index`, whatever was flown before."""
    if hasattr(pilot, "seed"):
        pilot.seed(int(np.random.SeedSequence([seed, index]).generate_state(1)[0]))  # pyright: ignore[reportAttributeAccessIssue]


def read_trials(path: Path, seed: int, flown_by: str = "") -> list[Trial]:
    """The whole trials in a file; a last line cut short by a crash is removed."""
    if not path.exists():
        return []
    trials, whole = [], 0
    data = path.read_bytes()
    for line in data.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        trials.append(Trial(**json.loads(line)))
        whole += len(line)
    if whole < len(data):
        os.truncate(path, whole)
    for index, trial in enumerate(trials):
        if (trial.seed, trial.index) != (seed, index):
            raise UserError(f"{path}: line {index + 1}: trial {trial.index} of seed {trial.seed}; expected trial {index} of seed {seed}")
        if trial.flown_by != flown_by:
            raise UserError(f"{path}: line {index + 1}: flown by {trial.flown_by!r}; expected {flown_by!r}")
    return trials


def _trial(episode: Episode, rate_hz: float, seed: int, index: int, flown_by: str) -> Trial:
    meta = episode.meta
    inference = episode.notes.get("inference_ms")
    planned = episode.notes.get("chunk_position")
    ran = None if inference is None else inference[planned == 0] if planned is not None else inference
    return Trial(
        seed=seed,
        index=index,
        success=bool(episode.success),
        success_step=meta["success_step"],
        length=len(episode),
        total_reward=meta["return"],
        max_reward=meta["max_reward"],
        interventions=meta["interventions"],
        stopped=meta["stopped"],
        wall_s=meta["wall_s"],
        sim_s=len(episode) / rate_hz,
        inference_ms=None if ran is None else float(np.nanmean(ran)),
        flown_by=flown_by,
    )
