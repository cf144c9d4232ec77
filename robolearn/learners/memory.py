"""Learning by remembering: every training window is shown once."""

from __future__ import annotations

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from robolearn.data.tensors import to_batch
from robolearn.data.windows import Windows
from robolearn.policies.chunk import ChunkPolicy


def memorize(policy: ChunkPolicy, windows: Windows, batch_size: int, device: torch.device, quiet: bool = False) -> None:
    """Show `windows` to policy.memorize in their order, `batch_size` at a time."""
    with Progress(console=Console(stderr=True), disable=quiet) as bar:
        for start in bar.track(range(0, len(windows), batch_size), description=f"{type(policy).__name__}: remembering"):
            rows = np.arange(start, min(start + batch_size, len(windows)))
            policy.memorize(to_batch(windows.read(rows)).to(device))
