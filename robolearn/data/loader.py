"""An endless stream of torch batches: in the sampler's order whatever the number of workers, read ahead, resumable."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from robolearn.core.types import Batch, apply
from robolearn.data.sampling import Sampler
from robolearn.data.tensors import to_batch
from robolearn.data.windows import Windows


class Batches(Iterator[Batch]):
    """Batches of `windows` on `device`. Close it, or use `with`.

    workers: threads that read ahead, 0: none (frames that take long to decode use every core either way). prefetch: batches
    that each has ready. For a GPU the batches are pinned by the workers, and copied without waiting. `state_dict` is that of the batches
    handed out, however many were read ahead.
    """

    def __init__(
        self,
        windows: Windows,
        sampler: Sampler,
        device: torch.device | str = "cpu",
        workers: int = 1,
        prefetch: int = 2,
    ) -> None:
        self._windows, self._sampler, self._device = windows, sampler, torch.device(device)
        self._workers, self._ahead = workers, workers * prefetch
        self._state = sampler.state_dict()
        self._pool: ThreadPoolExecutor | None = None
        self._reads: deque[tuple[dict[str, Any], Future[Batch]]] = deque()

    def __next__(self) -> Batch:
        if self._workers == 0:
            batch = self._read(next(self._sampler), self._sampler.drawn)
            self._state = self._sampler.state_dict()
            return batch.to(self._device)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="batches")
        while len(self._reads) <= self._ahead:
            indices = next(self._sampler)
            self._reads.append((self._sampler.state_dict(), self._pool.submit(self._read, indices, self._sampler.drawn)))
        state, read = self._reads.popleft()
        try:
            batch = read.result()
        except BaseException:
            self.close()
            raise
        self._state = state
        return batch.to(self._device)

    def state_dict(self) -> dict[str, Any]:
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sampler.load_state_dict(state)
        self._state = state
        self.close()

    def close(self) -> None:
        """Stop reading ahead. The next batch starts it again, after the last one handed out."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._reads.clear()
        self._sampler.load_state_dict(self._state)

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, indices: np.ndarray, number: int) -> Batch:
        batch = to_batch(self._windows.read(indices, number))
        return apply(batch, torch.Tensor.pin_memory) if self._device.type == "cuda" else batch
