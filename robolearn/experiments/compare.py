"""Set runs side by side: what differed, what came of it, and whether that could be luck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from robolearn.core.errors import UserError
from robolearn.core.files import write_atomic
from robolearn.evaluation.comparison import differences, pairwise, read_run, render, summary, verdict


@dataclass(frozen=True)
class Config:
    """Compare trainings and what evaluations of them, in their folders or beside them, have shown."""

    runs: tuple[Path, ...]
    """Artefact folders of robolearn train, finished or not."""
    out: Path | None = None
    """HTML file to write, with the loss curves; None: the tables in the terminal only."""


def run(config: Config) -> None:
    """Raises UserError: fewer than two runs, or a folder that is none."""
    if len(config.runs) < 2:
        raise UserError(f"runs: {len(config.runs)} folder; expected at least 2: --runs runs/a runs/b")
    runs = [read_run(folder, name) for folder, name in zip(config.runs, _names(config.runs), strict=True)]
    console = Console(soft_wrap=True)
    head, rows = summary(runs)
    console.print(_table(["", *(row[0] for row in rows)], [[name, *values] for name, *values in list(zip(head, *rows, strict=True))[1:]]))
    changed = [[name, *values] for name, values in differences(runs).items()]
    console.print(_table(["what differed", *(run.name for run in runs)], changed) if changed else "the configs are the same")
    if pairs := pairwise(runs):
        console.print(_table(["run", "and", "test", "p"], pairs))
        console.print(verdict(pairs), highlight=False)
    if config.out is not None:
        write_atomic(config.out, render(runs).encode())
        console.print(f"{config.out}", highlight=False)


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' last parts, as many as tell them apart."""
    full = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, full)) + 1):
        names = ["/".join(parts[-count:]) for parts in full]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"runs: {', '.join(map(str, folders))}; the same folder twice")


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    table = Table(*(Column(name, overflow="fold") for name in head))
    for row in rows:
        table.add_row(*("–" if value is None else str(value) for value in row))
    return table
