"""The actor: it owns the robot, starts the learner beside it, and flies with the newest weights."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console

import hardware
from hardware.robot import SafeRobot
from hardware.testing import LimitProbe
from hardware.types import Pilot, RobotSpec, Source
from robolearn.agents.agent import Agent
from robolearn.core.checkpoint import load_weights_into, save_checkpoint
from robolearn.core.errors import UserError
from robolearn.core.run import Run, read_metrics
from robolearn.data.episode import Episode
from robolearn.data.store import EpisodeStore
from robolearn.evaluation.sequential import Improvement, Verdict
from robolearn.experiments.finetune_config import Config
from robolearn.experiments.finetuning.channel import Channel
from robolearn.runtime.policy_pilot import PolicyPilot
from robolearn.runtime.random_pilot import RandomPilot
from robolearn.runtime.rollout import rollout
from robolearn.tasks import task_for

LOGGED = ("episode", "flight", "success", "return", "length", "interventions", "stopped", "setpoints", "violations")


def run(config: Config, record: Run, store_spec: RobotSpec) -> dict[str, Any]:
    """Offline, `episodes` online, and the improvement gate at the end. Resumes after the last finished episode."""
    assert config.agent is not None
    agent = config.agent.build(store_spec)
    channel, console = Channel(config.out), Console(stderr=True, soft_wrap=True)
    with hardware.open(config.robot) as robot, learner_beside(config, channel) as learner:
        actor = Actor(config, record, agent, channel, robot, learner)
        with record.timed("offline"):
            channel.wait(lambda said: said.get("episodes", -1) >= 0, learner_alive(learner))
        for row in actor.fly_all():
            ending = "success" if row["success"] else "failure"
            console.print(f"episode {row['episode'] + 1} of {config.episodes}: {ending} after {row['length']} decisions", highlight=False)
        with record.timed("learn"):
            channel.wait(lambda said: said["episodes"] >= config.episodes, learner_alive(learner))
        channel.take(agent)
        verdict = actor.judge() if config.improvement else None
        if verdict is not None:
            console.print(f"improvement gate: {verdict.sentence()}", highlight=False)
            if verdict.verdict is not Verdict.ACCEPT:
                load_weights_into(channel.offline_weights, agent)
                console.print("rolled back: planner.pt holds the offline weights", highlight=False)
        save_checkpoint(config.out / "planner.pt", agent, agent.config, {"episodes": config.episodes})
    return actor.summary() | ({"improvement": verdict.sentence(), "kept": verdict.verdict is Verdict.ACCEPT} if verdict else {})


class Actor:
    """Flies one episode after the other; whatever it flew is in the store before it is counted."""

    def __init__(self, config: Config, record: Run, agent: Agent, channel: Channel, robot: SafeRobot, learner: subprocess.Popen[bytes]):
        self.config, self.record, self.agent, self.channel, self.robot, self.learner = config, record, agent, channel, robot, learner
        self.probe = LimitProbe.attach(robot)  # judges what reaches the motors, and shares no code with the governor
        path = channel.online
        origin = {"source": "robolearn finetune", "data": str(config.data)}
        self.online = EpisodeStore.open(path, "a") if path.exists() else EpisodeStore.create(path, robot.spec, origin)
        self.task = task_for(config.robot.body)
        self._complete_log()

    def fly_all(self) -> Iterator[Mapping[str, Any]]:
        """The log row of each episode that is still to be flown."""
        config = self.config
        while (index := len(self.online)) < config.episodes:
            if config.lockstep:
                with self.record.timed("wait"):
                    self.channel.wait(lambda said, index=index: said["episodes"] >= index, learner_alive(self.learner))
            self.channel.take(self.agent)
            flight = self._flight()
            self.agent.explore = flight == "learning"
            with self.record.timed("fly"):
                episode = self._fly(self._pilot(flight, config.seed + index), np.random.default_rng([config.seed, index]))
            meta = {"episode": index, "flight": flight, **episode.meta}
            self.online.append(replace(episode, meta=meta))
            yield self._log(meta)

    def judge(self) -> Improvement:
        """Fresh episodes of the candidate, one by one, against the record of what flew before (the frozen ones, which are the offline
        policy's). UserError: there is no such record."""
        config, agent = self.config, self.agent
        assert config.improvement is not None
        record = [meta["success"] for meta in map(self.online.meta, range(len(self.online))) if meta["flight"] == "frozen"]
        test = Improvement(config.improvement, sum(record), len(record))
        agent.explore = False
        while test.verdict is Verdict.CONTINUE:
            index = len(test.outcomes)
            pilot = self._pilot("judged", 2**20 + config.seed + index)
            episode = self._fly(pilot, np.random.default_rng([config.seed, 2**20 + index]))
            test.add(bool(episode.success))
            self.record.log(kind="judged", episode=index, success=bool(episode.success), length=len(episode))
        return test

    def summary(self) -> dict[str, Any]:
        metas = [self.online.meta(i) for i in range(len(self.online))]
        total = lambda name: dict(sum((Counter(meta[name]) for meta in metas), Counter()))  # noqa: E731
        return {
            "episodes": len(metas),
            "successes": sum(bool(meta["success"]) for meta in metas),
            "interventions": total("interventions"),
            "setpoints": sum(meta["setpoints"] for meta in metas),
            "violations_at_the_actuator": total("violations"),
            "steps": sum(meta["length"] for meta in metas),
        }

    def _flight(self) -> str:
        """As FineTuning.flight, from what is in the store."""
        warmup, rows = self.agent.config.warmup, self.online.rows
        if rows < warmup.random:
            return "random"
        return "frozen" if rows < warmup.random + warmup.frozen else "learning"

    def _pilot(self, flight: str, seed: int) -> Pilot:
        if flight == "random":
            if self.robot.world is None:
                raise UserError(
                    f"agent.warmup.random: {self.agent.config.warmup.random} decisions; a real robot flies nothing at random: 0"
                )
            return RandomPilot(self.robot.spec, seed)
        return PolicyPilot(self.agent, 1, seed, Source.PLANNER if self.agent.config.planner else Source.POLICY)

    def _fly(self, pilot: Pilot, rng: np.random.Generator) -> Episode:
        written, violations = self.probe.setpoints, Counter(self.probe.violations)
        episode = rollout(self.robot, pilot, self.task, rng)
        measured = {"setpoints": self.probe.setpoints - written, "violations": dict(self.probe.violations - violations)}
        doubt = episode.notes.get("uncertainty")
        if doubt is not None:
            measured |= {"uncertainty": float(np.nanmean(doubt)), "uncertainty_max": float(np.nanmax(doubt))}
            with (self.config.out / "uncertainty.jsonl").open("a") as file:
                lines = ({"episode": len(self.online), "step": i, "uncertainty": float(value)} for i, value in enumerate(doubt))
                file.writelines(json.dumps(line) + "\n" for line in lines)
        return replace(episode, meta={**episode.meta, **measured})

    def _log(self, meta: Mapping[str, Any]) -> Mapping[str, Any]:
        row = {name: meta[name] for name in (*LOGGED, "uncertainty", "uncertainty_max") if name in meta}
        self.record.log(kind="episode", **row)
        return row

    def _complete_log(self) -> None:
        """Killed between the store and the log: the store is right."""
        logged = {row.get("episode") for row in read_metrics(self.config.out / "metrics.jsonl") if row.get("kind") == "episode"}
        for index in range(len(self.online)):
            if index not in logged:
                self._log(self.online.meta(index))


@contextmanager
def learner_beside(config: Config, channel: Channel) -> Iterator[subprocess.Popen[bytes]]:
    """The learner's process; it ends when we do, however that is."""
    channel.complaint.parent.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "robolearn.experiments.finetuning.learner", str(config.out)]
    with channel.complaint.open("wb") as complaint:
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=complaint)
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def learner_alive(learner: subprocess.Popen[bytes]):
    return lambda: learner.poll() is None
