"""Does the gate keep its promise? False alarms on fresh episodes at a chosen risk, and alarms once the world has changed.

    python benchmarks/gate.py --task reach

`ours`, trained offline (benchmarks/fowm.py), flies `--calibration` episodes; the threshold on its novelty is the conformal one at a risk of
5 % of episodes. Then `--episodes` fresh ones of the same world, which may raise an alarm in about one of twenty, and as many with the cube
(for Reach: the hand's load) heavier, the table's friction changed, and what is seen moved aside as a camera out of place would move it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from fowm import TASKS, learned
from scipy import stats

import hardware
from hardware import RobotConfig
from hardware.types import Observation, Pilot
from robolearn.evaluation.statistics import success_interval
from robolearn.planning.gate import episode_threshold
from robolearn.runtime.policy_pilot import PolicyPilot
from robolearn.runtime.rollout import rollout
from robolearn.tasks import task_for

RISK = 0.05


class Displaced:
    """A pilot that is shown everything `offset` [m] beside where it is, as by a camera that was bumped into."""

    def __init__(self, pilot: Any, offset: float) -> None:
        self.pilot, self.offset = pilot, offset

    def reset(self) -> None:
        self.pilot.reset()

    def decide(self, observation: Observation):
        moved = {k: v + np.float32(self.offset) if k in ("goal_pos", "cube_pos") else v for k, v in observation.state.items()}
        return self.pilot.decide(replace(observation, state=moved))

    def feedback(self, executed: np.ndarray, reward: float) -> None:
        self.pilot.feedback(executed, reward)


def novelties(robot: Any, pilot: Pilot, task: str, episodes: int, seed: int) -> list[np.ndarray]:
    """What each episode's decisions looked like to the model."""
    fly = lambda i: rollout(robot, pilot, task_for(TASKS[task]), np.random.default_rng([seed, i]))  # noqa: E731
    return [fly(i).notes["novelty"] for i in range(episodes)]


def heavier(model: Any) -> None:
    """Whatever is moved weighs five times as much, and the arm's hand carries a kilogram."""
    for i in range(model.nbody):
        name = model.body(i).name
        if "cube" in name:
            model.body_mass[i] *= 5
        if name.endswith("right_hand"):
            model.body_mass[i] += 1.0


def slippery(model: Any) -> None:
    """A tenth of the friction, everywhere."""
    model.geom_friction[:, 0] *= 0.1


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--task", default="reach", choices=list(TASKS))
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--updates", type=int, default=5000)
    words.add_argument("--calibration", type=int, default=60, help="episodes")
    words.add_argument("--episodes", type=int, default=60, help="of every kind")
    words.add_argument("--data", type=Path, default=Path("runs/fowm"))
    asked = words.parse_args()
    tuning, _ = learned(asked.task, "ours", asked.seed, asked.updates, asked.data)
    agent = tuning.agent
    agent.release.fill_(1.0)
    pilot = PolicyPilot(agent, agent.horizon)
    worlds: dict[str, tuple[Callable[[Any], None] | None, Pilot]] = {
        "same": (None, pilot),
        "mass": (heavier, pilot),
        "friction": (slippery, pilot),
        "moved 3 cm": (None, Displaced(pilot, 0.03)),
        "moved 10 cm": (None, Displaced(pilot, 0.10)),
    }
    with hardware.open(RobotConfig(body=TASKS[asked.task])) as robot:
        threshold = episode_threshold(novelties(robot, pilot, asked.task, asked.calibration, 20_000 + asked.seed), RISK)
    print(json.dumps({"task": asked.task, "threshold": round(threshold, 2), "calibration": asked.calibration}), flush=True)
    for number, (name, (change, flown)) in enumerate(worlds.items()):
        with hardware.open(RobotConfig(body=TASKS[asked.task])) as robot:
            if change is not None:
                change(robot.world.scene.model)  # pyright: ignore[reportAttributeAccessIssue,reportOptionalMemberAccess]
            found = novelties(robot, flown, asked.task, asked.episodes, 30_000 + 1000 * number + asked.seed)
        alarms = sum(bool((episode > threshold).any()) for episode in found)
        low, high = success_interval(alarms, asked.episodes)
        row = {"world": name, "episodes": asked.episodes, "alarms": alarms, "rate": round(alarms / asked.episodes, 3)}
        row |= {"interval": [round(low, 3), round(high, 3)]}
        if name == "same":  # the rate, given one calibration set, is Beta distributed; so many alarms are within its 95 %
            n = asked.calibration
            rank = int(np.ceil((n + 1) * (1 - RISK)))
            most = stats.betabinom(asked.episodes, n + 1 - rank, rank).ppf([0.025, 0.975])
            row |= {"expected_alarms": [int(x) for x in most], "within": bool(most[0] <= alarms <= most[1])}
        print(json.dumps(row), flush=True)
