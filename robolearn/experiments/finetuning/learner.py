"""The learner's process: python -m robolearn.experiments.finetuning.learner RUN_FOLDER. It ends when its standard input is closed."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robolearn.core.checkpoint import load_state, save_state
from robolearn.core.config import load_config
from robolearn.core.files import append_line
from robolearn.core.types import Metrics
from robolearn.data.replay import Replay
from robolearn.data.store import EpisodeStore
from robolearn.data.windows import split
from robolearn.experiments.finetune_config import Config
from robolearn.experiments.finetuning.channel import Channel
from robolearn.experiments.vision import cache_features, give_weights
from robolearn.learners.pretraining.keypoints import PretrainConfig
from robolearn.learners.rl.finetuning import FineTuning, fit_units

SLICE = 25  # updates between two looks at what is new
KEEP_S = 60.0  # between two kept states of the offline phase
NICE = 5  # the actor comes first


class LearnerProcess:
    """Offline updates, then for each new episode of online.zarr the updates it earned."""

    def __init__(self, config: Config, out: Path):
        assert config.agent is not None
        self.config, self.channel, self.out = config, Channel(out), out
        torch.manual_seed(config.seed)
        store = EpisodeStore.open(config.data)
        (train,), (held_out,) = split(store, config.held_out, np.random.default_rng(config.seed))
        agent = config.agent.build(store.spec)
        self.key: str | None = None
        if agent.encoder is not None and agent.config.encoder is not None:
            give_weights(
                agent.encoder, agent.config.encoder, [store], [train], PretrainConfig(), config.seed, out / "learner/encoder.safetensors"
            )
            self.key = cache_features(store, agent.encoder, agent.config.encoder)
        features = agent.encoder.out_dim if agent.encoder is not None else 0
        rows = lambda chosen: Replay(agent.spec, agent.history, features, agent.config.discount).extend(store, chosen, self.key)  # noqa: E731
        old, self.held_out = rows(train), rows(held_out)
        fit_units(agent, old)
        agent.seed(config.seed)
        self.tuning = FineTuning(agent, old, config.seed)
        self.offline_done = 0
        if self.channel.state.exists():
            self._resume()

    def run(self, stopped: threading.Event) -> None:
        self._offline(stopped)
        while not stopped.is_set():
            if not self._learn_from_new(stopped):
                stopped.wait(0.02)

    def _offline(self, stopped: threading.Event) -> None:
        """The offline phase; its weights are published once it is over."""
        kept, wanted = time.monotonic(), self.config.offline_updates
        while self.offline_done < wanted and not stopped.is_set():
            count = min(SLICE, wanted - self.offline_done)
            self._log("offline", self.tuning.offline(count))
            self.offline_done += count
            self.channel.say(-1, self.offline_done, of=wanted)
            if time.monotonic() - kept > KEEP_S:
                self._keep()
                kept = time.monotonic()
        if not bool(self.tuning.agent.online) and not stopped.is_set():
            self._calibrate()
            self.channel.publish(self.tuning.agent, 0, self.offline_done, offline=True)
            self.tuning.begin_online()
            self._keep()
            self.channel.publish(self.tuning.agent, 0, self.offline_done)

    def _learn_from_new(self, stopped: threading.Event) -> bool:
        """The next episode, if there is one, and the updates it earned. False: there was none."""
        seen = self.tuning.new.episodes
        if not self.channel.online.exists():
            return False
        online = EpisodeStore.open(self.channel.online)
        if len(online) <= seen:
            return False
        self._add(online, seen)
        while not stopped.is_set() and (done := self.tuning.learn(SLICE)):
            self._log("online", done, episode=seen)
        if stopped.is_set():
            return True
        self._calibrate()
        self._keep()
        self.channel.publish(self.tuning.agent, seen + 1, self.tuning.learner.updates)
        return True

    def _add(self, online: EpisodeStore, index: int) -> None:
        agent = self.tuning.agent
        features = None
        if agent.encoder is not None and agent.config.encoder is not None:
            key = cache_features(online, agent.encoder, agent.config.encoder)
            start = int(online.starts[index])
            features = np.array(online.features(key)[start : start + online.length(index)])
        self.tuning.add(online.read(index), features)

    def _calibrate(self) -> None:
        if self.tuning.agent.model is not None:
            self.tuning.learner.calibrate(self.held_out)

    def _keep(self) -> None:
        """Everything but the rows, which the stores hold."""
        state = self.tuning.state_dict() | {"episodes": self.tuning.new.episodes, "offline_done": self.offline_done}
        save_state(self.channel.state, state | {"rng": json.dumps(state["rng"]), "torch": torch.get_rng_state()})

    def _resume(self) -> None:
        state = load_state(self.channel.state)
        if state["episodes"]:
            online = EpisodeStore.open(self.channel.online)
            for index in range(state["episodes"]):
                self._add(online, index)
        self.tuning.load_state_dict(state | {"rng": json.loads(state["rng"])})
        torch.set_rng_state(state["torch"])
        self.offline_done = state["offline_done"]

    def _log(self, phase: str, done: list[Metrics], **more: Any) -> None:
        names = dict.fromkeys(name for row in done for name in row)
        means = {name: float(np.mean([row[name] for row in done if name in row])) for name in names}
        row = {"phase": phase, "updates": self.tuning.learner.updates, **more, **means}
        append_line(self.out / "learner/metrics.jsonl", json.dumps(row))


def main(out: Path) -> None:
    os.nice(NICE)
    config = load_config(out / "config.yaml", Config)
    torch.set_num_threads(config.threads)
    stopped = threading.Event()
    watch = threading.Thread(target=lambda: (sys.stdin.read(), stopped.set()), daemon=True)  # the actor is gone, however it went
    watch.start()
    LearnerProcess(config, out).run(stopped)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
