"""What to do where a training cannot go on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from robolearn.core.errors import UserError
from robolearn.experiments.train_config import Config

_SHORT = ("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory")  # torch's allocators, in lower case


@contextmanager
def advised(config: Config) -> Iterator[None]:
    """Memory that does not suffice and a loss that is not finite, as one line that says what to change. The saved state stays."""
    try:
        with enough_memory(f"at batch_size {config.batch_size}", remedies(config)):
            yield
    except FloatingPointError as error:
        raise UserError(
            f"{error}; now {config.imitation.lr:g}: --imitation.lr {config.imitation.lr / 3:.1g}, in a folder of its own"
        ) from error


@contextmanager
def enough_memory(where: str, remedies: Sequence[str]) -> Iterator[None]:
    """Memory that does not suffice as one line."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        short = isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error).lower() for words in _SHORT)
        if not short:
            raise
        what = "GPU memory" if isinstance(error, torch.OutOfMemoryError) or "CUDA" in str(error) else "memory"
        raise UserError(f"out of {what} {where}: {'; '.join(remedies)}") from error


def remedies(config: Config) -> list[str]:
    """What would need less, what changes nothing else first."""
    parts = 2 * config.imitation.accumulate
    said = [f"--imitation.accumulate {parts} gives the same updates from half of it, and the same command resumes with it"]
    if config.imitation.precision == "float32":
        said.append("--imitation.precision bfloat16 halves it")
    encoder = config.policy.encoder
    if encoder is not None and not encoder.frozen:
        said.append("--policy.encoder.tune none trains from cached features")
    if encoder is not None and not encoder.frozen and config.reading.cache_mb:
        said.append(f"--reading.cache_mb 0 keeps no frames in RAM (now {config.reading.cache_mb:g} MB)")
    return [*said, f"--batch_size {max(config.batch_size // 2, 1)} halves the batch"]
