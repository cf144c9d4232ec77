"""The floor: raw uint8 frames in memory-mapped files, gathered with numpy; workers are threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import demos
import numpy as np
from series import AHEAD, BATCH, SEED, Case, Contestant, serve


class MemoryMap(Contestant):
    name = "memory_map"

    def __init__(self, data: Path, variant: str) -> None:
        super().__init__(data, variant)
        import torch

        self._tensor, self.versions = torch.from_numpy, {"numpy": np.__version__}
        self._arrays: dict[str, np.ndarray] | None = None

    def prepare(self) -> dict[str, Any]:
        self.folder.mkdir()
        for name in demos.CAMERAS:
            np.save(self.folder / f"{name}.npy", demos.raw(self.data, name))
        return {}

    def batches(self, case: Case, workers: int) -> Iterator[Any]:
        count, steps = demos.lengths(self.data)
        state = np.concatenate([demos.raw(self.data, name) for name in demos.STATE], axis=1)
        action, rng = np.array(demos.raw(self.data, "actions")), np.random.default_rng(SEED)

        def read(rows: np.ndarray) -> list[Any]:
            first = (rows - rows % steps)[:, None]
            past = np.maximum(rows[:, None] + np.arange(1 - case.history, 1), first)
            ahead = np.minimum(rows[:, None] + np.arange(case.horizon), first + steps - 1)
            arrays = [np.take(array, past, axis=0) for array in self._mapped().values()]
            return [self._tensor(array) for array in (*arrays, state[past], action[ahead])]

        def order() -> Iterator[np.ndarray]:
            while True:
                yield rng.integers(0, count * steps, BATCH)

        return read_ahead(read, order(), workers)

    def forget(self) -> None:
        self._arrays = None

    def _mapped(self) -> dict[str, np.ndarray]:
        arrays = self._arrays
        if arrays is None:
            arrays = self._arrays = {name: np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in demos.CAMERAS}
        return arrays


def read_ahead(read: Callable[[np.ndarray], Any], order: Iterator[np.ndarray], workers: int) -> Iterator[Any]:
    """What `read` makes of each batch of indices, in order; with workers, as many threads keep AHEAD batches each ready."""
    if workers == 0:
        yield from map(read, order)
    with ThreadPoolExecutor(workers) as pool:
        reads: deque[Future] = deque()
        while True:
            while len(reads) <= AHEAD * workers:
                reads.append(pool.submit(read, next(order)))
            yield reads.popleft().result()


if __name__ == "__main__":
    serve(MemoryMap)
