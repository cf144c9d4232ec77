"""Safe online fine-tuning: one agent (robolearn.agents) learns from the logs, then from its own flights, the governor below it.

The actor collects episodes while the learner beside it learns from old and new rows (robolearn.experiments.finetuning). The result is a
checkpoint like any other: planner.pt.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from rich.console import Console

import hardware
from hardware.types import RobotSpec
from robolearn.agents.agent import Agent
from robolearn.agents.config import check_idle
from robolearn.core.errors import UserError
from robolearn.core.files import require_outside
from robolearn.core.run import Run
from robolearn.data.episode import not_failed
from robolearn.data.store import EpisodeStore
from robolearn.data.windows import split
from robolearn.experiments.attendance import require_asked, require_terminal
from robolearn.experiments.evaluate import check_fits
from robolearn.experiments.finetune_config import HOW, Config, check
from robolearn.experiments.finetuning import actor
from robolearn.experiments.finetuning.channel import Channel

__all__ = ["Config", "run"]


def run(config: Config) -> dict:
    """Learn offline, fly and learn `episodes` times, write planner.pt. Resumes after the last finished episode."""
    console = Console(stderr=True, soft_wrap=True)
    check(config)
    require_outside(config.out, config.data)
    grows = None if config.improvement else "episodes"  # what was judged was judged of fewer
    record = Run(config.out, config, config.overwrite, grows=grows, how=HOW, blank=Channel(config.out).blank)
    if record.finished():
        result = record.result()
        console.print(f"{config.out}: already fine-tuned; {_sentence(result)}", highlight=False)
        return result
    require_terminal(config.takeover, needed=hardware.in_real_time(config.robot.body))
    require_asked(config.robot.body, config.confirm)
    torch.set_num_threads(config.threads)
    agent = _fitting(config, hardware.spec_of(config.robot))
    if note := unrewarded(config):
        console.print(note)
    with record:
        record.finish(**actor.run(config, record, agent))
    result = record.result()
    console.print(f"{config.out / 'planner.pt'}: {_sentence(result)}", highlight=False)
    return result


def _fitting(config: Config, robot: RobotSpec) -> Agent:
    """The agent, for what the recordings show. UserError for what does not fit together, before anything starts."""
    if config.checkpoint is not None:
        check_fits(config.checkpoint, robot)
    store = EpisodeStore.open(config.data)
    if differences := store.spec.diff(robot):
        raise UserError(f"{config.data}: recorded on another robot, or for other actions (data != robot): {'; '.join(differences)}")
    if len(store) < 2:
        raise UserError(f"{config.data}: {len(store)} episodes; expected at least 2, of which one is held out")
    whole = config.whole_agent
    check_idle(whole if config.checkpoint is None else replace(whole, cameras=()))  # a checkpoint says which, and may say so in vain
    check_examples(config, store)
    agent = whole.build(store.spec)
    if agent.policy is not None and config.chunk > agent.horizon:
        raise UserError(f"chunk: {config.chunk} actions per plan; valid 1 to {agent.horizon}, which the agent plans")
    return agent


def check_examples(config: Config, store: EpisodeStore) -> None:
    """UserError where an actor that only imitates successes has none: it would fly as it was drawn at random."""
    agent = config.agent
    taught_here = config.checkpoint is None and config.offline_updates > 0 and agent.carry.policy and not agent.warmup.random
    if not taught_here or agent.actor.examples != "successes" or agent.actor.q[0] > 0:
        return
    (train,), _ = split(store, config.held_out, np.random.default_rng(config.seed))
    if not any(not_failed(store.meta(int(index))) for index in train):
        raise UserError(
            f"agent.actor.examples: successes, but {config.data} has 0 among the {len(train)} episodes that are not held out; record some, "
            "or all imitates failures as well"
        )


def unrewarded(config: Config) -> str:
    """What to say of recordings whose successes earn nothing, as a person's did before their word earned 1; "" where there is nothing."""
    store = EpisodeStore.open(config.data)
    won = np.array([store.meta(index).get("success") is True for index in range(len(store))])
    ends = np.cumsum(store.lengths)
    bare = won & (np.add.reduceat(np.abs(store.lowdim("reward")), ends - store.lengths) == 0)
    if not bare.any() or config.agent.reward.source != "environment":
        return ""
    mended = "--data of what `robolearn edit --path OLD --out NEW --reward sparse` makes of it has them"
    return f"{config.data}: {bare.sum()} of {won.sum()} successful episodes have no reward, and teach no critic; {mended}"


def _sentence(result: dict) -> str:
    flown = f"{result['successes']} of {result['episodes']} online episodes succeeded"
    if result["setpoints"] is None:  # a real arm's loop is in a process of its own, or elsewhere
        return flown
    violations = sum(result["violations_at_the_actuator"].values())
    return f"{flown}; {violations} limit violations in {result['setpoints']} setpoints at the actuator"
