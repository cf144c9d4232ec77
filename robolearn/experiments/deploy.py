"""Fly a policy on a robot, a person watching: every episode recorded, judged by their word, counted with an interval."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.live import Live

import hardware
from hardware import RobotConfig
from hardware.robot import SafeRobot
from robolearn.core.checkpoint import digest_of, load_policy
from robolearn.core.errors import UserError, require_at_least
from robolearn.core.run import Run, read_metrics, require_free
from robolearn.core.types import Policy
from robolearn.data.store import EpisodeStore
from robolearn.evaluation.evaluate import reseed
from robolearn.evaluation.statistics import success_interval
from robolearn.experiments.attendance import Attendance, require_asked, require_terminal
from robolearn.experiments.deploy_view import DeployView
from robolearn.experiments.devices import BrowserConfig, Device, Devices, LeaderConfig
from robolearn.experiments.evaluate import check_fits, require_fits
from robolearn.experiments.goals import check_goal, goal_obs, require_goal
from robolearn.models.precision import Precision
from robolearn.runtime.async_pilot import AsyncPilot
from robolearn.runtime.policy_pilot import PolicyPilot
from robolearn.runtime.remote_policy import RemotePolicy
from robolearn.runtime.rollout import last_of, rollout
from robolearn.tasks import Task, task_for

_MIB_PER_EPISODE = 16.0


@dataclass(frozen=True)
class Config:
    """Run a checkpoint on a robot. Space stops it; s, f, r, q end an episode (success, failure, redo, quit). With `takeover` a person may
    take the robot from the policy at any moment, and give it back."""

    checkpoint: Path = Path("runs/demo/train/policy.pt")
    """A policy (robolearn train) or an agent (robolearn finetune), or tcp://HOST:PORT where `robolearn serve` has one."""
    out: Path = Path("runs/deploy")
    """Artefact folder: dataset.zarr with every episode flown, metrics.jsonl."""
    robot: RobotConfig = RobotConfig(body="robosuite:Lift")
    """a real arm: --robot.body ur5e --robot.arm.address 192.168.1.10, or a file of configs/robots"""
    episodes: int = 10
    seconds: float | None = None
    """Time limit of an episode [s]; none: the task's own, on a real arm 60."""
    instruction: str = ""
    """What is to be done, in words; stored with every episode. Empty: the task's own."""
    asynchronous: bool = True
    """Think while the robot moves; what comes too late of an answer is dropped. Off: the arm holds while the policy thinks. It is off in a
    simulator, whose time stands still meanwhile, and for a policy that answers with a single action."""
    chunk: int | None = None
    """Actions executed per inference; at most the policy's horizon. None: 8, or as many as the policy predicts."""
    ensemble: float | None = None
    """Temporal ensembling (ACT): the mean of all answers about now, weighted exp(-ensemble * i), i = 0 the oldest. None: off."""
    prefix: int = 0
    """Tell the policy how many actions will be flown before its answer comes. At most what it was trained for."""
    goal: str = ""
    """What to reach, for a policy that is told: an instruction, an image file, or STORE#EPISODE, whose last row is meant."""
    precision: Precision = "auto"
    """Of the policy's answers; auto: bfloat16 where the processor is quicker at it. Where it is served, its server's."""
    takeover: Device | None = None
    """With what: while its clutch is held (gamepad: left shoulder; leader: c; browser: a finger), or while it is moved and half a second
    longer (keyboard, spacemouse), the person flies, from where the robot is. Let go of, the policy thinks anew."""
    leader: LeaderConfig = LeaderConfig()
    browser: BrowserConfig = BrowserConfig()
    confirm: bool = True
    """On a real robot: wait for Enter before each episode, which begins by driving home. --no-confirm: it does, unasked."""
    seed: int = 0
    """Of the policy's own noise; in a simulator also of the starts."""
    view_port: int | None = 8642
    """Show the cameras, rates and counts at http://127.0.0.1:PORT; 0: any free port, None: no view."""
    device: str = "cpu"
    """Where the policy runs: cpu, cuda, cuda:0, mps. Where it is served, its server's."""
    threads: int = 1
    """torch CPU threads."""
    overwrite: bool = False
    """Discard what another config left in `out`."""
    server_key: Path | None = None
    """Of a policy that is served: the client.key that its server made."""


