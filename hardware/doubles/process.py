"""A double in a process of its own, its cameras in another: started, waited for, and gone when their parent is."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

import numpy as np

from hardware import arms
from hardware.doubles.chain import Chain
from hardware.doubles.film import film
from hardware.doubles.panel import Panel
from hardware.types import HardwareError

PRIORITY = 70  # of SCHED_FIFO: above that of the loop that talks to it
READY_S = 60.0  # a busy machine compiles a model and imports MuJoCo in this time


class Beside:
    """A process that says one thing once it is ready, and is gone when its parent is."""

    def __init__(self, name: str, target: Callable[..., None], *arguments: object) -> None:
        """target: takes the arguments, and last its end of the pipe. Raises HardwareError."""
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=target, args=(*arguments, theirs), daemon=True, name=name)
        self.process.start()
        theirs.close()
        try:
            if not self.pipe.poll(READY_S):
                raise HardwareError(f"not ready after {READY_S:g} s")
            self.said = self.pipe.recv()
        except (EOFError, HardwareError) as error:
            self.close()
            raise HardwareError(f"{name}: did not start: {error or 'its process ended'}") from error

    def kill(self) -> None:
        os.kill(self.process.pid or 0, signal.SIGKILL)
        self.process.join()

    def close(self) -> None:
        if self.process.is_alive():
            self.process.terminate()
            self.process.join(5.0)
            if self.process.is_alive():
                self.kill()
        self.pipe.close()


class Double:
    """`address` is what the arm's driver takes. Leaving the context ends the process.

    scene: "reach" puts it on hardware.mujoco.stage; `cameras` then has an address for each of its cameras, which a process of its own
    draws, so that drawing delays no protocol.
    """

    def __init__(
        self, name: str, options: dict[str, object] | None = None, scene: str | None = None, size: tuple[int, int] = (84, 84)
    ) -> None:
        """size: height and width of the pictures [px]."""
        self.family, self.model = arms.find(name)
        if scene not in (None, "reach"):
            raise HardwareError(f"double of {name}: scene {scene!r}; valid: reach, or none")
        self.panel, self.cameras = Panel(len(self.model.spec.joints)), dict[str, str]()
        self._beside, mjcf = list[Beside](), None
        try:
            if scene is not None:
                from hardware.mujoco.stage import staged

                self.stage = staged(name)
                mjcf = self.stage.arm.mjcf()
                self.place_goal(self.stage.draw(np.random.default_rng(0)))
                self._beside.append(Beside(f"cameras of {name}", film, name, mjcf, self.panel.name, size))
                self.cameras = self._beside[0].said
            self._arm = Beside(f"double of {name}", _serve, self.family.double, name, mjcf, self.panel.name, options or {})
            self._beside.append(self._arm)
        except BaseException:
            self.close()
            raise
        self.address: str = self._arm.said

    @property
    def pid(self) -> int:
        return self._arm.process.pid or 0

    def place_goal(self, position: np.ndarray) -> None:
        """Hang the scene's ball at (3,) [m, from the arm's base]."""
        self.panel.place_ball(position)

    @property
    def reached(self) -> bool:
        """Is the tool, where it really is, at the scene's goal?"""
        return self.stage.reached(self.panel.q, self.panel.ball)

    def place(self, q: np.ndarray, gripper: float | None = None) -> None:
        """Put the arm at rest at q (J,) [rad], as hands would, and the gripper (0..1). A limp one falls on, unless `panel.hold` is 1."""
        self._arm.pipe.send((np.asarray(q, dtype=np.float64), gripper))
        self._arm.pipe.recv()

    def kill(self) -> None:
        """As a power cut would: at once."""
        self._arm.kill()

    def close(self) -> None:
        for process in self._beside:
            process.close()
        self.panel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def launch(name: str, scene: str | None = None, size: tuple[int, int] = (84, 84), **options: object) -> Double:
    """Start a double of an arm by its name, on a scene where one is named. options: of the family's `serve`. Raises HardwareError."""
    return Double(name, options, scene, size)


def _serve(module: str, name: str, mjcf: str | None, panel: str, options: dict[str, object], pipe: Connection) -> None:
    """In the process: the physics, and the family's `serve(chain, options) -> address`, which starts threads and returns.

    mjcf: of the arm on its stage, where it has one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    with contextlib.suppress(AttributeError, OSError):  # an arm's electronics wait for nobody; without the right to it, they do here
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    arm = arms.find(name)[1]
    if mjcf is not None:
        from hardware.mujoco.stage import dressed

        arm = dressed(arm, mjcf)
    chain = Chain(arm, Panel(len(arm.spec.joints), panel))
    pipe.send(import_module(module).serve(chain, **options))
    while True:
        try:
            chain.place(*pipe.recv())
            pipe.send(None)
        except (EOFError, OSError):  # the parent is gone, however it went
            os._exit(0)
