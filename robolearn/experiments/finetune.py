"""Safe online fine-tuning: one agent (robolearn.agents) learns from the logs, then from its own flights, the governor below it.

The actor collects episodes while the learner beside it learns from old and new rows (robolearn.experiments.finetuning). The result is a
checkpoint like any other: planner.pt.
"""

from __future__ import annotations

import torch
from rich.console import Console

import hardware
from hardware.types import RobotSpec
from robolearn.agents.agent import Agent
from robolearn.core.errors import UserError
from robolearn.core.files import require_outside
from robolearn.core.run import Run
from robolearn.data.store import EpisodeStore
from robolearn.experiments.evaluate import check_fits
from robolearn.experiments.finetune_config import Config, check
from robolearn.experiments.finetuning import actor

__all__ = ["Config", "run"]


def run(config: Config) -> dict:
    """Learn offline, fly and learn `episodes` times, write planner.pt. Resumes after the last finished episode."""
    console = Console(stderr=True, soft_wrap=True)
    record = Run(config.out, config, config.overwrite)
    if record.finished():
        result = record.result()
        console.print(f"{config.out}: already fine-tuned; {_sentence(result)}", highlight=False)
        return result
    check(config)
    require_outside(config.out, config.data)
    torch.set_num_threads(config.threads)
    agent = _fitting(config, hardware.spec_of(config.robot))
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
        raise UserError(f"{config.data}: recorded on another robot (data != robot): {'; '.join(differences)}")
    if len(store) < 2:
        raise UserError(f"{config.data}: {len(store)} episodes; expected at least 2, of which one is held out")
    agent = config.whole_agent.build(store.spec)
    if agent.policy is not None and config.chunk > agent.horizon:
        raise UserError(f"chunk: {config.chunk} actions per plan; valid 1 to {agent.horizon}, which the agent plans")
    return agent


def _sentence(result: dict) -> str:
    violations = sum(result["violations_at_the_actuator"].values())
    return (
        f"{result['successes']} of {result['episodes']} online episodes succeeded; "
        f"{violations} limit violations in {result['setpoints']} setpoints at the actuator"
    )
