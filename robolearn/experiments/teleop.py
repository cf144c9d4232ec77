"""Drive a robot and record every finished episode straight into a store."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import hardware
from hardware import RobotConfig
from hardware.robot import SafeRobot
from hardware.teleop.keys import Keys, NoKeys
from hardware.teleop.operator import EPISODE_KEYS
from hardware.types import Pilot
from robolearn.core.errors import UserError
from robolearn.core.run import Run, require_free
from robolearn.data.store import EpisodeStore
from robolearn.evaluation.video import write_video
from robolearn.experiments.attendance import WayHome, require_asked
from robolearn.experiments.devices import BrowserConfig, Device, Devices, LeaderConfig
from robolearn.runtime.attended import Attended
from robolearn.runtime.rollout import Step, last_of, rollout
from robolearn.tasks import MixedOperator, Task, operator_for, task_for

_MIB_PER_EPISODE = 4.0  # frames compress about 5:1; a run that cannot end should not start


@dataclass(frozen=True)
class Config:
    """Record demonstrations. A person ends an episode with s (success), f (failure), r (redo), q (quit)."""

    out: Path = Path("runs/demo/teleop")
    """Artefact folder: dataset.zarr, metrics.jsonl, videos/."""
    robot: RobotConfig = RobotConfig(body="robosuite:Lift")
    pilot: Literal["scripted", "mixed"] | Device = "scripted"
    """Who drives. scripted: a program that sees the simulator's state; files always call it that. mixed: the same program, of a skill
    drawn anew for each episode and stored with it (0 the clumsiest, 1 as scripted). A person's device holds the arm as soon as it is
    let go of: no key pressed, the cap at rest, the gamepad's left shoulder button or the leader's clutch released, no finger on the
    page."""
    episodes: int = 40
    """Episodes the store shall hold in the end."""
    seed: int = 0
    """Start (and scripted noise) of episode i: [seed, i]."""
    videos: int = 2
    """Film the first this many episodes."""
    leader: LeaderConfig = LeaderConfig()
    browser: BrowserConfig = BrowserConfig()
    view_port: int | None = 8642
    """Show a person the cameras at http://127.0.0.1:PORT; 0: any free port, None: no view."""
    confirm: bool = True
    """On a real arm: wait for Enter before each episode, which begins by driving home. --no-confirm: it does, unasked."""
    recover: bool = False
    """First append what is complete of recordings that were cut off (a crash, Ctrl-C, kill -9)."""
    overwrite: bool = False
    """Begin anew, whatever is in `out`: it is discarded."""


def run(config: Config) -> None:
    """Ctrl-C stops the robot first; finished episodes are on the disk by then and the same command goes on after them."""
    console = Console(stderr=True, soft_wrap=True)
    folder = Run(config.out, config, config.overwrite, grows="episodes")
    if folder.finished():
        console.print(f"{config.out}: already complete")
        return
    if config.episodes < 1:
        raise UserError(f"episodes: {config.episodes}; expected at least 1")
    require_asked(config.robot.body, config.confirm)
    task = task_for(config.robot.body)
    with ExitStack() as stack:
        robot = stack.enter_context(hardware.open(config.robot))
        way_home = WayHome(robot, config.confirm, console)
        pilot_for = _pilot_for(config, robot, way_home.keys, stack)
        stack.enter_context(folder)
        require_free(config.out, _MIB_PER_EPISODE * min(config.episodes, 8))
        store = stack.enter_context(_store(config, robot, task))
        _unfinished(config, robot, store, task, console)
        complete = _record(config, robot, pilot_for, way_home, task, store, folder, console)
        lengths, won = store.lengths, [store.meta(i).get("success") for i in range(len(store))]
        if complete:
            folder.finish(episodes=len(won), rows=int(lengths.sum()), successes=won.count(True), pilot=config.pilot, task=task.name)
    ending = "" if complete else "; quit before the end, the same command continues"
    console.print(f"{store.url}: {len(won)} {config.pilot} episodes, {won.count(True)} successful, {int(lengths.sum())} rows{ending}")


