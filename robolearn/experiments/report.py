"""Write one HTML file about a pipeline's runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from robolearn.core.errors import UserError
from robolearn.core.files import write_atomic
from robolearn.evaluation.artefacts import STAGES, read_stages
from robolearn.evaluation.report import render


@dataclass(frozen=True)
class Config:
    """Collect what the stages left in one folder into a page that needs nothing else: no network, no other file."""

    run: Path = Path("runs/demo")
    """Folder that holds teleop/, train/, evaluate_before/, finetune/, evaluate_after/: as many of them as exist."""
    out: Path | None = None
    """The file to write; None: report.html in that folder."""


def run(config: Config) -> Path:
    """Returns the file written. Raises UserError where there is nothing to report."""
    if not any(stage.begun for stage in read_stages(config.run).values()):
        raise UserError(f"{config.run}: nothing to report; expected a folder with any of {', '.join(STAGES)}")
    out = config.run / "report.html" if config.out is None else config.out
    html = render(config.run)
    write_atomic(out, html.encode())
    Console(stderr=True, soft_wrap=True).print(f"{out}: {len(html.encode()) / 2**20:.1f} MiB", highlight=False)
    return out
