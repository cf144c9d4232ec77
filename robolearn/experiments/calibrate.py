"""Walk a person through the calibration of an arm whose motors do not know how they were mounted."""

from __future__ import annotations

import select
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

from hardware import arms
from hardware.arms.calibrating import HandMoved, Walk
from hardware.calibration import Calibration
from hardware.types import HardwareError
from robolearn.core.errors import UserError

LOOK_S = 0.02  # between two readings


@dataclass(frozen=True)
class Config:
    """Move an arm by hand, joint by joint, and write down how its readings become angles: a file for `--robot.arm.calibration` or
    `--leader.calibration`. Ctrl-C leaves everything as it was."""

    arm: str = "so101"
    """Which arm: so101, koch, vx300s, gello, ..."""
    address: str = ""
    """Where it is: /dev/ttyACM0; `robolearn emulate` prints one of an arm that is not there."""
    out: Path | None = None
    """File to write; none: ARM.json in this folder."""
    overwrite: bool = False
    """Replace a file that is there."""


@runtime_checkable
class Person(Protocol):
    """Whoever moves the arm."""

    def do(self, words: str, look: Callable[[], Table]) -> None:
        """Return once it is done; call `look` all the time until then, and show what it returns."""
        ...


def run(config: Config) -> None:
    """Raises UserError for an arm that needs none, HardwareError for one that cannot be read. Writes a whole file or none."""
    if config.arm not in arms.names():
        raise UserError(f"arm: {config.arm!r}; valid: {', '.join(arms.names())}")
    by_hand = [name for name in arms.names() if arms.find(name)[1].zero]
    if config.arm not in by_hand:
        raise UserError(f"arm: {config.arm} is calibrated by its own controller, with its maker's tools; valid: {', '.join(by_hand)}")
    out = Path(f"{config.arm}.json") if config.out is None else config.out
    if out.exists() and not config.overwrite:
        raise UserError(f"out: {out} is there; --overwrite replaces it, or name another file")
    console = Console(stderr=True, soft_wrap=True)
    found = calibrate(config.arm, config.address, Terminal(console), console)
    found.save(out)
    console.print(f"{out}: calibration {found.digest}; use it with --robot.arm.calibration {out}")


def calibrate(name: str, address: str, person: Person, console: Console) -> Calibration:
    """Raises HardwareError. The arm is limp in the end, however it ends."""
    arm, model = arms.drive(name, address), arms.find(name)[1]
    assert isinstance(arm, HandMoved)
    walk = Walk(model, arm.calibration)
    person.do("Hold the arm: its motors go off now.", lambda: Table())
    arm.connect()
    try:
        arm.limp()

        def look() -> Table:
            raw = arm.readings()
            walk.see(raw)
            return _table(walk, raw)

        while walk.words is not None:
            person.do(walk.words, look)
            try:
                walk.confirm()
            except HardwareError as error:
                console.print(f"{error}", style="yellow")
    finally:
        arm.close()
    try:
        arms.drive(name, address, walk.calibration)
    except HardwareError as error:
        raise HardwareError(f"{error}; unscrew that joint, turn its motor towards the middle of its turn, and mount it again") from error
    console.print(_summary(walk))
    console.print("The motors are off: lay the arm down.")
    return walk.calibration


def _table(walk: Walk, raw: np.ndarray) -> Table:
    table = Table("joint", "reads", "lowest", "highest")
    for joint, values in zip((*walk.model.spec.joints, "gripper"), zip(raw, walk.low, walk.high, strict=True), strict=True):
        table.add_row(joint, *(f"{value:.4g}" if np.isfinite(value) else "" for value in values))
    return table


def _summary(walk: Walk) -> Table:
    """What a person can check: a zero pose that was not one shows as a range that is shifted."""
    table, spec = Table("joint", "went from", "to [deg]", "model: from", "to [deg]"), walk.model.spec
    for joint, measured, own in zip(spec.joints, walk.ranges, np.column_stack([spec.q_min, spec.q_max]), strict=True):
        table.add_row(joint, *(f"{value:+.0f}" for value in np.degrees([*measured, *own])))
    return table


class Terminal:
    """A person who reads what is asked, looks at the readings, and presses Enter."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def do(self, words: str, look: Callable[[], Table]) -> None:
        """Raises UserError where the input ends."""
        self._console.print(f"{words} Enter.", style="bold")
        with Live(look(), console=self._console, refresh_per_second=10, transient=True) as live:
            while not select.select([sys.stdin], [], [], LOOK_S)[0]:
                live.update(look())
        if not sys.stdin.readline():
            raise UserError("calibrate: the input ended; a person has to press Enter")
