"""The actor: it owns the robot, starts the learner beside it, and flies with the newest weights."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.progress import Progress

import hardware
from hardware.robot import SafeRobot
from hardware.testing import LimitProbe
from hardware.types import Source
from robolearn.agents.agent import Agent
from robolearn.core.checkpoint import load_weights_into, save_checkpoint
from robolearn.core.errors import UserError
from robolearn.core.files import append_line, write_atomic
from robolearn.core.run import Run, read_metrics
from robolearn.data.episode import Episode
from robolearn.data.store import EpisodeStore
from robolearn.evaluation.regime import regime
from robolearn.evaluation.sequential import Improvement, Verdict
from robolearn.experiments.attendance import Attendance
from robolearn.experiments.deploy_view import DeployView
from robolearn.experiments.devices import Devices
from robolearn.experiments.finetune_config import Config
from robolearn.experiments.finetuning.channel import Channel, Said
from robolearn.experiments.finetuning.gating import Gating
from robolearn.runtime.async_pilot import AsyncPilot
from robolearn.runtime.policy_pilot import PolicyPilot
from robolearn.runtime.random_pilot import RandomPilot
from robolearn.runtime.rollout import rollout
from robolearn.runtime.takeover import Interruptible
from robolearn.tasks import task_for

LOGGED = (
    *("episode", "flight", "success", "return", "length", "interventions", "stopped", "verdict", "setpoints", "violations", "takeovers"),
    *("uncertainty", "uncertainty_max", "novelty_max", "gated"),
)
ENDS_S = 5.0  # within which the learner ends once it is let go


def run(config: Config, record: Run, agent: Agent) -> dict[str, Any]:
    """Offline, `episodes` online, and the improvement gate at the end. Resumes after the last finished episode."""
    channel, console = Channel(config.out, config.patience_s), Console(stderr=True, soft_wrap=True)
    with ExitStack() as stack:
        robot = stack.enter_context(hardware.open(config.robot))
        attendance = None
        if robot.world is None or config.takeover is not None:
            attendance = Attendance(robot, config.takeover, Devices(config.leader, config.browser), config.view_port, console, stack)
        actor = Actor(config, record, agent, channel, robot, attendance)
        stack.callback(actor.pilot.close)
        if attendance is not None:
            ends = "q" if sys.stdin.isatty() else "Ctrl-C"
            console.print(f"learning from the recordings: nothing moves yet; {ends} ends, the same command goes on")
        with actor.online, learner_beside(channel) as learner:
            with record.timed("offline"), Progress(console=console) as progress:
                actor.wait(lambda said: _shown(progress, said) or said.get("episodes", -1) >= 0, learner)
            for row in actor.fly_all(learner):
                said = f"episode {row['episode'] + 1} of {config.episodes}: {_ending(row)} after {row['length']} decisions"
                console.print(said, highlight=False)
            if attendance is not None:
                console.print("learning what is left to learn")
            with record.timed("learn"):
                actor.wait(lambda said: said["episodes"] >= config.episodes, learner)
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
    """Flies one episode after the other; whatever it flew is in the store before it is counted. UserError: the robot has no world to fly
    at random in.

    attendance: the person who watches. KeyboardInterrupt: they have had enough, or stopped the robot; the same command goes on.
    """

    def __init__(self, config: Config, record: Run, agent: Agent, channel: Channel, robot: SafeRobot, attendance: Attendance | None = None):
        if robot.world is None and (random := agent.config.warmup.random):
            raise UserError(f"agent.warmup.random: {random} decisions; a real robot flies nothing at random: valid 0")
        self.config, self.record, self.agent, self.channel, self.robot = config, record, agent, channel, robot
        self.attendance, chunk = attendance, min(config.chunk, agent.horizon)
        source = Source.PLANNER if agent.config.planner else Source.POLICY
        # A robot that moves on meanwhile is not kept waiting for a plan; single actions would all come too late.
        thinks_beside = hardware.in_real_time(config.robot.body) and chunk > 1
        self.pilot = (AsyncPilot if thinks_beside else PolicyPilot)(agent, chunk, source=source)
        # Judges what reaches the motors, and shares no code with the governor; a real arm's loop is in a process of its own, or elsewhere.
        self.probe = LimitProbe.attach(robot) if robot.world is not None else None
        path = channel.online
        origin = {"source": "robolearn finetune", "data": str(config.data)}
        self.online = EpisodeStore.open(path, "a") if path.exists() else EpisodeStore.create(path, robot.spec, origin)
        task = task_for(config.robot.body)
        self.task = replace(task, time_limit_s=config.seconds or task.time_limit_s)
        self._gating: Gating | None = None
        self._complete_log()

    def fly_all(self, learner: subprocess.Popen[bytes]) -> Iterator[Mapping[str, Any]]:
        """The log row of each episode that is still to be flown. UserError: nobody learns any more."""
        config = self.config
        while (index := len(self.online)) < config.episodes:
            self._await_person()  # meanwhile there may be newer weights
            self.channel.look(learner)
            trying = config.regime == "auto" and index < config.regime_episodes  # the offline policy; nothing is learned meanwhile
            if config.regime == "auto" and not trying and not self.channel.regime.exists():
                self._find_regime()
            if config.lockstep and not trying:
                with self.record.timed("wait"):
                    self.wait(lambda said, index=index: said["episodes"] >= index, learner)
            self.channel.take(self.agent)
            flight = "frozen" if trying else self.agent.config.warmup.flight(self._rows_alone())
            if flight == "learning" and config.improvement is not None:
                self._offline_record()  # now, not when everything is flown
            self.agent.explore = flight == "learning"
            with self.record.timed("fly"):
                episode = self._fly(index, flight, config.seed + index, index)
            self.online.append(episode)
            self._log_doubt(index, episode)
            yield self._log("episode", episode.meta)

    def wait(self, ready: Callable[[Said], bool], learner: subprocess.Popen[bytes]) -> None:
        """Until the learner has said enough, or KeyboardInterrupt as above. UserError: nobody learns any more."""
        self.channel.wait(lambda said: self._heed_person() or ready(said), learner)

    def judge(self) -> Improvement:
        """Fresh episodes of the candidate, one by one, against the record of what flew before (the frozen ones, which are the offline
        policy's). Goes on with those that were judged before a crash. UserError: there is no such record."""
        config = self.config
        assert config.improvement is not None
        record = self._offline_record()
        test = Improvement(config.improvement, sum(record), len(record))
        for row in self._logged("judged"):
            test.add(_alone(row))
        self.agent.explore = False
        while test.verdict is Verdict.CONTINUE:
            index, late = len(test.outcomes), 2**20 + len(test.outcomes)
            self._await_person()
            episode = self._fly(index, "judged", late + config.seed, late)
            test.add(_alone(self._log("judged", episode.meta)))
        return test

    def summary(self) -> dict[str, Any]:
        flown = self._flown()
        total = lambda name: dict(sum((Counter(row.get(name, {})) for row in [*flown, *self._logged("judged")]), Counter()))  # noqa: E731
        return {
            "episodes": len(flown),
            "successes": sum(meta["success"] for meta in flown),
            "interventions": total("interventions"),
            "setpoints": sum(row["setpoints"] for row in [*flown, *self._logged("judged")]) if self.probe else None,  # not looked at
            "violations_at_the_actuator": total("violations") if self.probe else None,
            "steps": sum(meta["length"] for meta in flown),
        }

    def _find_regime(self) -> None:
        """The offline policy's returns, on what was flown so far, against the data's."""
        data = EpisodeStore.open(self.config.data)
        reward = data.lowdim("reward")
        returns = [float(reward[int(start) : int(start) + data.length(i)].sum()) for i, start in enumerate(data.starts)]
        found = regime([meta["return"] for meta in self._flown() if not meta.get("takeovers")], returns)
        write_atomic(self.channel.regime, json.dumps({"keep": found.regime.name.lower(), "why": found.sentence()}).encode())
        Console(stderr=True, soft_wrap=True).print(f"regime: {found.sentence()}", highlight=False)

    def _offline_record(self) -> list[bool]:
        """Whether the offline policy succeeded, episode by episode."""
        if record := [_alone(meta) for meta in self._flown() if meta["flight"] == "frozen"]:
            return record
        warmup = self.agent.config.warmup
        raise UserError(
            f"improvement: no episode of the offline policy was flown: agent.warmup.random: {warmup.random} and frozen: {warmup.frozen} "
            "decisions ended within one episode, or episodes ended first; give more of either"
        )

    def _rows_alone(self) -> int:
        """What the warm-up counts: frozen episodes into which a person stepped tell little of the offline policy."""
        return sum(meta["length"] for meta in self._flown() if not (meta["flight"] == "frozen" and meta.get("takeovers")))

    def _flown(self) -> list[dict[str, Any]]:
        return [self.online.meta(index) for index in range(len(self.online))]

    def _await_person(self) -> None:
        if self.attendance is not None and not self.attendance.begins(self.config.confirm):
            raise KeyboardInterrupt

    def _heed_person(self) -> bool:
        """Never true."""
        if self.attendance is not None and self.attendance.leaves():
            self.attendance.begins(confirm=False)  # says where it stays, if they stopped it
            self.attendance.console.print("ending")
            raise KeyboardInterrupt
        return False

    def _fly(self, index: int, flight: str, seed: int, start: int) -> Episode:
        """seed: of the agent's noise. start: which of this run's starting situations. A person may have it flown again, from the same."""
        while True:
            episode = self._flown_once(index, flight, seed, start)
            verdict = episode.meta["verdict"]
            if self.attendance is None or verdict not in ("quit", "discard"):
                return episode
            if verdict == "quit":
                raise KeyboardInterrupt
            self.attendance.console.print("discarded; once more")
            self._await_person()

    def _flown_once(self, index: int, flight: str, seed: int, start: int) -> Episode:
        gating = self._gate() if self.config.gate is not None and flight in ("learning", "judged") else None
        pilot: Interruptible = self.pilot if gating is None else gating.pilot
        if flight == "random":
            pilot = RandomPilot(self.robot.spec, seed)
        else:
            self.pilot.seed(seed)
        probe = self.probe
        written, violations = (probe.setpoints, Counter(probe.violations)) if probe else (0, Counter())
        rng = np.random.default_rng([self.config.seed, start])
        episode = self._watched(index, pilot, rng) if self.attendance else rollout(self.robot, pilot, self.task, rng)
        self.pilot.rest()  # the agent is about to change
        measured: dict[str, Any] = {}
        if probe is not None:
            measured = {"setpoints": probe.setpoints - written, "violations": dict(probe.violations - violations)}
        if (doubt := _known(episode, "uncertainty")).size:
            measured |= {"uncertainty": float(doubt.mean()), "uncertainty_max": float(doubt.max())}
        if (novelty := _known(episode, "novelty")).size:
            measured |= {"novelty_max": float(novelty.max())}
        if gating is not None:
            measured |= {"gated": gating.write(index, flight)}
        return replace(episode, meta={"episode": index, "flight": flight, **episode.meta, **measured})

    def _watched(self, index: int, pilot: Interruptible, rng: np.random.Generator) -> Episode:
        """Under the eyes of the person."""
        attendance = self.attendance
        assert attendance is not None
        won = [meta["success"] for meta in self._flown()]
        with Live(console=attendance.console, refresh_per_second=8, transient=True) as live:
            view = DeployView(self.robot, index, self.config.episodes, won, live.update, attendance.view)
            episode = rollout(self.robot, attendance.around(pilot), self.task, rng, view.on_step)
        return replace(episode, meta={**episode.meta, "calibration": self.robot.calibration, **view.facts()})

    def _gate(self) -> Gating:
        """Calibrated once, on what the offline policy flew. UserError: it flew too little."""
        if self._gating is None:
            assert self.config.gate is not None
            familiar = [meta["novelty_max"] for meta in self._flown() if meta["flight"] == "frozen" and not meta.get("takeovers")]
            self._gating = Gating(self.pilot, self.config.gate, familiar, self.config.out)
        return self._gating

    def _log(self, kind: str, meta: Mapping[str, Any]) -> Mapping[str, Any]:
        row = {name: meta[name] for name in LOGGED if name in meta}
        self.record.log(kind=kind, **row)
        return row

    def _log_doubt(self, index: int, episode: Episode) -> None:
        doubt = episode.notes.get("uncertainty", np.empty(0))
        lines = [
            json.dumps({"episode": index, "step": step, "uncertainty": float(value)})
            for step, value in enumerate(doubt)
            if np.isfinite(value)
        ]
        if lines:
            append_line(self.config.out / "uncertainty.jsonl", "\n".join(lines))

    def _logged(self, kind: str) -> list[dict[str, Any]]:
        return [row for row in read_metrics(self.config.out / "metrics.jsonl") if row["kind"] == kind]

    def _complete_log(self) -> None:
        """Killed between the store and the log: the store is right."""
        logged = {row["episode"] for row in self._logged("episode")}
        for meta in self._flown():
            if meta["episode"] not in logged:
                self._log("episode", meta)


def _alone(row: Mapping[str, Any]) -> bool:
    """Did the agent succeed by itself?"""
    return bool(row["success"]) and not row.get("takeovers")


def _ending(row: Mapping[str, Any]) -> str:
    if row["success"]:
        return "success"
    if row["stopped"]:
        return f"stopped ({row['stopped']})"
    return "failure, by your word," if row.get("verdict") == "failure" else "no success in time"


def _known(episode: Episode, note: str) -> np.ndarray:
    """What the agent thought; of rows that a person flew it thought nothing."""
    values = episode.notes.get(note, np.empty(0))
    return values[np.isfinite(values)]


def _shown(progress: Progress, said: Mapping[str, Any]) -> bool:
    """How far the offline phase is. Never true: it is to be looked at, not waited for."""
    if "of" in said:
        bar = progress.task_ids[0] if progress.task_ids else progress.add_task("offline updates", total=said["of"])
        progress.update(bar, completed=said["updates"])
    return False


@contextmanager
def learner_beside(channel: Channel) -> Iterator[subprocess.Popen[bytes]]:
    """The learner's process; it ends when we do, however that is."""
    channel.progress.unlink(missing_ok=True)  # said by the one before; this one says it again once it stands there
    words = [sys.executable, "-m", "robolearn.experiments.finetuning.learner", str(channel.out)]
    with channel.complaint.open("wb") as complaint:
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=complaint)
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(ENDS_S)
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait()
