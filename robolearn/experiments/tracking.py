"""The numbers of metrics.jsonl where people watch them: TensorBoard always, Weights & Biases if wanted."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robolearn.core.config import to_dict
from robolearn.core.errors import UserError


class TensorBoard:
    """Event files in `folder`. step: where the training goes on; what was written after it is struck out."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # a second to import, which --help should not take

        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def __call__(self, row: Mapping[str, Any]) -> None:
        for name, value in numbers(row).items():
            self._writer.add_scalar(name, value, row.get("step", 0))
        self._writer.flush()  # killed now, what was seen stays

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """A run of `project`, named after its folder; a training that goes on goes on there, too. UserError: not installed, or not let in."""

    def __init__(self, project: str, out: Path, config: Any) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError(f"wandb: {project!r}, but it is not installed; pip install 'robolearn[wandb]'") from error
        key = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]
        try:
            settings = to_dict(config)
            self._run = wandb.init(project=project, name=out.name, dir=str(out), id=key, resume="allow", config=settings)
        except (wandb.Error, OSError, ValueError) as error:
            raise UserError(f"wandb: {project!r}: {error}; `wandb login`, or WANDB_MODE=offline") from error

    def __call__(self, row: Mapping[str, Any]) -> None:
        self._run.log(numbers(row), step=row.get("step"))

    def close(self) -> None:
        self._run.finish()


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """What of a row can be plotted."""
    return {
        name: float(value)
        for name, value in row.items()
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
