"""What a person sees while a policy flies, in the terminal and on a page: rates, latencies, the governor's state, successes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from hardware.robot import SafeRobot
from hardware.types import Source
from robolearn.evaluation.statistics import success_interval
from robolearn.runtime.attended import LiveView
from robolearn.runtime.rollout import Step

_SHOWN = 50  # decisions that the figures are made of
STOPPED = "STOPPED: "


class DeployView:
    """One episode's figures. `on_step` is for rollout; `show` gets a fresh table at every step, the page the same words."""

    def __init__(
        self, robot: SafeRobot, index: int, episodes: int, won: Sequence[bool], show: Callable[[Any], None], page: LiveView | None = None
    ) -> None:
        self.robot, self.title, self.show, self.page = robot, f"episode {index + 1} of {episodes}", show, page
        wins, flown = sum(won), len(won)
        low, high = success_interval(wins, flown)  # here: its first use imports for a second, in which a robot that flies would be stopped
        self._so_far = f"{wins} of {flown} successful (95 %: {100 * low:.0f} to {100 * high:.0f} %)"
        self._at, self._thought = deque[float](maxlen=_SHOWN), list[float]()
        self._late, self._silent, self._takeovers, self._flies, self._began = 0.0, 0, 0, Source.NONE, 0.0

    def on_step(self, step: Step) -> None:
        notes, source = step.command.notes, step.command.source
        self._at.append(monotonic())
        if "inference_ms" in notes and (notes.get("chunk_position", 0.0) == 0.0 or not self._thought):
            self._thought.append(notes["inference_ms"])
        self._late = notes.get("late_rows", self._late)
        self._silent += source is Source.NONE
        self._takeovers += source is Source.HUMAN and self._flies is not Source.HUMAN
        self._flies = source
        if step.index == 0:
            self._began = step.observation.time
        figures = self.figures(step)
        if self.page is not None:
            self.page.figures = figures
        table = Table(title=self.title, show_header=False)
        for name, text in figures[1:]:
            table.add_row(name, Text(text, style="bold red" if text.startswith(STOPPED) else ""))
        self.show(table)

    def facts(self) -> dict[str, float]:
        """For the episode's meta: median inference [ms], rows that came too late, how often the person took over."""
        return {"inference_ms": float(np.median(self._thought or [0.0])), "late_rows": self._late, "takeovers": self._takeovers}

    def figures(self, step: Step) -> list[tuple[str, str]]:
        """What is to be said after this step: (name, text)."""
        gaps = np.diff(self._at) if len(self._at) > 1 else np.array([1 / self.robot.spec.rate_hz])
        newest = self._thought[-_SHOWN:] or [0.0]
        flies = {Source.HUMAN: "the person flies", Source.NONE: "nobody flies"}.get(self._flies, "the policy flies")
        return [
            ("", self.title),
            ("decisions", f"{1 / np.median(gaps):.1f} per second of {self.robot.spec.rate_hz:g}, slowest {1e3 * gaps.max():.0f} ms"),
            ("policy", f"{np.median(newest):.0f} ms, at most {max(newest):.0f}; {self._late:.0f} rows too late, {self._silent} silent"),
            ("governor", self._governor()),
            ("episode", f"row {step.index}, {step.observation.time - self._began:.1f} s; {flies}, taken over {self._takeovers} times"),
            ("so far", self._so_far),
        ]

    def _governor(self) -> str:
        governor = self.robot.governor
        if (stopped := governor.stopped) is not None:
            return f"{STOPPED}{stopped}"
        counts = governor.interventions.most_common(4)
        return ", ".join(f"{reason} {count}" for reason, count in counts) or "nothing to change"
