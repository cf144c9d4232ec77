"""The only observation transform: training batches from stores, and the same windows from what a robot sees now.

`history_rows`, `state_vector` and `to_obs` are all there is to it; Windows and observation_window both go through them,
and tests/test_parity.py holds them to equal bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from hardware.types import Observation, RobotSpec
from robolearn.core.errors import UserError
from robolearn.core.types import Batch, Obs
from robolearn.data.store import EpisodeStore

Episodes = Callable[[Mapping[str, Any]], bool] | Sequence[Sequence[int] | np.ndarray] | None


def history_rows(rows: np.ndarray, first: np.ndarray, history: int) -> np.ndarray:
    """(B,) rows and the first row of each one's episode -> (B, history), oldest first, the first row repeated before itself."""
    return np.maximum(rows[:, None] + np.arange(1 - history, 1), first[:, None])


def state_vector(state: Mapping[str, np.ndarray], spec: RobotSpec) -> np.ndarray:
    """Named vectors (..., D) -> one float32 vector (..., S), in the order of `spec.state`."""
    parts = [np.asarray(state[name], np.float32) for name in spec.state]
    return np.concatenate(parts, axis=-1)


def to_obs(images: Mapping[str, np.ndarray], state: np.ndarray, features: np.ndarray | None = None) -> Obs:
    """uint8 (B, T, H, W, 3), float32 (B, T, S) and (B, T, E) -> Obs. Images become channels-first by a view, without a copy."""
    views = {name: torch.from_numpy(image).permute(0, 1, 4, 2, 3) for name, image in images.items()}
    return Obs(views, torch.from_numpy(state), None if features is None else torch.from_numpy(features))


def observation_window(observations: Sequence[Observation], spec: RobotSpec, history: int) -> Obs:
    """The newest `history` of the observations since the episode began, as a batch of one; `spec` says which cameras and states.

    UserError where the robot shows something else than `spec`.
    """
    rows = history_rows(np.array([len(observations) - 1]), np.array([0]), history)[0]
    used = [observations[row] for row in rows]
    _check_fits(used[-1], spec)
    images = {name: np.stack([o.images[name] for o in used])[None] for name in spec.cameras}
    if not spec.state:
        return to_obs(images, np.zeros((1, history, 0), np.float32))
    return to_obs(images, state_vector({name: np.stack([o.state[name] for o in used])[None] for name in spec.state}, spec))


def restrict(spec: RobotSpec, cameras: Sequence[str] | None = None, state: Sequence[str] | None = None) -> RobotSpec:
    """`spec` with some of its cameras and states only (None: all), in its own order. UserError lists the valid names."""
    for field, asked, valid in (("cameras", cameras, spec.cameras), ("state", state, spec.state)):
        for name in asked or ():
            if name not in valid:
                raise UserError(f"{field}: {name!r} is not in the data of {spec.name}; valid: {', '.join(valid) or '(none)'}")
    return replace(
        spec,
        cameras={k: v for k, v in spec.cameras.items() if cameras is None or k in cameras},
        state={k: v for k, v in spec.state.items() if state is None or k in state},
    )


def split(stores: EpisodeStore | Sequence[EpisodeStore], fraction: float | int, rng: np.random.Generator) -> tuple[list, list]:
    """Episode indices (train, validation), one array for each store: whole episodes, at least one in validation if there are two."""
    train, validation = [], []
    for store in [stores] if isinstance(stores, EpisodeStore) else stores:
        order = rng.permutation(len(store))
        count = min(max(round(fraction * len(store)), 1 if fraction > 0 else 0), max(len(store) - 1, 0))
        validation.append(np.sort(order[:count]))
        train.append(np.sort(order[count:]))
    return train, validation


