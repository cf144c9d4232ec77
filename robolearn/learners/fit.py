"""The training loop, the same for every learner."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from robolearn.core.types import Batch, Metrics


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
    label: str = "train",
) -> tuple[int, float]:
    """Update until `steps` updates or `seconds` [s] of training are reached, those of earlier attempts (`done_`) included.

    on_step(step, seconds, metrics) runs after each update: log, validate, save there; what it takes is not training time.
    Returns (steps, seconds) in all. Raises whatever the learner or the hook raises, Ctrl-C included, between two updates.
    """
    step, spent = done_steps, done_seconds
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=2) as bar:
        task = bar.add_task(label, total=1.0)
        while (progress := max(step / steps, spent / seconds if seconds else 0.0)) < 1.0:
            started = time.monotonic()
            learner.progress = progress
            metrics = learner.update(next(batches))
            step, spent = step + 1, spent + time.monotonic() - started
            if on_step is not None:
                on_step(step, spent, metrics)
            bar.update(task, completed=progress, description=f"{label} {step} steps, loss {metrics.get('loss', 0.0):.4f}")
    return step, spent
