"""The training loop, the same for every learner."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from robolearn.core.types import Batch, Metrics

SHOW_S = 0.5  # between two looks at the loss


@runtime_checkable
class Learner(Protocol):
    progress: float  # 0 to 1

    def update(self, batch: Batch) -> Metrics: ...
    def state_dict(self) -> dict[str, Any]: ...


def fit(
    learner: Learner,
    batches: Iterator[Batch],
    steps: int,
    seconds: float | None = None,
    done_steps: int = 0,
    done_seconds: float = 0.0,
    on_step: Callable[[int, float, Metrics], None] | None = None,
    clock: Callable[[float], float] | None = None,
    bar: Progress | None = None,
) -> tuple[int, float]:
    """Update until `steps` updates or `seconds` [s] of training are reached, those of earlier attempts (`done_`) included.

    on_step(step, seconds, metrics) runs after each update: log, validate, save there; what it takes is not training time.
    clock: the seconds so far as all who train together count them, from this process's own. bar: a started `training_bar`.
    Returns (steps, seconds) in all. Raises whatever the learner or the hook raises, Ctrl-C included, between two updates.
    """
    step, spent, shown = done_steps, done_seconds, float("-inf")
    while (progress := max(step / steps, spent / seconds if seconds else 0.0)) < 1.0:
        started = time.monotonic()
        learner.progress = progress
        metrics = learner.update(next(batches))
        step, spent = step + 1, spent + time.monotonic() - started
        spent = spent if clock is None else clock(spent)
        if on_step is not None:
            on_step(step, spent, metrics)
        if bar is not None and spent - shown >= SHOW_S:  # a loss on a GPU is waited for
            bar.update(bar.task_ids[0], completed=progress, description=f"{step} steps, loss {float(metrics.get('loss', 0.0)):.4f}")
            shown = spent
    if bar is not None:
        bar.update(bar.task_ids[0], completed=1.0, description=f"{step} steps")
    return step, spent


def training_bar(label: str, quiet: bool = False) -> Progress:
    """How far a training is, and how long it will take yet."""
    columns = (TextColumn(f"{label} {{task.description}}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), refresh_per_second=2, disable=quiet)
    bar.add_task("", total=1.0)
    return bar
