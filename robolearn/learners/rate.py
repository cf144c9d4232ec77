"""How the learning rate goes in a training."""

from __future__ import annotations

import math

from robolearn.core.errors import require_at_least, require_positive


def check_rate(name: str, lr: float, warmup: int, weight_decay: float, clip: float) -> None:
    """UserError for numbers of the part `name` of a config with which nothing is learned, or the wrong way."""
    require_positive(f"{name}.lr", lr, "per update")
    require_at_least(f"{name}.warmup", warmup, 0, "updates")
    require_at_least(f"{name}.weight_decay", weight_decay, 0, "per update")
    require_positive(f"{name}.clip", clip, "(a gradient's norm)")


def warmed(steps: int, warmup: int) -> float:
    """Share of the learning rate after `steps` updates: rises to 1 over the first `warmup`."""
    return min(1.0, (steps + 1) / max(warmup, 1))


def cosine(progress: float) -> float:
    """Share of the learning rate where 0 to 1 of a training is done: falls from 1 to 0 (Loshchilov & Hutter, ICLR 2017; no restarts)."""
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
