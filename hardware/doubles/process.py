"""A double in a process of its own: started, waited for, and gone when its parent is."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from importlib import import_module
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

import numpy as np

from hardware import arms
from hardware.doubles.chain import Chain
from hardware.doubles.panel import Panel
from hardware.types import HardwareError

PRIORITY = 70  # of SCHED_FIFO: above that of the loop that talks to it, and whose SDK may busily wait for the answer
READY_S = 60.0  # a busy machine compiles a model and imports MuJoCo in this time


class Double:
    """`address` is what the arm's driver takes. Leaving the context ends the process."""

    def __init__(self, name: str, options: dict[str, object] | None = None) -> None:
        self.family, self.model = arms.find(name)
        self.panel = Panel(len(self.model.spec.joints))
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        job = (self.family.double, name, self.panel.name, theirs, options or {})
        self._process = context.Process(target=_serve, args=job, daemon=True, name=f"double of {name}")
        self._process.start()
        theirs.close()
        try:
            if not self._pipe.poll(READY_S):
                raise HardwareError(f"double of {name}: not ready after {READY_S:g} s")
            self.address: str = self._pipe.recv()
        except (EOFError, HardwareError) as error:
            self.close()
            raise HardwareError(f"double of {name}: did not start: {error or 'its process ended'}") from error

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    def place(self, q: np.ndarray, gripper: float | None = None) -> None:
        """Put the arm at rest at q (J,) [rad], as hands would, and the gripper (0..1). A limp one falls on, unless `panel.hold` is 1."""
        self._pipe.send((np.asarray(q, dtype=np.float64), gripper))
        self._pipe.recv()

    def kill(self) -> None:
        """As a power cut would: at once."""
        os.kill(self.pid, signal.SIGKILL)
        self._process.join()

    def close(self) -> None:
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(5.0)
            if self._process.is_alive():
                self.kill()
        self._pipe.close()
        self.panel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def launch(name: str, **options: object) -> Double:
    """Start a double of an arm by its name. options: of the family's `serve`. Raises HardwareError."""
    return Double(name, options)


def _serve(module: str, name: str, panel: str, pipe: Connection, options: dict[str, object]) -> None:
    """In the process: the physics, and the family's `serve(chain, options) -> address`, which starts threads and returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    with contextlib.suppress(AttributeError, OSError):  # an arm's electronics wait for nobody; without the right to it, they do here
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    shared = Panel(len(arms.find(name)[1].spec.joints), panel)
    chain = Chain(arms.find(name)[1], shared)
    pipe.send(import_module(module).serve(chain, **options))
    while True:
        try:
            chain.place(*pipe.recv())
            pipe.send(None)
        except (EOFError, OSError):  # the parent is gone, however it went
            os._exit(0)
