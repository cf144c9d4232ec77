"""Fine-tuning as processes that are killed: by the command line in a group of its own, or its learner alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from robolearn.core.config import save_config
from robolearn.experiments.finetune import Config

PATIENCE_S = 600.0  # of a machine that others use as well


class Started:
    """`robolearn finetune` and the learner that it starts. folder: for its config and what it says."""

    def __init__(self, config: Config, folder: Path):
        save_config(config, folder / "config.yaml")
        self._said = folder / "stderr.log"
        words = [sys.executable, "-m", "robolearn.cli", "finetune", str(folder / "config.yaml")]
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(words, stderr=said, start_new_session=True)

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left of it, should a test fail half-way."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def until(self, ready: Callable[[], bool]) -> None:
        """Looks every millisecond."""
        wait_until(lambda: self.process.poll() is not None or ready())
        assert self.process.poll() is None, self.last_line()

    def kill(self) -> float:
        """The actor alone, at once. Returns the seconds until the learner was gone as well."""
        learner = learner_of(self.process.pid)
        self.process.kill()
        self.process.wait()
        started = time.monotonic()
        wait_until(lambda: gone(learner))
        return time.monotonic() - started

    def interrupt(self) -> int:
        """Ctrl-C in a terminal: both processes hear it, and both are gone. Returns the exit code."""
        learner = learner_of(self.process.pid)
        os.killpg(self.process.pid, signal.SIGINT)
        code = self.process.wait(PATIENCE_S)
        assert gone(learner)
        return code

    def last_line(self) -> str:
        return self._said.read_text().strip().splitlines()[-1]


@contextmanager
def learner_killed(when: Callable[[], bool], by: int = signal.SIGKILL) -> Iterator[None]:
    """Inside, the learner that this process starts is sent that signal as soon as that is so."""

    def watch() -> None:
        wait_until(when)
        os.kill(learner_of(os.getpid()), by)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def learner_of(actor: int) -> int:
    """The process of its learner."""
    children = Path(f"/proc/{actor}/task/{actor}/children").read_text().split()
    (learner,) = [int(child) for child in children if b"finetuning.learner" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return learner


def gone(process: int) -> bool:
    """It has ended; an orphan that nobody has collected yet counts."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.001)
