"""An endless stream of batches: seeded, resumable to the exact sample, read ahead in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from robolearn.core.types import Batch
from robolearn.data.windows import Windows


class Sampler:
    """Endless index batches, (batch_size,) int64 each, that depend on `rng` alone.

    Without weights: every index once an epoch, in an order drawn anew for each; a batch may span two epochs.
    With weights (length,): drawn with replacement.
    """

    def __init__(self, length: int, batch_size: int, rng: np.random.Generator, weights: np.ndarray | None = None) -> None:
        self.length, self.batch_size = length, batch_size
        self._rng, self._weights = rng.spawn(1)[0], weights  # a stream of its own: whoever else draws from rng changes nothing here
        self._start_epoch()

    def __iter__(self) -> Sampler:
        return self

    def __next__(self) -> np.ndarray:
        if self._weights is not None:
            self._rng_state = self._rng.bit_generator.state
            return self._rng.choice(self.length, self.batch_size, p=self._weights)
        parts, missing = [], self.batch_size
        while missing:
            part = self._order[self._position : self._position + missing]
            parts.append(part)
            missing -= len(part)
            self._position += len(part)
            if self._position == self.length:
                self._start_epoch()
        return np.concatenate(parts)

    def state_dict(self) -> dict[str, Any]:
        """Plain data; a sampler that loads it goes on with the next batch."""
        now = self._rng.bit_generator.state if self._weights is not None else self._rng_state
        return {"rng": now, "position": self._position, "length": self.length}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["length"] != self.length:
            raise ValueError(f"sampler: saved over {state['length']} samples, now there are {self.length}; the data changed")
        self._rng.bit_generator.state = state["rng"]
        self._start_epoch()
        self._position = state["position"]

    def _start_epoch(self) -> None:
        self._rng_state = self._rng.bit_generator.state
        self._order = self._rng.permutation(self.length) if self._weights is None else np.empty(0, np.int64)
        self._position = 0


class Batches(Iterator[Batch]):
    """Batches of `windows` on `device`; `prefetch` of them are read ahead in a thread (0: none). Close it, or use `with`.

    `state_dict` is that of the batches handed out, however many were read ahead.
    """

    def __init__(
        self,
        windows: Windows,
        batch_size: int,
        rng: np.random.Generator,
        device: torch.device | str = "cpu",
        prefetch: int = 2,
        weights: np.ndarray | None = None,
    ) -> None:
        self._windows, self._device, self._prefetch = windows, torch.device(device), prefetch
        self._sampler = Sampler(len(windows), batch_size, rng, weights)
        self._state = self._sampler.state_dict()
        self._thread: threading.Thread | None = None

    def __next__(self) -> Batch:
        if self._prefetch == 0:
            batch, self._state = self._read()
            return batch
        if self._thread is None:
            self._queue: queue.Queue = queue.Queue(self._prefetch)
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._run, args=(self._queue, self._stop), daemon=True)
            self._thread.start()
        item = self._queue.get()
        if isinstance(item, BaseException):
            self.close()
            raise item
        batch, self._state = item
        return batch

    def state_dict(self) -> dict[str, Any]:
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.close()
        self._sampler.load_state_dict(state)
        self._state = state

    def close(self) -> None:
        """Stop reading ahead. The next batch starts it again, after the last one handed out."""
        if self._thread is None:
            return
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)
        self._thread = None
        self._sampler.load_state_dict(self._state)

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> tuple[Batch, dict[str, Any]]:
        batch = self._windows.batch(next(self._sampler))
        return batch.to(self._device), self._sampler.state_dict()  # a copy to a GPU too is made in the thread

    def _run(self, out: queue.Queue, stop: threading.Event) -> None:
        try:
            while not stop.is_set():
                _put(out, self._read(), stop)
        except BaseException as error:
            _put(out, error, stop)


def _put(out: queue.Queue, item: object, stop: threading.Event) -> None:
    while not stop.is_set():
        with suppress(queue.Full):
            return out.put(item, timeout=0.1)