def run(config: Config) -> None:
    """Raises UserError: checkpoint absent or made for another robot; HardwareError: the robot is not there or not ready."""
    console = Console(stderr=True, soft_wrap=True)
    require_at_least("episodes", config.episodes, 1, "episodes")
    if config.seconds is not None and not 0 < config.seconds <= 3600:
        raise UserError(f"seconds: {config.seconds} s; valid: above 0, up to 3600")
    require_terminal(config.takeover)
    require_asked(config.robot.body, config.confirm)
    folder = Run(config.out, config, config.overwrite, grows="episodes")
    task = _task(config)
    with ExitStack() as stack:
        remote = _remote(config, stack, console)
        if remote is None:
            check_fits(config.checkpoint, hardware.spec_of(config.robot))
            check_goal(config.checkpoint, config.goal)
        else:
            require_fits(remote.address, remote.spec, hardware.spec_of(config.robot))
            require_goal(remote.address, remote.goal, config.goal)
        if folder.finished():
            console.print(f"{config.out}: already complete")
            return
        torch.set_num_threads(config.threads)
        digest = digest_of(config.checkpoint) if remote is None else remote.digest
        pilot = _pilot(config, load_policy(config.checkpoint, device=config.device) if remote is None else remote, stack)
        robot = stack.enter_context(hardware.open(config.robot))
        attendance = Attendance(robot, config.takeover, Devices(config.leader, config.browser), config.view_port, console, stack)
        stack.enter_context(folder)
        require_free(config.out, _MIB_PER_EPISODE)
        store = stack.enter_context(_store(config, robot, task))
        won = _fly(config, attendance, pilot, task, store, folder, console, digest)
        if len(won) >= config.episodes:
            folder.finish(episodes=len(won), successes=sum(won))
    low, high = (100 * edge for edge in success_interval(sum(won), len(won))) if won else (0.0, 100.0)
    console.print(f"{store.url}: {sum(won)}/{len(won)} successful (95 % interval {low:.0f} to {high:.0f} %)")


def _remote(config: Config, stack: ExitStack, console: Console) -> RemotePolicy | None:
    """The policy, where it is served. Raises UserError for options that are its server's, HardwareError where nobody answers."""
    address = re.sub("^tcp:/+", "tcp://", str(config.checkpoint))  # a Path has but one of the slashes
    if not address.startswith("tcp://"):
        if config.server_key is not None:
            raise UserError(f"server_key: given, but {config.checkpoint} is a file; valid with a checkpoint such as tcp://gpu:5555")
        return None
    if config.server_key is None:
        raise UserError(f"server_key: missing; expected the client.key that the server at {address} made")
    if config.precision != "auto" or config.device != "cpu":
        raise UserError(f"precision, device: are of the server at {address}: robolearn serve --device cuda --precision float32")
    policy = RemotePolicy(address, config.server_key, console.print)
    stack.callback(policy.close)
    return policy


def _fly(
    config: Config, attendance: Attendance, pilot: PolicyPilot, task: Task, store: EpisodeStore, folder: Run, console: Console, digest: str
) -> list[bool]:
    """Episodes until there are enough, or the person has had enough; whether each succeeded."""
    won = [bool(row["success"]) for row in read_metrics(config.out / "metrics.jsonl") if row["kind"] == "episode"]
    robot, watched = attendance.robot, attendance.around(pilot)
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        while (index := len(won)) < config.episodes:
            display = DeployView(robot, index, config.episodes, won, live.update, attendance.view)
            if not attendance.begins(config.confirm):
                break
            with store.record() as recording:  # discarded unless it is finished
                reseed(watched, config.seed, index)
                episode = rollout(robot, watched, task, np.random.default_rng([config.seed, index]), display.on_step, recording)
                if episode.meta["verdict"] == "quit":
                    break
                if episode.meta["verdict"] == "discard":
                    continue
                facts = {"operator": "policy", "checkpoint": digest, "calibration": robot.calibration, "instruction": task.instruction}
                meta = {**episode.meta, **facts, **display.facts()}
                recording.finish(meta, last_of(episode))
            won.append(bool(episode.success))
            row = {name: meta[name] for name in ("success", "length", "interventions", "stopped", "inference_ms", "late_rows", "takeovers")}
            folder.log(kind="episode", episode=index, **row)
    return won


def _task(config: Config) -> Task:
    task = task_for(config.robot.body)
    return Task(task.name, config.instruction or task.instruction, config.seconds or task.time_limit_s)


def _pilot(config: Config, policy: Policy, stack: ExitStack) -> PolicyPilot:
    """UserError for a chunk, a prefix or a goal that the policy cannot have."""
    options = {"ensemble": config.ensemble, "prefix": config.prefix, "goal": goal_obs(config.goal, policy), "precision": config.precision}
    chunk = min(8, policy.horizon - config.prefix) if config.chunk is None else config.chunk
    # A single action, thought of beside the robot, would always come too late for the moment it is meant for.
    beside = config.asynchronous and hardware.in_real_time(config.robot.body) and policy.horizon > 1
    try:
        pilot = (AsyncPilot if beside else PolicyPilot)(policy, chunk, config.seed, **options)
    except ValueError as error:
        raise UserError(str(error)) from error
    stack.callback(pilot.close)
    return pilot


def _store(config: Config, robot: SafeRobot, task: Task) -> EpisodeStore:
    path = config.out / "dataset.zarr"
    if not path.exists():
        return EpisodeStore.create(path, robot.spec, {"made_by": "robolearn deploy", "operator": "policy", "task": task.name})
    return EpisodeStore.open(path, "a")
