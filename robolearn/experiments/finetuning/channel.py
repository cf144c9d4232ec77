"""The files that actor and learner meet at, below a run's folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from robolearn.agents.agent import Agent
from robolearn.core.checkpoint import load_weights_into, save_checkpoint
from robolearn.core.errors import UserError
from robolearn.core.files import write_atomic


class Channel:
    """`publish` and `take` weights; `say` how far the learner is."""

    def __init__(self, out: Path):
        self.out = out
        self.weights, self.offline_weights = out / "learner/weights.pt", out / "learner/offline.pt"
        self.state, self.progress, self.complaint = out / "learner/state.pt", out / "learner/progress.json", out / "learner/stderr.log"
        self.online = out / "online.zarr"

    def publish(self, agent: Agent, episodes: int, updates: int, offline: bool = False) -> None:
        """Weights after learning from so many online episodes. offline: those of before the first are kept apart as well."""
        meta = {"episodes": episodes, "updates": updates}
        save_checkpoint(self.weights, agent, agent.config, meta)
        if offline:
            save_checkpoint(self.offline_weights, agent, agent.config, meta)
        self.say(episodes, updates)

    def say(self, episodes: int, updates: int, **more: Any) -> None:
        write_atomic(self.progress, json.dumps({"episodes": episodes, "updates": updates, **more}).encode())

    def said(self) -> Mapping[str, Any]:
        """Nothing yet: an empty mapping."""
        return json.loads(self.progress.read_text()) if self.progress.exists() else {}

    def take(self, agent: Agent) -> Mapping[str, Any]:
        """The newest weights into the actor's agent, in place; what is said about them."""
        return load_weights_into(self.weights, agent)

    def wait(self, ready: Callable[[Mapping[str, Any]], bool], alive: Callable[[], bool], poll_s: float = 0.02) -> None:
        """Until the learner has said enough. UserError with its last words: it died."""
        while not (self.weights.exists() and ready(self.said())):
            if not alive():
                words = self.complaint.read_text().strip().splitlines() if self.complaint.exists() else []
                raise UserError(f"{self.out}: the learner stopped: {words[-1] if words else 'it said nothing'}; see {self.complaint}")
            time.sleep(poll_s)
