"""Rows of whole episodes in memory, for learners that draw thousands of small batches a minute.

What a draw shows is what Windows(future=True) shows of the same rows, bit for bit (a test holds the two together).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch

from hardware.types import RobotSpec, Source
from robolearn.core.types import Batch, Obs
from robolearn.data.episode import Episode, not_failed
from robolearn.data.store import EpisodeStore
from robolearn.data.tensors import to_obs
from robolearn.data.windows import history_rows, restrict, state_vector

_KEPT = ("action", "reward", "terminal", "source")


class Replay:
    """Episodes go in whole, sequences come out: `history` observations, H actions, and what followed each of them.

    spec: which states, and in which order. features: numbers per row of a frozen encoder's output, 0 without cameras.
    discount: of `Batch.to_go`.
    """

    def __init__(self, spec: RobotSpec, history: int = 1, features: int = 0, discount: float = 0.99):
        self.spec, self.history, self.discount = restrict(spec, ()), history, discount
        self.episodes = self._count = 0
        floats = {"state": (spec.state_dim,), "features": (features,), "action": (spec.action.dim,), "reward": (), "to_go": ()}
        self._columns: dict[str, np.ndarray] = {name: np.empty((0, *shape), np.float32) for name, shape in floats.items()}
        self._columns |= {"terminal": np.empty(0, bool), "source": np.empty(0, np.uint8), "won": np.empty(0, bool)}
        # The first and last row of every row's episode, and the row that nothing follows: the next terminal one, else the last.
        self._columns |= {name: np.empty(0, np.int64) for name in ("first", "last", "end")}

    def __len__(self) -> int:
        return self._count

    def add(self, episode: Episode, features: np.ndarray | None = None) -> None:
        """One episode; features: float32 (T, E). ValueError: they are missing, or of another shape."""
        state = state_vector(episode.state, self.spec) if self.spec.state else np.zeros((len(episode), 0), np.float32)
        self._add({"state": state} | {name: getattr(episode, name) for name in _KEPT}, features, not_failed(episode.meta))

    def extend(self, store: EpisodeStore, episodes: Iterable[int] | np.ndarray | None = None, features_key: str | None = None) -> Replay:
        """Episodes of a store (None: all)."""
        columns = {name: store.lowdim(name) for name in _KEPT}
        columns["state"] = np.concatenate(
            [np.zeros((store.rows, 0), np.float32), *(store.lowdim(f"state/{name}") for name in self.spec.state)], axis=1
        )
        features = store.features(features_key) if features_key else None
        for i in range(len(store)) if episodes is None else episodes:
            rows = slice(int(store.starts[i]), int(store.starts[i]) + store.length(int(i)))
            seen = None if features is None else features[rows]
            self._add({name: column[rows] for name, column in columns.items()}, seen, not_failed(store.meta(int(i))))
        return self

    def column(self, name: str) -> np.ndarray:
        """All rows of "state", "features", "action", "reward", "terminal", "source", "to_go" or "won" (their episode is not known to have
        failed); a view."""
        return self._columns[name][: self._count]

    def draw(self, count: int, horizon: int, rng: np.random.Generator) -> Batch:
        """`count` rows, each as likely as any other, with `horizon` actions from them on."""
        return self.read(rng.integers(self._count, size=count), horizon)

    def read(self, rows: np.ndarray, horizon: int) -> Batch:
        """The sequences that begin in `rows` (B,)."""
        column, first, last = self._columns, self._columns["first"][rows], self._columns["last"][rows]
        wanted = rows[:, None] + np.arange(horizon)
        there, pad = np.minimum(wanted, last[:, None]), wanted > last[:, None]
        action, steps = column["action"][there], self.spec.steps
        action[..., steps] = np.where(pad[..., None], 0, action[..., steps])  # past the end there is no step
        return Batch(
            obs=self._obs(history_rows(rows, first, self.history)),
            action=torch.from_numpy(action),
            pad=torch.from_numpy(pad),
            reward=torch.from_numpy(np.where(pad, np.float32(0), column["reward"][there])),
            terminal=torch.from_numpy(column["terminal"][there] & ~pad),
            future=self._obs(np.minimum(wanted + 1, last[:, None])),
            future_mask=torch.from_numpy(wanted < column["end"][rows][:, None]),
            to_go=torch.from_numpy(column["to_go"][there]),
            source=torch.from_numpy(np.where(pad, np.uint8(Source.NONE), column["source"][there])),
            won=torch.from_numpy(column["won"][rows]),
        )

    def _obs(self, rows: np.ndarray) -> Obs:
        features = self._columns["features"]
        return to_obs({}, self._columns["state"][rows], features[rows] if features.shape[1] else None)

    def _add(self, rows: Mapping[str, np.ndarray], features: np.ndarray | None, won: bool) -> None:
        length, start, terminal = len(rows["reward"]), self._count, rows["terminal"]
        expected = (length, self._columns["features"].shape[1])
        given = np.zeros((length, 0), np.float32) if features is None else np.asarray(features, np.float32)
        if given.shape != expected:
            raise ValueError(f"replay: features {given.shape}; expected {expected}")
        ends = np.minimum.accumulate(np.where(terminal, np.arange(length), length - 1)[::-1])[::-1]
        to_go, ahead = np.empty(length, np.float32), 0.0
        for t in reversed(range(length)):
            ahead = to_go[t] = rows["reward"][t] + self.discount * ahead * (not terminal[t])
        added = {"features": given, "to_go": to_go, "first": start, "last": start + length - 1, "end": start + ends, "won": won}
        self._reserve(start + length)
        for name, values in (dict(rows) | added).items():
            self._columns[name][start : start + length] = values
        self._count, self.episodes = start + length, self.episodes + 1

    def _reserve(self, rows: int) -> None:
        """Room for so many; doubled, so that adding stays cheap."""
        for name, column in self._columns.items():
            if len(column) < rows:
                larger = np.zeros((max(rows, 2 * len(column), 1024), *column.shape[1:]), column.dtype)
                larger[: self._count] = column[: self._count]
                self._columns[name] = larger
