"""Policies saved while one is trained: the newest few and the best few, and how good each of them was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robolearn.core.checkpoint import save_checkpoint
from robolearn.core.files import append_line, drop_halves, write_atomic
from robolearn.core.run import read_metrics
from robolearn.core.types import Policy


class Checkpoints:
    """`folder`/step_000500.pt, each whole or absent; scores.jsonl also remembers those that were deleted.

    last: how many of the newest stay; best: how many of those with the highest score.
    """

    def __init__(self, folder: Path, last: int, best: int):
        self.folder, self._last, self._best = folder, last, best

    def path(self, step: int) -> Path:
        return self.folder / f"step_{step:06d}.pt"

    def steps(self) -> list[int]:
        """Of those on disk, ascending."""
        numbers = (path.stem.removeprefix("step_") for path in self.folder.glob("step_*.pt"))
        return sorted(int(number) for number in numbers if number.isdecimal())

    def save(self, step: int, policy: Policy, config: Any, meta: Mapping[str, Any]) -> None:
        save_checkpoint(self.path(step), policy, config, {**meta, "steps": step})

    def score(self, step: int, *score: float, **facts: Any) -> None:
        """`score`: higher is better, the first number first. Then those that are neither new nor good are deleted."""
        append_line(self.folder / "scores.jsonl", json.dumps({"step": step, "score": score, **facts}))
        self.tidy()

    def scores(self) -> list[dict[str, Any]]:
        """One row for each step that was scored, best first; of equals the later, which has learned for longer."""
        rows = {row["step"]: row for row in read_metrics(self.folder / "scores.jsonl")}
        return sorted(rows.values(), key=lambda row: ([-number for number in row["score"]], -row["step"]))

    def best(self, count: int | None = None) -> list[dict[str, Any]]:
        """The best rows of `scores` whose policies are on disk."""
        here = set(self.steps())
        return [row for row in self.scores() if row["step"] in here][: self._best if count is None else count]

    def tidy(self) -> None:
        steps = self.steps()
        wanted = {*steps[len(steps) - self._last :], *(row["step"] for row in self.best())}
        for step in set(steps) - wanted:
            self.path(step).unlink()

    def rewind(self, step: int) -> None:
        """Forget what came after `step`: it is done again. A last score cut short by a crash goes, too."""
        drop_halves(self.folder)
        file = self.folder / "scores.jsonl"
        if file.exists() and not file.read_bytes().endswith(b"\n"):
            data = file.read_bytes()
            write_atomic(file, data[: data.rfind(b"\n") + 1])
        rows = read_metrics(file)
        if any(row["step"] > step for row in rows):
            write_atomic(file, "".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step).encode())
        for later in self.steps():
            if later > step:
                self.path(later).unlink()
