"""What a person sees in the terminal while a policy flies: rates, latencies, the governor's state, the count of successes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import numpy as np
from rich.table import Table

from hardware.robot import SafeRobot
from hardware.types import Source
from robolearn.evaluation.statistics import success_interval
from robolearn.runtime.rollout import Step

_SHOWN = 50  # decisions that the figures are made of


class DeployView:
    """One episode's. `on_step` is for rollout; `show` gets a fresh table at every step."""

    def __init__(self, robot: SafeRobot, index: int, episodes: int, won: Sequence[bool], show: Callable[[Any], None]) -> None:
        self.robot, self.title, self.won, self.show = robot, f"episode {index + 1} of {episodes}", won, show
        self._at, self._thought = deque[float](maxlen=_SHOWN), list[float]()
        self._late, self._silent, self._takeovers, self._flies = 0.0, 0, 0, Source.NONE

    def on_step(self, step: Step) -> None:
        notes = step.command.notes
        self._at.append(monotonic())
        if "inference_ms" in notes and notes.get("chunk_position", 0.0) == 0.0 or not self._thought:
            self._thought.append(notes.get("inference_ms", 0.0))
        self._late = notes.get("late_rows", self._late)
        source = step.command.source
        self._silent += source is Source.NONE
        self._takeovers += source is Source.HUMAN and self._flies is not Source.HUMAN
        self._flies = source
        self.show(self._table(step))

    def facts(self) -> dict[str, float]:
        """For the episode's meta: median inference [ms], rows that came too late, how often the person took over."""
        return {"inference_ms": float(np.median(self._thought or [0.0])), "late_rows": self._late, "takeovers": self._takeovers}

    def _table(self, step: Step) -> Table:
        table = Table(title=self.title, show_header=False)
        gaps = np.diff(self._at) if len(self._at) > 1 else np.array([1 / self.robot.spec.rate_hz])
        newest = self._thought[-_SHOWN:]
        thought = f"{np.median(newest):.0f} ms, at most {max(newest):.0f}; {self._late:.0f} rows too late, {self._silent} silent"
        table.add_row(
            "decisions", f"{1 / np.median(gaps):.1f} per second of {self.robot.spec.rate_hz:g}, slowest {1e3 * gaps.max():.0f} ms"
        )
        table.add_row("policy", thought)
        table.add_row("governor", self._governor())
        table.add_row("episode", f"row {step.index}, {step.observation.time - self._began(step):.1f} s")
        wins, flown = sum(self.won), len(self.won)
        low, high = success_interval(wins, flown) if flown else (0.0, 1.0)
        table.add_row("so far", f"{wins} of {flown} successful (95 %: {100 * low:.0f} to {100 * high:.0f} %)")
        return table

    def _governor(self) -> str:
        governor = self.robot.governor
        if (stopped := governor.stopped) is not None:
            return f"[bold red]STOPPED: {stopped}[/]"
        counts = governor.interventions.most_common(4)
        return ", ".join(f"{reason} {count}" for reason, count in counts) or "nothing to change"

    def _began(self, step: Step) -> float:
        if step.index == 0:
            self._first = step.observation.time
        return self._first

    _first = 0.0
