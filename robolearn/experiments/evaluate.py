"""Measure a policy's success rate on fresh starts, with an interval, and film some of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import hardware
from hardware import RobotConfig
from hardware.types import RobotSpec, Source
from robolearn.core.checkpoint import digest_of, load_policy, read_header
from robolearn.core.errors import UserError, require_at_least
from robolearn.core.files import write_atomic
from robolearn.core.run import Run
from robolearn.core.types import Obs, Policy
from robolearn.data.episode import Episode
from robolearn.data.windows import restrict
from robolearn.evaluation.evaluate import Evaluation, Trial, evaluate
from robolearn.experiments.goals import check_goal, goal_obs
from robolearn.models.precision import Precision
from robolearn.runtime.policy_pilot import PolicyPilot
from robolearn.tasks import task_for


@dataclass(frozen=True)
class Config:
    """Fly a checkpoint `trials` times. Two checkpoints evaluated with the same seed meet the same starts."""

    checkpoint: Path = Path("runs/demo/train/policy.pt")
    """A policy (robolearn train) or an agent (robolearn finetune)."""
    out: Path = Path("runs/demo/evaluate_before")
    """Artefact folder: evaluation.json, trials.jsonl, videos/."""
    robot: RobotConfig = RobotConfig(body="robosuite:Lift")
    trials: int = 20
    """Episodes to fly."""
    seed: int = 1000
    """Start of trial i: [seed, i]. Keep it apart from the seeds of training."""
    chunk: int = 8
    """Actions executed per inference; at most the policy's horizon."""
    ensemble: float | None = None
    """Temporal ensembling (ACT): infer at every step, whatever `chunk`, and average what all answers say about now, weighted
    exp(-ensemble * i), i = 0 the oldest answer; the paper has 0.01. None: off."""
    prefix: int = 0
    """Infer this many actions before the chunk runs out and tell the policy which they are, as on a robot that does not wait for the
    answer. At most what the policy was trained for."""
    goal: str = ""
    """What to reach, for a policy that is told: an instruction, an image file, or STORE#EPISODE, whose last row is meant."""
    target: float | None = None
    """The rewards wanted of an episode, for a policy that is told them; None: the best it was trained on."""
    precision: Precision = "float32"
    """Of the policy's answers; bfloat16: quicker where the processor has it; auto: then only. docs/results.md says what it costs."""
    videos: int = 4
    """Film the first this many trials."""
    device: str = "cpu"
    """Where the policy runs: cpu, cuda, cuda:0, mps."""
    threads: int = 1
    """torch CPU threads. One observation at a time gains little from more, and on a busy machine loses twentyfold."""
    overwrite: bool = False
    """Begin anew, whatever is in `out`: it is discarded."""


def run(config: Config) -> Evaluation:
    """Raises UserError: checkpoint absent, made for another robot, chunk longer than its horizon."""
    _check(config)
    console = Console(stderr=True, soft_wrap=True)
    folder = Run(config.out, config, config.overwrite)
    check_fits(config.checkpoint, hardware.spec_of(config.robot))
    check_goal(config.checkpoint, config.goal)
    digest = digest_of(config.checkpoint)
    if folder.finished() and (there := read_evaluation(config.out / "evaluation.json").per_trial[0].flown_by) != digest:
        raise UserError(f"{config.out}: evaluated {config.checkpoint} when it was {there}, now it is {digest}; --overwrite discards that")
    if not folder.finished():
        torch.set_num_threads(config.threads)
        policy = load_policy(config.checkpoint, device=config.device)
        goal = goal_obs(config.goal, policy)
        with folder:
            _fly(config, policy, goal, digest, folder, console)
    result = read_evaluation(config.out / "evaluation.json")
    low, high = (100 * edge for edge in result.interval)
    console.print(
        f"{config.out}: {result.successes}/{result.trials} = {100 * result.rate:.0f} % success "
        f"(95 % interval {low:.0f} to {high:.0f} %), mean best reward {result.mean_max_reward:.3f}"
    )
    return result


def _check(config: Config) -> None:
    require_at_least("trials", config.trials, 1, "episodes")
    require_at_least("threads", config.threads, 1, "CPU threads")
    try:
        torch.empty(0, device=config.device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device: {config.device!r} is not here ({str(error).splitlines()[0]}); valid: cpu, cuda, cuda:0, mps") from error


def check_fits(checkpoint: Path, robot: RobotSpec) -> None:
    """UserError with every difference between the robot a checkpoint was made for and this one.

    A policy may look at some of the robot's cameras and states only; those must match.
    """
    require_fits(str(checkpoint), read_header(checkpoint).spec, robot)


def require_fits(checkpoint: str, wanted: RobotSpec, robot: RobotSpec) -> None:
    """The same where the robot that it was made for is known already."""
    try:
        offered = restrict(robot, list(wanted.cameras), list(wanted.state))
    except UserError:
        offered = robot
    if differences := wanted.diff(offered):
        raise UserError(f"{checkpoint}: made for another robot (checkpoint != {robot.name}): {'; '.join(differences)}")


def read_evaluation(path: Path) -> Evaluation:
    data = json.loads(path.read_text(encoding="utf-8"))
    pairs = {name: tuple(data[name]) for name in ("interval", "return_interval", "max_reward_interval")}
    return Evaluation(**{**data, **pairs, "per_trial": [Trial(**trial) for trial in data["per_trial"]]})


def _fly(config: Config, policy: Policy, goal: Obs | None, digest: str, folder: Run, console: Console) -> None:
    if config.ensemble is None and not 1 <= config.chunk <= policy.horizon:
        raise UserError(f"chunk: {config.chunk} actions; {config.checkpoint} predicts {policy.horizon}: valid 1 to {policy.horizon}")
    from robolearn.agents.agent import Agent  # only now: --help needs no models

    plans = isinstance(policy, Agent) and policy.config.planner is not None
    try:
        pilot = PolicyPilot(
            policy,
            config.chunk,
            config.seed,
            Source.PLANNER if plans else Source.POLICY,
            ensemble=config.ensemble,
            prefix=config.prefix,
            goal=goal,
            target=config.target,
            precision=config.precision,
        )
    except ValueError as error:
        raise UserError(f"{config.checkpoint}: {error}") from error
    task = task_for(config.robot.body)
    columns = (
        TextColumn(f"evaluate {task.name}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
    )
    with hardware.open(config.robot) as robot, Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=config.trials, rate="")
        won: list[bool] = []

        def on_trial(trial: Trial, episode: Episode | None) -> None:
            won.append(trial.success)
            progress.update(bar, completed=len(won), rate=f"{100 * sum(won) / len(won):.0f} % success")
            if episode is not None:
                folder.log(kind="trial", trial=trial.index, success=trial.success, total_reward=trial.total_reward, length=trial.length)

        result = evaluate(robot, pilot, task, config.trials, config.seed, config.videos, config.out, digest, on_trial)
    write_atomic(config.out / "evaluation.json", (json.dumps(result.to_dict(), indent=2) + "\n").encode())
    folder.finish(
        successes=result.successes,
        trials=result.trials,
        success=result.rate,
        interval=result.interval,
        checkpoint=config.checkpoint,
        interventions=result.interventions,
    )
