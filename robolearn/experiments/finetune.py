"""Safe online fine-tuning: a world model learned from the logs, a cautious planner, and the governor below both.

The planner collects episodes around the offline policy; every update mixes old and new rows, half and half in the end. The result is
a checkpoint like any other: a Planner that holds the fine-tuned policy.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

import hardware
from hardware.robot import SafeRobot
from hardware.testing import LimitProbe
from hardware.types import RobotSpec, Source
from robolearn.core.checkpoint import load_policy, load_state, save_checkpoint, save_state
from robolearn.core.errors import UserError
from robolearn.core.files import require_outside
from robolearn.core.run import Run, read_metrics
from robolearn.core.types import Batch, concat
from robolearn.data.store import EpisodeStore
from robolearn.data.tensors import to_batch
from robolearn.data.windows import Windows, split
from robolearn.experiments.evaluate import check_fits
from robolearn.experiments.finetune_config import Config, check
from robolearn.experiments.finetuning import actor
from robolearn.experiments.vision import cache_features
from robolearn.learners.imitation import Imitation
from robolearn.learners.latent_mpc import LatentMpc
from robolearn.planning.mppi import Planner, PlannerConfig
from robolearn.policies.diffusion import DiffusionPolicy
from robolearn.runtime.policy_pilot import PolicyPilot
from robolearn.runtime.rollout import rollout
from robolearn.tasks import task_for

__all__ = ["Config", "Session", "run"]

_LOGGED = (
    "episode",
    "success",
    "return",
    "length",
    "uncertainty",
    "uncertainty_max",
    "interventions",
    "setpoints",
    "violations",
    "stopped",
)


class Mixture:
    """Batches of old and new rows: the new ones' share grows with their number, up to half (RLPD, Ball et al. 2023).

    Half from the start would be half from a single episode, which a policy learns by heart.
    """

    def __init__(self, old: Windows, size: int, rng: np.random.Generator):
        self.old, self.size, self.rng = old, size, rng
        self.new: Windows | None = None

    def draw(self) -> Batch:
        if self.new is None:
            return self._draw(self.old, self.size)
        new = max(1, round(self.size * 0.5 * min(1.0, len(self.new) / len(self.old))))
        return concat(self._draw(self.old, self.size - new), self._draw(self.new, new))

    def _draw(self, windows: Windows, count: int) -> Batch:
        return to_batch(windows.read(self.rng.integers(len(windows), size=count)))


def run(config: Config) -> dict:
    """Pretrain the world model, fly and learn `episodes` times, write planner.pt. Resumes after the last finished episode."""
    console = Console(stderr=True, soft_wrap=True)
    record = Run(config.out, config, config.overwrite)
    if record.finished():
        result = record.result()
        console.print(f"{config.out}: already fine-tuned; {_sentence(result)}", highlight=False)
        return result
    check(config)
    require_outside(config.out, config.data)
    torch.set_num_threads(config.threads)
    robot_spec = hardware.spec_of(config.robot)
    if config.agent is not None:
        return _tune_agent(config, record, robot_spec, console)
    check_fits(config.checkpoint, robot_spec)
    policy = load_policy(config.checkpoint)
    if not isinstance(policy, DiffusionPolicy):
        raise UserError(f"{config.checkpoint}: a {type(policy).__name__}; fine-tuning starts from a DiffusionPolicy")
    if config.search.horizon > policy.horizon:
        raise UserError(f"search.horizon: {config.search.horizon} decisions; {config.checkpoint} proposes chunks of {policy.horizon}")
    if policy.config.encoder is not None and not policy.config.encoder.frozen:
        raise UserError(f"{config.checkpoint}: policy.encoder.tune is not none; fine-tuning plans on the features of a frozen encoder")
    store = EpisodeStore.open(config.data)
    if differences := store.spec.diff(robot_spec):
        raise UserError(f"{config.data}: recorded on another robot (data != robot): {'; '.join(differences)}")
    with record, hardware.open(config.robot) as robot:
        session = Session(config, record, policy, store)
        session.pretrain()
        probe = LimitProbe.attach(robot)  # judges what reaches the motors, and shares no code with the governor
        with session.open_online(robot.spec) as online:
            while session.episodes < config.episodes:
                session.fly(robot, online, probe)
                session.learn(online)
                row = session.flown[-1]
                ending = "success" if row["success"] else "failure"
                console.print(f"episode {session.episodes} of {config.episodes}: {ending} after {row['length']} decisions", highlight=False)
        save_checkpoint(config.out / "planner.pt", session.planner, session.planner.config, {"episodes": session.episodes})
        record.finish(**session.summary())
    result = record.result()
    console.print(f"{config.out / 'planner.pt'}: {_sentence(result)}", highlight=False)
    return result


def _tune_agent(config: Config, record: Run, robot_spec: RobotSpec, console: Console) -> dict:
    """The one agent of robolearn.agents, by an actor and a learner."""
    assert config.agent is not None
    store = EpisodeStore.open(config.data)
    if differences := store.spec.diff(robot_spec):
        raise UserError(f"{config.data}: recorded on another robot (data != robot): {'; '.join(differences)}")
    if len(store) < 2:
        raise UserError(f"{config.data}: {len(store)} episodes; expected at least 2, of which one is held out")
    config.agent.build(store.spec)  # what does not fit together is said before anything starts
    with record:
        record.finish(**actor.run(config, record, store.spec))
    result = record.result()
    console.print(f"{config.out / 'planner.pt'}: {_sentence(result)}", highlight=False)
    return result


def _sentence(result: dict) -> str:
    violations = sum(result["violations_at_the_actuator"].values())
    return (
        f"{result['successes']} of {result['episodes']} online episodes succeeded; "
        f"{violations} limit violations in {result['setpoints']} setpoints at the actuator"
    )


class Session:
    """One fine-tuning: what is learned, what was flown, and how both are kept on disk."""

    def __init__(self, config: Config, record: Run, policy: DiffusionPolicy, store: EpisodeStore):
        self.config, self.record = config, record
        torch.manual_seed(config.seed)  # the new heads' weights
        self.planner = Planner(PlannerConfig(policy.config, config.model, config.search), policy.spec)
        imitation = Imitation(copy.deepcopy(policy), config.imitation)
        assert isinstance(imitation.policy, DiffusionPolicy)
        self.planner.prior = imitation.policy  # the averaged weights fly; the trained ones learn
        self.planner.eval()
        self.key = self._encode(store)
        self.rng = np.random.default_rng(config.seed)
        (train,), (held_out,) = split(store, config.held_out, np.random.default_rng(config.seed))
        self.old, self.held_out = self._windows(store, train), self._windows(store, held_out)
        self.mixture = Mixture(self.old, config.batch_size, self.rng)  # the world model learns from everything
        won = succeeded(store, train)
        self.examples = Mixture(self._windows(store, won if len(won) else train), config.batch_size, self.rng)  # the policy from successes
        self._fit_normalizers(store)
        self.learner = LatentMpc(self.planner.model, imitation, config.learner, torch.Generator().manual_seed(config.seed))
        self.episodes, self.pretrained = 0, False
        self.flown: list[dict] = []
        if self._state.exists():
            self._load()

    def pretrain(self) -> None:
        """The world model alone, on the offline rows; the policy was trained before."""
        config = self.config
        if not self.pretrained:
            with self.record.timed("pretrain"):
                for step in track(range(config.pretrain_updates), "world model"):
                    metrics = self.learner.update_model(self.mixture.draw())
                    if step % 50 == 0 or step == config.pretrain_updates - 1:
                        self.record.log(kind="pretrain", update=step, **metrics)
                self.learner.calibrate(to_batch(self.held_out.read(np.arange(len(self.held_out)))))
            self.pretrained = True
            self._save()

    def open_online(self, spec: RobotSpec) -> EpisodeStore:
        path = self.config.out / "online.zarr"
        if path.exists():
            return EpisodeStore.open(path, "a")
        return EpisodeStore.create(path, spec, {"source": "robolearn finetune", "checkpoint": str(self.config.checkpoint)})

    def fly(self, robot: SafeRobot, online: EpisodeStore, probe: LimitProbe) -> None:
        """One exploring episode into the store; one that was stored before a crash is not flown again."""
        index = self.episodes
        if index < len(online):
            return
        planner, config = self.planner, self.config
        planner.release.fill_(min(1.0, index / max(1, config.release_episodes)))
        pilot = PolicyPilot(planner, config.chunk, seed=config.seed + index, source=Source.PLANNER)
        written, violations = probe.setpoints, Counter(probe.violations)
        with self.record.timed("fly"):
            episode = rollout(robot, pilot, task_for(config.robot.body), np.random.default_rng([config.seed, index]))
        doubt = episode.notes["uncertainty"]
        meta = {
            "episode": index,
            "uncertainty": float(np.nanmean(doubt)),
            "uncertainty_max": float(np.nanmax(doubt)),
            "setpoints": probe.setpoints - written,
            "violations": dict(probe.violations - violations),
        }
        online.append(replace(episode, meta={**episode.meta, **meta}))
        self._log_doubt(index, doubt)

    def learn(self, online: EpisodeStore) -> None:
        """Updates on half old, half new rows, then the session is saved: from here on the episode counts."""
        config, meta = self.config, online.meta(self.episodes)
        with self.record.timed("learn"):
            self._encode(online)
            self.mixture.new = self._windows(online, np.arange(len(online)))
            won = succeeded(online, np.arange(len(online)))
            self.examples.new = self._windows(online, won) if len(won) else None
            model = [self.learner.update_model(self.mixture.draw()) for _ in range(config.model_updates)]
            policy = [self.learner.update_policy(self.examples.draw()) for _ in range(config.policy_updates)]
            self.learner.calibrate(to_batch(self.held_out.read(np.arange(len(self.held_out)))))
        row = {name: meta[name] for name in _LOGGED}
        self.flown.append(row)
        self.episodes += 1
        self._save()  # before it is logged: killed in between, the row is logged on resuming, and never twice
        self.record.log(kind="episode", **row)
        self.record.log(kind="update", episode=row["episode"], **mean_metrics(model), **mean_metrics(policy))

    def summary(self) -> dict:
        total = lambda name: dict(sum((Counter(row[name]) for row in self.flown), Counter()))  # noqa: E731
        return {
            "episodes": len(self.flown),
            "successes": sum(row["success"] for row in self.flown),
            "interventions": total("interventions"),
            "setpoints": sum(row["setpoints"] for row in self.flown),
            "violations_at_the_actuator": total("violations"),
            "steps": sum(row["length"] for row in self.flown),
        }

    def _encode(self, store: EpisodeStore) -> str | None:
        """Cache the frozen encoder's features of rows that have none; None for a robot without cameras."""
        prior = self.planner.prior
        if prior.encoder is None or prior.config.encoder is None:
            return None
        return cache_features(store, prior.encoder, prior.config.encoder)

    def _windows(self, store: EpisodeStore, episodes: np.ndarray) -> Windows:
        prior = self.planner.prior
        return Windows(
            store,
            prior.history,
            prior.horizon,
            cameras=tuple(prior.spec.cameras),
            state_keys=tuple(prior.spec.state),
            episodes=[episodes],
            features_key=self.key,
            images=False,
            future=True,
        )

    def _fit_normalizers(self, store: EpisodeStore) -> None:
        model = self.planner.model
        if model.feature_norm is not None and self.key is not None:
            model.feature_norm.fit(store.features(self.key))
        model.state_norm.fit(self.old.lowdim("state"))
        action = self.planner.spec.action  # the whole admitted range: the planner searches all of [-1, 1]
        model.action_norm.fit(np.array([action.low, action.high]))

    def _log_doubt(self, episode: int, doubt: np.ndarray) -> None:
        with (self.config.out / "uncertainty.jsonl").open("a") as file:
            for step, value in enumerate(doubt):
                file.write(json.dumps({"episode": episode, "step": step, "uncertainty": float(value)}) + "\n")

    @property
    def _state(self) -> Path:
        return self.config.out / "state.pt"

    def _save(self) -> None:
        save_state(
            self._state,
            {
                "learner": self.learner.state_dict(),
                "rng": json.dumps(self.rng.bit_generator.state),
                "episodes": self.episodes,
                "flown": self.flown,
            },
        )

    def _load(self) -> None:
        state = load_state(self._state)
        self.learner.load_state_dict(state["learner"])
        self.rng.bit_generator.state = json.loads(state["rng"])
        self.episodes, self.flown, self.pretrained = state["episodes"], state["flown"], True
        logged = {row.get("episode") for row in read_metrics(self.config.out / "metrics.jsonl") if row.get("kind") == "episode"}
        for row in self.flown:
            if row["episode"] not in logged:
                self.record.log(kind="episode", **row)


def succeeded(store: EpisodeStore, episodes: np.ndarray) -> np.ndarray:
    """Those of `episodes` that are not known to have failed."""
    return np.array([i for i in episodes if store.meta(int(i)).get("success") is not False], dtype=np.int64)


def mean_metrics(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} if rows else {}