class Windows:
    """One sample for each row: the `history` observations up to it, the `horizon` actions from it on.

    stores: one or several whose specs agree. cameras, state_keys: which inputs (None: all); `spec` is theirs.
    episodes: which take part: a test of their meta, or their indices for each store (see `split`).
    images: read frames. features_key: read cached encoder outputs. future: what followed each action, for model learners;
    future_images: its frames too. ram_limit_mb: hold the decoded frames in RAM if all of them fit (0: read them from disk).
    A snapshot: rows appended to a store later are not in it.
    """

    def __init__(
        self,
        stores: EpisodeStore | Sequence[EpisodeStore],
        history: int,
        horizon: int,
        *,
        cameras: Sequence[str] | None = None,
        state_keys: Sequence[str] | None = None,
        episodes: Episodes = None,
        features_key: str | None = None,
        images: bool = True,
        future: bool = False,
        future_images: bool = False,
        ram_limit_mb: float | int = 0,
    ) -> None:
        self.stores = [stores] if isinstance(stores, EpisodeStore) else list(stores)
        self.spec = restrict(self.stores[0].spec, cameras, state_keys)
        for store in self.stores[1:]:
            if difference := self.spec.diff(restrict(store.spec, cameras, state_keys)):
                raise UserError(f"{self.stores[0].path} and {store.path} do not fit together: {'; '.join(difference)}")
        self.history, self.horizon = history, horizon
        self._images, self._future, self._future_images = images, future, future_images
        self._offsets = np.cumsum([0, *(store.rows for store in self.stores)])
        self._state = np.concatenate([_states(store, self.spec) for store in self.stores])
        self._action, self._reward, self._terminal = (self._column(name) for name in ("action", "reward", "terminal"))
        self._features = [store.features(features_key) for store in self.stores] if features_key else None
        self._rows, self._first, self._last = _bounds(self.stores, self._offsets, episodes)
        self._end = _ends(self._last, self._terminal)
        if not len(self._rows):
            raise UserError(f"{', '.join(str(store.path) for store in self.stores)}: no episode to learn from was selected")
        frame_bytes = sum(height * width * 3 for height, width in self.spec.cameras.values())
        if (images or future_images) and int(self._offsets[-1]) * frame_bytes <= ram_limit_mb * 1e6:
            for store in self.stores:
                for camera in self.spec.cameras:
                    store.hold_frames(camera)

    def __len__(self) -> int:
        return len(self._rows)

    def lowdim(self, name: str) -> np.ndarray:
        """The selected rows of "state" (of the chosen state_keys), "action", "reward" or "terminal": what a normalizer is fitted on."""
        return {"state": self._state, "action": self._action, "reward": self._reward, "terminal": self._terminal}[name][self._rows]

    def batch(self, indices: np.ndarray) -> Batch:
        """The samples at these indices, 0 <= index < len. Action rows past the episode's end repeat the last and are marked in pad."""
        rows = self._rows[np.asarray(indices)]
        ahead = rows[:, None] + np.arange(self.horizon)
        last = self._last[rows][:, None]
        real = np.minimum(ahead, last)
        batch = Batch(
            obs=self._obs(history_rows(rows, self._first[rows], self.history), self._images),
            action=torch.from_numpy(self._action[real]),
            pad=torch.from_numpy(ahead > last),
        )
        if not self._future:
            return batch
        return replace(
            batch,
            reward=torch.from_numpy(np.where(ahead > last, np.float32(0), self._reward[real])),
            terminal=torch.from_numpy(self._terminal[real] & (ahead <= last)),
            future=self._obs(np.minimum(ahead + 1, last), self._future_images),
            future_mask=torch.from_numpy(ahead < self._end[rows][:, None]),
        )

    def weights(
        self, episode: Callable[[Mapping[str, Any]], float | int] | None = None, mix: Sequence[float | int] | None = None
    ) -> np.ndarray:
        """Sampling probability of each sample, float64 (len,), sum 1.

        episode: weight of a row by its episode's meta (default 1). mix: share of each store (default: by its rows).
        """
        weight = np.ones(int(self._offsets[-1]))
        for store, offset in zip(self.stores, self._offsets, strict=False):
            if episode:
                values = [float(episode(store.meta(i))) for i in range(len(store))]
                weight[offset : offset + store.rows] = np.repeat(values, store.lengths)
        weight = weight[self._rows]
        if mix is not None:
            for share, start, stop in zip(mix, self._offsets[:-1], self._offsets[1:], strict=True):
                inside = (self._rows >= start) & (self._rows < stop)
                weight[inside] *= share / max(weight[inside].sum(), 1e-300)
        if not np.all(weight >= 0) or not 0 < weight.sum() < np.inf:
            raise ValueError(f"weights: sum {weight.sum()}, least {weight.min()}; expected none negative, and one above 0")
        return weight / weight.sum()

    def _obs(self, rows: np.ndarray, images: bool) -> Obs:
        frames = {camera: self._gather(rows, lambda s, r, c=camera: s.frames(c, r)) for camera in self.spec.cameras} if images else {}
        features = None
        if (cached := self._features) is not None:
            features = self._gather(rows, lambda s, r: cached[self.stores.index(s)][r])
        return to_obs(frames, self._state[rows], features)

    def _gather(self, rows: np.ndarray, read: Callable[[EpisodeStore, np.ndarray], np.ndarray]) -> np.ndarray:
        """Row-aligned data of all stores, (B, T) -> (B, T, ...); one read for each store."""
        flat = rows.ravel()
        if len(self.stores) == 1:
            values = read(self.stores[0], flat)
            return values.reshape(*rows.shape, *values.shape[1:])
        owner = np.searchsorted(self._offsets, flat, side="right") - 1
        parts = {k: read(self.stores[k], flat[owner == k] - self._offsets[k]) for k in np.unique(owner)}
        sample = next(iter(parts.values()))
        values = np.empty((len(flat), *sample.shape[1:]), sample.dtype)
        for k, part in parts.items():
            values[owner == k] = part
        return values.reshape(*rows.shape, *values.shape[1:])

    def _column(self, name: str) -> np.ndarray:
        return np.concatenate([store.lowdim(name) for store in self.stores])


