"""Endless clips from a store's episodes: in an order of their own, read ahead, resumable."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from robolearn.core.errors import UserError
from robolearn.data.store import EpisodeStore
from robolearn.learners.pretraining.objective import Clip, ObjectiveConfig

AHEAD = 2  # clips that a thread has ready


class Clips(Iterator[Clip]):
    """`batch_size` clips of some episodes, as `objective` picks their rows; an episode is as likely as it is long.

    cache_mb: keep as many decoded frames as fit under this ceiling. Close it, or use `with`. `state_dict` is that of the clips handed
    out, however many were read ahead. UserError: a camera that is not there, no episode long enough.
    """

    def __init__(
        self,
        store: EpisodeStore,
        objective: ObjectiveConfig,
        cameras: Sequence[str],
        episodes: np.ndarray,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        cache_mb: float | int = 0,
    ) -> None:
        self.store, self.cameras, self._objective = store, tuple(cameras), objective
        self._batch_size, self._device = batch_size, torch.device(device)
        self.episodes = episodes[store.lengths[episodes] >= objective.shortest]
        if not len(self.episodes):
            raise UserError(f"{store.url}: no episode has the {objective.shortest} rows that a clip of this objective needs")
        lengths = store.lengths[self.episodes]
        self._share = lengths / lengths.sum()
        self._rng = np.random.default_rng(seed)
        self._state = self._now()
        self._pool: ThreadPoolExecutor | None = None
        self._reads: deque[tuple[dict[str, Any], Future[Clip]]] = deque()
        row_bytes = sum(height * width * 3 for height, width in (store.spec.cameras[c] for c in self.cameras))
        for camera in self.cameras:
            store.hold_frames(camera, int(cache_mb * 1e6 / row_bytes))

    def __next__(self) -> Clip:
        self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="clips")
        while len(self._reads) <= AHEAD:
            episodes, rows = self._draw()
            self._reads.append((self._now(), self._pool.submit(self._read, episodes, rows)))
        state, read = self._reads.popleft()
        try:
            clip = read.result()
        except BaseException:
            self.close()
            raise
        self._state = state
        return clip.to(self._device)

    def frames(self, count: int) -> dict[str, np.ndarray]:
        """Some frames of each camera, uint8 (N, H, W, 3), spread evenly over the episodes; the same each time."""
        rows = rows_of(self.store, self.episodes)
        chosen = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)]
        return {camera: self.store.frames(camera, chosen) for camera in self.cameras}

    def actions(self) -> np.ndarray:
        """Every action of these episodes, (N, A)."""
        return self.store.lowdim("action")[rows_of(self.store, self.episodes)]

    def state_dict(self) -> dict[str, Any]:
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """ValueError: saved over other episodes."""
        if state["episodes"] != self._now()["episodes"]:
            raise ValueError(f"clips: saved over {len(state['episodes'])} other episodes; the data changed")
        self._state = state
        self.close()

    def close(self) -> None:
        """Stop reading ahead. The next clip starts it again, after the last one handed out."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._reads.clear()
        self._rng.bit_generator.state = self._state["rng"]

    def __enter__(self) -> Clips:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _now(self) -> dict[str, Any]:
        episodes = [[int(e), int(self.store.lengths[e])] for e in self.episodes]
        return {"rng": self._rng.bit_generator.state, "episodes": episodes}

    def _draw(self) -> tuple[np.ndarray, np.ndarray]:
        """(B,) episodes and (B, T) rows in them."""
        episodes = self.episodes[self._rng.choice(len(self.episodes), self._batch_size, p=self._share)]
        return episodes, self._objective.pick(self.store.lengths[episodes], self._rng)

    def _read(self, episodes: np.ndarray, rows: np.ndarray) -> Clip:
        first = self.store.starts[episodes][:, None]
        seen = (first + rows).ravel()
        images = {}
        for camera in self.cameras:
            frames = torch.from_numpy(self.store.frames(camera, seen)).permute(0, 3, 1, 2)
            images[camera] = frames.unflatten(0, rows.shape)
        action = None
        if count := self._objective.actions:
            action = torch.from_numpy(self.store.lowdim("action")[first + rows[:, :1] + np.arange(count)])
        clip = Clip(images, torch.from_numpy(rows), action)
        return clip.apply(torch.Tensor.pin_memory) if self._device.type == "cuda" else clip


def rows_of(store: EpisodeStore, episodes: np.ndarray) -> np.ndarray:
    """All rows of some episodes, one episode after the other."""
    return np.concatenate([np.arange(store.length(int(e))) + store.starts[e] for e in episodes])
