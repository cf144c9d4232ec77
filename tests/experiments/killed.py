"""What test_training.py starts: a training that is killed again and again, at random instants, until it is done.

`python killed.py DATA OUT KILLS`: prints how often it was killed. Each attempt is a process of its own, forked after the imports, and
ended by SIGKILL.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch.utils.tensorboard  # noqa: F401 or every attempt would spend its second on it

from robolearn.core.types import Batch, Metrics
from robolearn.experiments.train import run
from robolearn.learners.imitation import Imitation
from tests.experiments.training_config import short

WITHIN_S = 0.5  # of something to go on from
SLOW_S = 0.03  # before each of the 120 updates: the last kill comes before the training is done, on any machine


def attempt(data: Path, out: Path) -> int:
    """The process that trains."""
    if process := os.fork():
        return process
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        update = Imitation.update

        def slow(self: Imitation, batch: Batch) -> Metrics:
            time.sleep(SLOW_S)
            return update(self, batch)

        Imitation.update = slow
        run(short(data, out))
        os._exit(0)
    except BaseException:
        os._exit(1)


def main(data: Path, out: Path, kills: int) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    rng, killed = np.random.default_rng(0), 0
    while True:
        process = attempt(data, out)
        ended = None
        while ended is None and not (out / "training.pt").exists():  # from then on there is something to go on from
            ended = signal.sigtimedwait({signal.SIGCHLD}, 0.01)
        within = float(rng.uniform(0.0, WITHIN_S)) if killed < kills else 60.0
        if ended is None and signal.sigtimedwait({signal.SIGCHLD}, within) is None:
            os.kill(process, signal.SIGKILL)
            killed += 1
            signal.sigtimedwait({signal.SIGCHLD}, 60.0)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if code != -signal.SIGKILL:
            print(killed)
            sys.exit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
