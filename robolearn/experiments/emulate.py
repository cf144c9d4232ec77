"""Stand in for a real arm: speak its protocol at an address, with physics behind it, for drivers and programs to be tried on."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

from hardware import arms
from hardware.doubles import Double, launch
from robolearn.core.errors import UserError


@dataclass(frozen=True)
class Config:
    """Run a double of an arm until Ctrl-C. It prints the address that a driver takes (`--robot.arm.address`)."""

    arm: str = "so101"
    """Which arm: so101, ur5e, fr3, xarm7, vx300s, openarm, ..."""
    scene: Literal["reach"] | None = None
    """reach: a table, a green ball, and cameras `front` and `wrist`, whose addresses are printed after the arm's (`--robot.arm.cameras`).
    A ball that the tool has reached hangs somewhere else a moment later."""
    size: tuple[int, int] = (84, 84)
    """Height and width of their pictures [px]."""
    seed: int = 0
    """Of where the ball hangs."""
    seconds: float = 0.0
    """End by itself after so long [s]; 0: never."""


def run(config: Config) -> None:
    """Raises UserError for an arm without a double, HardwareError where it does not start."""
    if config.arm not in arms.names():
        raise UserError(f"arm: {config.arm!r}; valid: {', '.join(arms.names())}")
    if config.seconds < 0:
        raise UserError(f"seconds: {config.seconds} s; valid: 0 or more")
    if not all(16 <= side <= 2048 for side in config.size):
        raise UserError(f"size: {config.size} px; valid: 16 to 2048 each")
    console, ends = Console(stderr=True, soft_wrap=True), time.monotonic() + (config.seconds or np.inf)
    with launch(config.arm, config.scene, config.size) as double:
        print("\n".join([double.address, *double.cameras.values()]), flush=True)
        console.print(f"{config.arm} at {double.address}; --robot.body {config.arm} --robot.arm.address {double.address}")
        for name, source in double.cameras.items():
            console.print(f"camera {name}: {{source: {source!r}, size: {list(config.size)}}}")
        goals = _Goals(double, config.seed) if config.scene else None
        live = Live(_table(double), console=console, refresh_per_second=5, transient=True)
        with suppress(KeyboardInterrupt), live:  # which is how it ends
            while time.monotonic() < ends:
                time.sleep(0.2)
                if goals is not None:
                    goals.look()
                live.update(_table(double))


class _Goals:
    """The scene's goals, one after the other."""

    STAYS_S = 2.0  # for whoever reached it to see that it did

    def __init__(self, double: Double, seed: int) -> None:
        self._double, self._rng, self._since = double, np.random.default_rng(seed), np.inf
        double.place_goal(double.stage.draw(self._rng))

    def look(self) -> None:
        """The next one, where this one was reached some time ago."""
        now = time.monotonic()
        if self._double.reached:
            self._since = min(self._since, now)
        if now - self._since > self.STAYS_S:
            self._double.place_goal(self._double.stage.draw(self._rng))
            self._since = np.inf


def _table(double: Double) -> Table:
    panel, table = double.panel, Table("joint", "at [rad]", "told [rad]", "[rad/s]")
    for name, q, goal, speed in zip(double.model.spec.joints, panel.q, panel.goal, panel.dq, strict=True):
        table.add_row(name, f"{q:+.3f}", f"{goal:+.3f}", f"{speed:+.3f}")
    table.add_row("gripper", f"{panel.gripper:.2f}", "", "")
    table.caption = f"{panel.writes:.0f} setpoints, {panel.contacts:.0f} steps in contact, motors {'on' if panel.powered else 'off'}"
    return table
