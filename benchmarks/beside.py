"""Does learning disturb flying, and does the learner grow? Actor and learner beside each other, as in `robolearn finetune`.

    python benchmarks/beside.py --data runs/fowm/reach/dataset.zarr --minutes 20

An actor with `ours` keeps a wall clock's ten decisions a second of a simulated arm, first while the learner has nothing to do, then while
it learns without a pause. Lateness: from the tick until the command is sent. Memory: the learner's resident set, once a second.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hardware
from hardware import RobotConfig
from hardware.types import Command, Observation
from robolearn.core.run import Run
from robolearn.data.store import EpisodeStore
from robolearn.experiments.finetune_config import Config, ours
from robolearn.experiments.finetuning.actor import learner_beside
from robolearn.experiments.finetuning.channel import Channel
from robolearn.runtime.policy_pilot import PolicyPilot
from robolearn.runtime.rollout import rollout
from robolearn.tasks import task_for


class Punctual:
    """Waits for each tick of the wall clock before its pilot decides, and notes how long after it the command was there."""

    def __init__(self, pilot: PolicyPilot, rate_hz: float):
        self.pilot, self.period = pilot, 1 / rate_hz
        self.late_ms, self.plan_ms = list[float](), list[float]()  # of all decisions; of those that planned

    def reset(self) -> None:
        self.pilot.reset()
        self.tick = time.perf_counter()

    def decide(self, observation: Observation) -> Command:
        self.tick = max(self.tick + self.period, time.perf_counter() - self.period)  # after a miss the next tick counts, not all of them
        time.sleep(max(0.0, self.tick - time.perf_counter()))
        command = self.pilot.decide(observation)
        self.late_ms.append(1e3 * (time.perf_counter() - self.tick))
        if command.notes["chunk_position"] == 0:
            self.plan_ms.append(self.late_ms[-1])
        return command

    def feedback(self, executed: np.ndarray, reward: float) -> None:
        self.pilot.feedback(executed, reward)


def memory_mb(process: int) -> float:
    """Resident set of a process."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def fly(minutes: float, config: Config, channel: Channel, agent: Any, learner: int, online: EpisodeStore | None) -> dict[str, Any]:
    """For so long; whole episodes go to the learner where there is a store."""
    ends, memory, asked = time.monotonic() + 60 * minutes, list[tuple[float, float]](), time.monotonic()
    with hardware.open(config.robot) as robot:
        pilot = Punctual(PolicyPilot(agent, agent.horizon), robot.spec.rate_hz)

        def watch(_: Any) -> None:
            nonlocal asked
            if (now := time.monotonic()) - asked >= 1:
                memory.append((now, memory_mb(learner)))
                asked = now

        for index in count():
            if time.monotonic() >= ends:
                break
            channel.take(agent)
            agent.explore = True
            episode = rollout(robot, pilot, task_for(config.robot.body), np.random.default_rng([config.seed, index]), watch)
            if online is not None:
                online.append(replace(episode, meta={"episode": index, "flight": "learning", **episode.meta}))
    late = np.percentile(pilot.late_ms, [50, 99])
    said = {"decisions": len(pilot.late_ms), "late_p50_ms": round(late[0], 1), "late_p99_ms": round(late[1], 1)}
    said |= {"plan_p50_ms": round(float(np.median(pilot.plan_ms)), 1), "plan_p99_ms": round(float(np.percentile(pilot.plan_ms, 99)), 1)}
    settled = np.array(memory[len(memory) // 5 :])
    slope, start = np.polyfit(settled[:, 0] - settled[0, 0], settled[:, 1], 1)
    return said | {"learner_mb": round(start, 1), "learner_mb_per_minute": round(60 * slope, 3), "updates": channel.said()["updates"]}


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--data", type=Path, default=Path("runs/fowm/reach/dataset.zarr"))
    words.add_argument("--body", default="robosuite:Reach:state")
    words.add_argument("--out", type=Path, default=Path("runs/beside"))
    words.add_argument("--minutes", type=float, default=20, help="of learning; a fifth as long of rest before it")
    words.add_argument("--offline", type=int, default=200, help="updates")
    words.add_argument("--utd", type=float, default=4, help="updates per decision: enough to keep the learner busy")
    given = words.parse_args()
    torch.set_num_threads(1)
    shutil.rmtree(given.out, ignore_errors=True)
    agent_config = replace(ours(), update=replace(ours().update, utd=given.utd))
    config = Config(
        data=given.data,
        out=given.out,
        robot=RobotConfig(body=given.body),
        agent=agent_config,
        offline_updates=given.offline,
        episodes=10**6,
    )
    spec = EpisodeStore.open(given.data).spec
    agent, channel = agent_config.build(spec), Channel(given.out)
    with Run(given.out, config), EpisodeStore.create(channel.online, spec, {}) as online, learner_beside(channel) as learner:
        channel.wait(lambda said: said.get("episodes", -1) >= 0, learner)
        for name, minutes, store in (("at rest", given.minutes / 5, None), ("learning", given.minutes, online)):
            print(json.dumps({"learner": name, **fly(minutes, config, channel, agent, learner.pid, store)}), flush=True)
