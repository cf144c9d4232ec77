"""How the learning rate goes in a training."""

from __future__ import annotations

import math


def warmed(steps: int, warmup: int) -> float:
    """Share of the learning rate after `steps` updates: rises to 1 over the first `warmup`."""
    return min(1.0, (steps + 1) / max(warmup, 1))


def cosine(progress: float) -> float:
    """Share of the learning rate where 0 to 1 of a training is done: falls from 1 to 0 (Loshchilov & Hutter, ICLR 2017; no restarts)."""
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
