"""An endless stream of torch batches: in the sampler's order whatever the number of workers, read ahead, resumable."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from robolearn.core.types import Batch, apply
from robolearn.data.ahead import ReadAhead
from robolearn.data.sampling import Sampler
from robolearn.data.tensors import to_batch
from robolearn.data.windows import Windows


class Batches(ReadAhead[Batch]):
    """Batches of `windows` on `device`. Close it, or use `with`.

    workers: threads that read ahead, 0: none (frames that take long to decode use every core either way). prefetch: batches
    that each has ready. For a GPU the batches are pinned by the workers, and copied without waiting.
    """

    def __init__(
        self,
        windows: Windows,
        sampler: Sampler,
        device: torch.device | str = "cpu",
        workers: int = 1,
        prefetch: int = 2,
    ) -> None:
        self.windows, self._sampler, self._device = windows, sampler, torch.device(device)
        super().__init__(workers, workers * prefetch)

    def __next__(self) -> Batch:
        return super().__next__().to(self._device)

    def _draw(self) -> Callable[[], Batch]:
        return partial(self._read, next(self._sampler), self._sampler.drawn)

    def _now(self) -> dict[str, Any]:
        return self._sampler.state_dict()

    def _restore(self, state: dict[str, Any]) -> None:
        self._sampler.load_state_dict(state)

    def _read(self, indices: np.ndarray, number: int) -> Batch:
        batch = to_batch(self.windows.read(indices, number))
        return apply(batch, torch.Tensor.pin_memory) if self._device.type == "cuda" else batch