def _record(
    config: Config,
    robot: SafeRobot,
    pilot_for: Callable[[int], Pilot],
    way_home: WayHome,
    task: Task,
    store: EpisodeStore,
    folder: Run,
    console: Console,
) -> bool:
    """Fill the store up to `episodes`; False where the operator quit before."""
    who = TextColumn(f"teleop ({config.pilot})")
    columns = (who, BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=config.episodes, completed=len(store), state="")
        always = _always(config, robot, task)
        while (index := len(store)) < config.episodes:
            if not way_home.begins():
                return False
            progress.update(bar, state="driving home" if robot.world is None else "")

            def on_step(step: Step) -> None:
                way_home.arrived()
                if step.index % 5 == 0:
                    progress.update(bar, state=f"row {step.index}, reward {step.outcome.reward:.2f}")

            with store.record() as recording:  # discarded unless it is finished; kept if the loop fails
                pilot = pilot_for(index)
                episode = rollout(robot, pilot, task, np.random.default_rng([config.seed, index]), on_step, recording)
                if episode.meta["verdict"] == "quit":
                    return False
                if episode.meta["verdict"] == "discard":
                    progress.update(bar, state="discarded")
                    continue
                meta = {**episode.meta, **always, "seed": [config.seed, index]}
                if isinstance(pilot, MixedOperator):
                    meta["skill"] = pilot.skill
                recording.finish(meta, last_of(episode))
            row = {name: meta[name] for name in ("success", "return", "length", "interventions", "stopped")}
            folder.log(kind="episode", episode=index, **row)
            if index < config.videos and robot.spec.cameras:
                write_video(store[index], config.out / "videos" / f"episode_{index:03d}.mp4", robot.spec.rate_hz, config.pilot)
            progress.update(bar, completed=len(store), state="success" if episode.success else "failure")
    return True


def _store(config: Config, robot: SafeRobot, task: Task) -> EpisodeStore:
    """The store of this run, open for appending."""
    path = config.out / "dataset.zarr"
    if not path.exists():
        return EpisodeStore.create(path, robot.spec, {"made_by": "robolearn teleop", "operator": config.pilot, "task": task.name})
    store = EpisodeStore.open(path, "a")
    if differences := store.spec.diff(robot.spec):
        store.close()
        raise UserError(f"{path}: recorded with another robot (store != robot): {'; '.join(differences)}")
    return store


def _always(config: Config, robot: SafeRobot, task: Task) -> dict[str, str | None]:
    """What every episode's meta says. calibration: hash of a real arm's; None: its own."""
    facts: dict[str, str | None] = {"operator": config.pilot, "instruction": task.instruction}
    return facts | ({"calibration": robot.calibration} if hardware.in_real_time(config.robot.body) else {})


def _unfinished(config: Config, robot: SafeRobot, store: EpisodeStore, task: Task, console: Console) -> None:
    """Tell of recordings that were cut off, and append them where asked to."""
    for left in store.unfinished:
        if not config.recover:
            console.print(f"{left}: a recording that was cut off; --recover appends what is complete of it, or delete the folder")
            continue
        try:
            index = store.recover(left, {"task": task.name, **_always(config, robot, task)})
            console.print(f"{store.url}: episode {index}, {store.length(index)} rows, recovered from a recording that was cut off")
        except UserError as error:
            console.print(str(error))


def _pilot_for(config: Config, robot: SafeRobot, keys: Keys, stack: ExitStack) -> Callable[[int], Pilot]:
    """Who drives episode i. stack: lets go of a device, and gives the terminal back, however the run ends."""
    if config.pilot in ("scripted", "mixed"):

        def program(rng: np.random.Generator) -> Pilot:
            operator = operator_for(robot, rng)
            return MixedOperator(operator, robot, rng) if config.pilot == "mixed" else operator

        program(np.random.default_rng(0))  # refuses a body without one before anything is written
        return lambda index: program(np.random.default_rng([config.seed, index, 1]))
    devices = Devices(config.leader, config.browser)
    view = devices.view(config.pilot, config.view_port) if robot.spec.cameras else None
    if view is not None:
        stack.enter_context(view)
    operator = devices.open(config.pilot, robot, None if isinstance(keys, NoKeys) else keys, view, stack)
    if view is not None:
        sys.stderr.write(f"cameras: {view.url}\n")
    sys.stderr.write(f"{operator.help} · {EPISODE_KEYS}\n")
    pilot = Attended(operator, view)
    return lambda index: pilot
