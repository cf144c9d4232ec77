"""The files that actor and learner meet at, below a run's folder.

The learner touches learner.log every second, so long as its process runs: a healthy one may learn for as long as it likes.
"""

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
from robolearn.data.journal import JOURNAL

Said = Mapping[str, Any]
BEAT_S = 1.0  # between two signs of life
START_S = 300.0  # until the first of them: on a busy machine a learner imports for long
_AT_FIRST = {"config.yaml", "learner.log", "learner", "online.zarr"}


class Channel:
    """`publish` and `take` weights; `say` how far the learner is, `wait` for it, `look` whether it lives.

    patience_s: without a sign of life after which it is given up.
    """

    def __init__(self, out: Path, patience_s: float = 300.0):
        self.out, self.online, self.complaint = out, out / "online.zarr", out / "learner.log"
        self.regime = out / "learner/regime.json"  # what the actor found out to be better, where it was told to
        self.learner = out / "learner"  # a run of its own: config.yaml, metrics.jsonl
        self.weights, self.offline_weights = self.learner / "weights.pt", self.learner / "offline.pt"
        self.state, self.progress = self.learner / "state.pt", self.learner / "progress.json"
        self.patience_s = patience_s
        self._heard, self._at = 0, time.monotonic()  # the last sign of life, and when it was seen: by a clock that nobody sets
        self._started = False  # the learner has given one

    @property
    def blank(self) -> bool:
        """Nothing was flown, nothing that was learned is kept, and nothing else lies here."""
        if not self.out.is_dir() or {path.name for path in self.out.iterdir()} - _AT_FIRST:
            return False
        journal = self.online / JOURNAL
        return not (self.state.exists() or self.weights.exists() or (journal.exists() and journal.stat().st_size))

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

    def beat(self) -> None:
        """A sign of life."""
        self.complaint.touch()

    def wait(self, ready: Callable[[Said], bool], learner: subprocess.Popen[bytes], poll_s: float = 0.02) -> None:
        """Until the learner has said enough. UserError as `look`."""
        while not ready(self.said()):
            self.look(learner)
            time.sleep(poll_s)

    def look(self, learner: subprocess.Popen[bytes]) -> None:
        """UserError: the learner died, with its last words, or has given no sign of life for so long that it hangs."""
        if learner.poll() is not None:
            words = self.complaint.read_text(errors="replace").strip().splitlines()
            raise UserError(f"{self.out}: the learner stopped: {words[-1] if words else 'it said nothing'}; see {self.complaint}")
        if self._silent_s() > self._allowed_s:
            time.sleep(3 * BEAT_S)  # both may have been stopped (Ctrl-Z), and this process woken first
            if (silent := self._silent_s()) > self._allowed_s:
                raise UserError(
                    f"{self.out}: the learner hangs: no sign of life for {silent:.0f} s; valid up to {self._allowed_s:g} (patience_s)"
                )

    def _silent_s(self) -> float:
        """Since its last sign of life was seen."""
        heard, now = self.complaint.stat().st_mtime_ns, time.monotonic()
        if heard != self._heard:
            self._started = self._heard > 0  # the first is of the actor, who made the file
            self._heard, self._at = heard, now
        return now - self._at

    @property
    def _allowed_s(self) -> float:
        return self.patience_s if self._started else max(self.patience_s, START_S)
