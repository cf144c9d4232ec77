"""The files that actor and learner meet at, below a run's folder."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from robolearn.agents.agent import Agent
from robolearn.core.checkpoint import load_weights_into, save_checkpoint
from robolearn.core.errors import UserError
from robolearn.core.files import write_atomic

Said = Mapping[str, Any]


class Channel:
    """`publish` and `take` weights; `say` how far the learner is, `wait` for it."""

    def __init__(self, out: Path):
        self.out, self.online, self.complaint = out, out / "online.zarr", out / "learner.log"
        self.regime = out / "learner/regime.json"  # what the actor found out to be better, where it was told to
        self.learner = out / "learner"  # a run of its own: config.yaml, metrics.jsonl
        self.weights, self.offline_weights = self.learner / "weights.pt", self.learner / "offline.pt"
        self.state, self.progress = self.learner / "state.pt", self.learner / "progress.json"

    def publish(self, agent: Agent, episodes: int, updates: int) -> None:
        """Weights after learning from so many online episodes."""
        save_checkpoint(self.weights, agent, agent.config, {"episodes": episodes, "updates": updates})
        self.say(episodes, updates)

    def say(self, episodes: int, updates: int, **more: Any) -> None:
        write_atomic(self.progress, json.dumps({"episodes": episodes, "updates": updates, **more}).encode())

    def said(self) -> Said:
        """Nothing yet: an empty mapping."""
        return json.loads(self.progress.read_text()) if self.progress.exists() else {}

    def take(self, agent: Agent) -> Said:
        """The newest weights into the actor's agent, in place; what is said about them."""
        return load_weights_into(self.weights, agent)

    def wait(self, ready: Callable[[Said], bool], learner: subprocess.Popen[bytes], poll_s: float = 0.02) -> None:
        """Until the learner has said enough. UserError with its last words: it died."""
        while not ready(self.said()):
            if learner.poll() is not None:
                words = self.complaint.read_text(errors="replace").strip().splitlines()
                raise UserError(f"{self.out}: the learner stopped: {words[-1] if words else 'it said nothing'}; see {self.complaint}")
            time.sleep(poll_s)
