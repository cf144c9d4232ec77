"""The learner's process: python -m robolearn.experiments.finetuning.learner RUN_FOLDER. It ends when its standard input is closed."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch

from robolearn.core.checkpoint import load_state, load_weights_into, save_checkpoint, save_state
from robolearn.core.config import load_config
from robolearn.core.errors import UserError
from robolearn.core.run import Run, read_json
from robolearn.core.types import Metrics
from robolearn.data.journal import JOURNAL
from robolearn.data.replay import Replay
from robolearn.data.store import EpisodeStore
from robolearn.data.windows import split
from robolearn.experiments.finetune_config import HOW, Config
from robolearn.experiments.finetuning.channel import BEAT_S, Channel
from robolearn.experiments.vision import cache_features, give_weights
from robolearn.learners.pretraining.keypoints import PretrainConfig
from robolearn.learners.rl.finetuning import FineTuning, fit_units

SLICE = 25  # updates for one row of the log
KEEP_S = 60.0  # between two kept states of the offline phase
POLL_S = 0.02  # between two looks for a new episode
NICE = 5  # the actor comes first


class LearnerProcess:
    """Offline updates, then for each new episode of online.zarr the updates it earned. It may be ended between any two instructions.

    record: its own folder and log. UserError: the data or the online episodes are not those that its kept state learned from.
    """

    def __init__(self, config: Config, channel: Channel, record: Run):
        self.config, self.channel, self.record = config, channel, record
        torch.manual_seed(config.seed)
        store = EpisodeStore.open(config.data)
        self.data = store.identity()
        (train,), (held_out,) = split(store, config.held_out, np.random.default_rng(config.seed))
        agent = config.whole_agent.build(store.spec)
        self.key: str | None = None
        if config.checkpoint is not None and agent.policy is not None:
            load_weights_into(config.checkpoint, agent.policy)
        elif agent.encoder is not None and agent.config.encoder is not None:
            kept = record.out / "encoder.safetensors"
            give_weights(agent.encoder, agent.config.encoder, [store], [train], PretrainConfig(), config.seed, kept)
        if agent.encoder is not None and agent.config.encoder is not None:
            self.key = cache_features(store, agent.encoder, agent.config.encoder)
        features = agent.encoder.out_dim if agent.encoder is not None else 0
        rows = lambda chosen: Replay(agent.spec, agent.history, features, agent.config.discount).extend(store, chosen, self.key)  # noqa: E731
        old, self.held_out = rows(train), rows(held_out)
        fit_units(agent, old, policy=config.checkpoint is None)
        agent.seed(config.seed)
        self.tuning = FineTuning(agent, old, config.seed, taught=config.checkpoint is not None)
        self.offline_done = 0
        self.online: EpisodeStore | None = None
        self._looked_at = 0  # bytes of its journal, when `online` was opened
        if channel.state.exists():
            self._resume()
        record.rewind(self.tuning.learner.updates)

    def run(self) -> NoReturn:
        self.offline()
        while True:
            if not self.learn_from_new():
                time.sleep(POLL_S)

    def offline(self) -> None:
        """What is left of the offline phase. What is kept is published in any case: killed, it may have kept more than it published."""
        kept, wanted, agent = time.monotonic(), self.config.offline_updates, self.tuning.agent
        while self.offline_done < wanted:
            count = min(SLICE, wanted - self.offline_done)
            self._log("offline", self.tuning.offline(count))
            self.offline_done += count
            self.channel.say(-1, self.offline_done, of=wanted)
            if time.monotonic() - kept > KEEP_S:
                self._keep()
                kept = time.monotonic()
        if not bool(agent.online):
            self._calibrate()
            save_checkpoint(self.channel.offline_weights, agent, agent.config, {"updates": self.offline_done})
            if self.config.regime == "auto":
                self._publish()  # the actor finds out with these
                while not self.channel.regime.exists():
                    time.sleep(POLL_S)
                self.tuning.settle(read_json(self.channel.regime)["keep"])
            self.tuning.begin_online()
            self._keep()
        self._publish()

    def learn_from_new(self) -> bool:
        """The next episode, if there is one, and the updates it earned. False: there was none."""
        seen = self.tuning.new.episodes
        if (online := self._look(seen)) is None:
            return False
        self._add(online, seen)
        while done := self.tuning.learn(SLICE):
            self._log("online", done, episode=seen)
        self._calibrate()
        self._keep()
        self._publish()
        return True

    def _look(self, seen: int) -> EpisodeStore | None:
        """online.zarr with more than `seen` episodes. Opened anew only where it was written to: thousands of episodes take long to open."""
        journal = self.channel.online / JOURNAL
        if not journal.exists():
            return None
        if self.online is None or (len(self.online) <= seen and journal.stat().st_size != self._looked_at):
            self._looked_at = journal.stat().st_size
            self.online = EpisodeStore.open(self.channel.online)
        return self.online if len(self.online) > seen else None

    def _publish(self) -> None:
        self.channel.publish(self.tuning.agent, self.tuning.new.episodes, self.tuning.learner.updates)

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
        state = self.tuning.state_dict() | {"episodes": self.tuning.new.episodes, "offline_done": self.offline_done, "data": self.data}
        save_state(self.channel.state, state | {"rng": json.dumps(state["rng"]), "torch": torch.get_rng_state()})

    def _resume(self) -> None:
        path, state = self.channel.state, load_state(self.channel.state)
        try:
            if state["data"] != self.data:
                raise UserError(f"{path}: began on other episodes: {self.config.data} was changed since; choose another --out")
            if self.channel.regime.exists():
                self.tuning.settle(read_json(self.channel.regime)["keep"])
            for index in range(state["episodes"]):
                if (online := self._look(index)) is None:
                    raise UserError(f"{self.channel.online}: {index} episodes; {path} has learned from {state['episodes']}")
                self._add(online, index)
            self.tuning.load_state_dict(state | {"rng": json.loads(state["rng"])})
            torch.set_rng_state(state["torch"])
            self.offline_done = state["offline_done"]
        except (KeyError, RuntimeError, TypeError, ValueError) as error:  # names or shapes of tensors
            raise UserError(f"{path}: saved by another robolearn ({type(error).__name__}: {error}); choose another --out") from error

    def _log(self, phase: str, done: list[Metrics], **more: int) -> None:
        names = dict.fromkeys(name for row in done for name in row)
        means = {name: float(np.mean([row[name] for row in done if name in row])) for name in names}
        self.record.log(phase=phase, step=self.tuning.learner.updates, **more, **means)


def main(out: Path) -> None:
    os.nice(NICE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the actor, which then lets go of us
    threading.Thread(target=end_with_the_actor, daemon=True).start()
    try:
        channel = Channel(out)
        threading.Thread(target=live, args=(channel,), daemon=True).start()
        config = load_config(out / "config.yaml", Config)
        torch.set_num_threads(config.threads)
        with Run(channel.learner, config, grows="episodes", how=HOW) as record:
            LearnerProcess(config, channel, record).run()
    except UserError as error:
        sys.exit(str(error))


def end_with_the_actor() -> None:
    """Standard input is a pipe that ends when the actor does, however it went. At once: what is kept is kept whole."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(0)


def live(channel: Channel) -> NoReturn:
    while True:
        channel.beat()
        time.sleep(BEAT_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
