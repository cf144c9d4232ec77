"""Endless clips from a store's episodes: in an order of their own, read ahead, resumable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from robolearn.core.errors import UserError
from robolearn.data.ahead import ReadAhead
from robolearn.data.store import EpisodeStore
from robolearn.learners.pretraining.objective import Clip, ObjectiveConfig

AHEAD = 2  # clips that a thread has ready


class Clips(ReadAhead[Clip]):
    """`batch_size` clips of some episodes, as `objective` picks their rows; an episode is as likely as it is long.

    cache_mb: keep as many decoded frames as fit under this ceiling. UserError: a camera that is not there, no episode long enough.
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
        row_bytes = sum(height * width * 3 for height, width in (store.spec.cameras[c] for c in self.cameras))
        for camera in self.cameras:
            store.hold_frames(camera, int(cache_mb * 1e6 / row_bytes))
        super().__init__(1, AHEAD)

    def __next__(self) -> Clip:
        return super().__next__().to(self._device)

    def frames(self, count: int) -> dict[str, np.ndarray]:
        """Some frames of each camera, uint8 (N, H, W, 3), spread evenly over the episodes; the same each time."""
        rows = rows_of(self.store, self.episodes)
        chosen = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)]
        return {camera: self.store.frames(camera, chosen) for camera in self.cameras}

    def actions(self) -> np.ndarray:
        """Every action of these episodes, (N, A)."""
        return self.store.lowdim("action")[rows_of(self.store, self.episodes)]

    def _now(self) -> dict[str, Any]:
        episodes = [[int(e), int(self.store.lengths[e])] for e in self.episodes]
        return {"rng": self._rng.bit_generator.state, "episodes": episodes}

    def _restore(self, state: dict[str, Any]) -> None:
        if state["episodes"] != self._now()["episodes"]:
            raise ValueError(f"clips: saved over {len(state['episodes'])} other episodes; the data changed")
        self._rng.bit_generator.state = state["rng"]

    def _draw(self) -> Callable[[], Clip]:
        episodes = self.episodes[self._rng.choice(len(self.episodes), self._batch_size, p=self._share)]
        return partial(self._read, episodes, self._objective.pick(self.store.lengths[episodes], self._rng))

    def _read(self, episodes: np.ndarray, rows: np.ndarray) -> Clip:
        """(B,) episodes and (B, T) rows in them."""
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