def _states(store: EpisodeStore, spec: RobotSpec) -> np.ndarray:
    if not spec.state:
        return np.zeros((store.rows, 0), np.float32)
    return state_vector({name: store.lowdim(f"state/{name}") for name in spec.state}, spec)


def _bounds(stores: Sequence[EpisodeStore], offsets: np.ndarray, episodes: Episodes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows that take part, the first and the last row of every row's episode)."""
    chosen, first, last = [], [], []
    for k, store in enumerate(stores):
        starts = store.starts + offsets[k]
        first.append(np.repeat(starts, store.lengths))
        last.append(np.repeat(starts + store.lengths - 1, store.lengths))
        keep = np.ones(len(store), bool)
        if callable(episodes):
            keep = np.array([bool(episodes(store.meta(i))) for i in range(len(store))], bool)
        elif episodes is not None:
            keep = np.isin(np.arange(len(store)), episodes[k])
        chosen.append(np.flatnonzero(np.repeat(keep, store.lengths)) + offsets[k])
    return np.concatenate(chosen), np.concatenate(first), np.concatenate(last)


def _ends(last: np.ndarray, terminal: np.ndarray) -> np.ndarray:
    """For each row the row that nothing follows: the next terminal one, else its episode's last."""
    rows = np.arange(len(terminal))
    following = np.minimum.accumulate(np.where(terminal, rows, len(rows))[::-1])[::-1]
    return np.minimum(following, last)


def _check_fits(observation: Observation, spec: RobotSpec) -> None:
    for field, expected, got in (("cameras", spec.cameras, observation.images), ("state", spec.state, observation.state)):
        if missing := [name for name in expected if name not in got]:
            raise UserError(f"{field}: the robot does not show {missing[0]!r}; the policy needs {', '.join(expected)}")
    for name, size in spec.cameras.items():
        if (shape := observation.images[name].shape) != (*size, 3):
            raise UserError(f"cameras: {name} is {shape} [px]; the policy needs {(*size, 3)}")
    for name, part in spec.state.items():
        if (shape := np.shape(observation.state[name])) != (part.dim,):
            raise UserError(f"state: {name} is {shape}; the policy needs {(part.dim,)}")
