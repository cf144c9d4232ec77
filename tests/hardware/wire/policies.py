"""Policies that sway an arm, and what can go wrong with them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading

import numpy as np
import torch

from hardware.types import RobotSpec
from robolearn.core.types import Obs, Policy
from tests.hardware.wire.swaying import HORIZON, Swing, think


class Sway(Policy):
    """Answers while `free` is set; raises where `broken`."""

    def __init__(self, spec: RobotSpec, ends: np.ndarray) -> None:
        """ends: two actions (2, A)."""
        super().__init__()
        self.spec, self.history, self.horizon, self.ends = spec, 1, HORIZON, ends
        self.free, self.broken = threading.Event(), False
        self.free.set()
        self.reset()

    def reset(self) -> None:
        self._swing = Swing(self.ends)

    def act(self, obs: Obs) -> torch.Tensor:
        assert self.free.wait(20)
        if self.broken:
            raise ZeroDivisionError("a bug in the policy")
        return torch.from_numpy(self.answer())[None]

    def answer(self) -> np.ndarray:
        return self._swing.rows()


class Elsewhere(Sway):
    """Thinks in another process."""

    def __init__(self, spec: RobotSpec, ends: np.ndarray) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=think, args=(theirs, ends), daemon=True)
        self._process.start()
        theirs.close()
        super().__init__(spec, ends)
        super().__init__(spec, ends)

    def reset(self) -> None:
        self._pipe.send(True)
        self._pipe.recv()

    def answer(self) -> np.ndarray:
        self._pipe.send(False)
        return self._pipe.recv()

    def kill(self) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.join()
