"""Stand in for a real arm: speak its protocol at an address, with physics behind it, for drivers and programs to be tried on."""

from __future__ import annotations

import time
from dataclasses import dataclass

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
    seconds: float = 0.0
    """End by itself after so long [s]; 0: never."""


def run(config: Config) -> None:
    """Raises UserError for an arm without a double, HardwareError where it does not start."""
    if config.arm not in arms.names():
        raise UserError(f"arm: {config.arm!r}; valid: {', '.join(arms.names())}")
    if config.seconds < 0:
        raise UserError(f"seconds: {config.seconds} s; valid: 0 or more")
    console, ends = Console(stderr=True, soft_wrap=True), time.monotonic() + (config.seconds or np.inf)
    with launch(config.arm) as double:
        print(double.address, flush=True)
        console.print(f"{config.arm} at {double.address}; --robot.body {config.arm} --robot.arm.address {double.address}")
        with Live(_table(double), console=console, refresh_per_second=5, transient=True) as live:
            while time.monotonic() < ends:
                time.sleep(0.2)
                live.update(_table(double))


def _table(double: Double) -> Table:
    panel, table = double.panel, Table("joint", "at [rad]", "told [rad]", "[rad/s]")
    for name, q, goal, speed in zip(double.model.spec.joints, panel.q, panel.goal, panel.dq, strict=True):
        table.add_row(name, f"{q:+.3f}", f"{goal:+.3f}", f"{speed:+.3f}")
    table.add_row("gripper", f"{panel.gripper:.2f}", "", "")
    table.caption = f"{panel.writes:.0f} setpoints, {panel.contacts:.0f} steps in contact, motors {'on' if panel.powered else 'off'}"
    return table
