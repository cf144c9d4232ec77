"""Training windows from stores: which rows make a sample, read a batch at a time. numpy; `tensors` makes torch of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hardware.types import RobotSpec
from robolearn.core.errors import UserError
from robolearn.data.goals import Goals, Told
from robolearn.data.store import EpisodeStore

Episodes = Callable[[Mapping[str, Any]], bool] | Sequence[Sequence[int] | np.ndarray] | None


@dataclass(frozen=True)
class Look:
    """B histories of T observations, oldest first."""

    images: Mapping[str, np.ndarray]  # camera -> uint8 (B, T, H, W, 3)
    state: np.ndarray  # float32 (B, T, S)
    features: np.ndarray | None = None  # float32 (B, T, E)
    goal: Look | None = None  # T = 1, what is wanted: its images or features, or its state (then S > 0), or an instruction's features
    past: Past | None = None


@dataclass(frozen=True)
class Past:
    """What was done and earned along B histories; see core.types.Past."""

    action: np.ndarray  # float32 (B, T, A)
    to_go: np.ndarray  # float32 (B, T)
    step: np.ndarray  # int64 (B, T)
    real: np.ndarray  # bool (B, T)


@dataclass(frozen=True)
class Window:
    """B samples: what was seen, the H actions from then on, and (asked for with `future`) what came of each."""

    obs: Look
    action: np.ndarray  # float32 (B, H, A); past the episode's end the arm stays
    pad: np.ndarray  # bool (B, H): past the end
    reward: np.ndarray | None = None  # float32 (B, H)
    terminal: np.ndarray | None = None  # bool (B, H)
    future: Look | None = None  # the observation after each action, T = H
    future_mask: np.ndarray | None = None  # bool (B, H): there is one


def history_rows(rows: np.ndarray, first: np.ndarray, history: int, stride: int = 1) -> np.ndarray:
    """(B,) rows and the first row of each one's episode -> (B, history), oldest first, the first row repeated before itself."""
    return np.maximum(rows[:, None] + stride * np.arange(1 - history, 1), first[:, None])


def state_vector(state: Mapping[str, np.ndarray], spec: RobotSpec) -> np.ndarray:
    """Named vectors (..., D) -> one float32 vector (..., S), in the order of `spec.state`."""
    parts = [np.asarray(state[name], np.float32) for name in spec.state]
    return np.concatenate(parts, axis=-1)


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
    """One sample for each row: the `history` observations up to it, the `horizon` actions from it on, `stride` rows apart.

    stores: one or several whose specs agree. cameras, state_keys: which inputs (None: all); `spec` is theirs.
    episodes: which take part: a test of their meta, or their indices for each store (see `split`).
    images: read frames. features_key: read cached encoder outputs. future: what followed each action, for model learners;
    future_images: its frames too. past: what was done and earned along the history. goals: what each sample is told to reach.
    latency_s: camera -> seconds by which its frames shall be older than the row they go with
    (the newest frame taken by then; negative: younger), to learn with the delays of the robot that will be flown.
    cache_mb: keep as many decoded frames as fit under this ceiling, in RAM, or memory-mapped in `cache_folder`; 0: none.
    A snapshot: rows appended to a store later are not in it.
    """

    def __init__(
        self,
        stores: EpisodeStore | Sequence[EpisodeStore],
        history: int,
        horizon: int,
        *,
        stride: int = 1,
        cameras: Sequence[str] | None = None,
        state_keys: Sequence[str] | None = None,
        episodes: Episodes = None,
        features_key: str | None = None,
        images: bool = True,
        future: bool = False,
        future_images: bool = False,
        past: bool = False,
        goals: Goals | None = None,
        latency_s: Mapping[str, float] | None = None,
        cache_mb: float | int = 0,
        cache_folder: Path | None = None,
    ) -> None:
        if min(history, horizon, stride) < 1 or (future and stride != 1):
            raise ValueError(f"history {history}, horizon {horizon}, stride {stride}: each at least 1, and stride 1 with future")
        self.stores = [stores] if isinstance(stores, EpisodeStore) else list(stores)
        self.spec = restrict(self.stores[0].spec, cameras, state_keys)
        for store in self.stores[1:]:
            if difference := self.spec.diff(restrict(store.spec, cameras, state_keys)):
                raise UserError(f"{self.stores[0].path} and {store.path} do not fit together: {'; '.join(difference)}")
        self.history, self.horizon, self.stride = history, horizon, stride
        self._steps = self.spec.steps
        self._images, self._future, self._future_images, self._past = images, future, future_images, past
        self._offsets = np.cumsum([0, *(store.rows for store in self.stores)])
        self._state = np.concatenate([_states(store, self.spec) for store in self.stores])
        self._action, self._reward, self._terminal = (self.column(name) for name in ("action", "reward", "terminal"))
        self._features = [store.features(features_key) for store in self.stores] if features_key else None
        self._rows, self._first, self._last = _bounds(self.stores, self._offsets, episodes)
        self._end = _ends(self._last, self._terminal)
        self._to_go = _to_go(self._reward, self._last) if past else self._reward
        if not len(self._rows):
            raise UserError(f"{', '.join(str(store.path) for store in self.stores)}: no episode to learn from was selected")
        self._goals, self._told = goals, self._instructed(goals) if goals is not None and goals.kind == "language" else None
        self._seen = {camera: self._delayed(camera, delay) for camera, delay in (latency_s or {}).items()}
        if images or future_images:
            self._hold(cache_mb, cache_folder)

    def __len__(self) -> int:
        return len(self._rows)

    def lowdim(self, name: str) -> np.ndarray:
        """The selected rows of "state" (of the chosen state_keys), "action", "reward" or "terminal": what a normalizer is fitted on."""
        return {"state": self._state, "action": self._action, "reward": self._reward, "terminal": self._terminal}[name][self._rows]

    def chunks(self) -> np.ndarray:
        """The actions of all samples, (len, H, A): what a normalizer of actions relative to the state is fitted on."""
        return self._done(*self._ahead(self._rows))

    def read(self, indices: np.ndarray | Sequence[int], salt: int = 0) -> Window:
        """The samples at these indices, 0 <= index < len. Past the episode's end, marked in pad, actions say to stay.

        salt: another number draws other goals, the same one the same (`Batches` gives the batch's number).
        """
        rows = self._rows[np.asarray(indices)]
        ahead, last = self._ahead(rows)
        real = np.minimum(ahead, last)
        seen = history_rows(rows, self._first[rows], self.history, self.stride)
        obs = self._look(seen, self._images)
        window = Window(
            obs=replace(obs, past=self._behind(rows, seen) if self._past else None, goal=self._wanted(rows, salt)),
            action=self._done(ahead, last),
            pad=ahead > last,
        )
        if not self._future:
            return window
        return replace(
            window,
            reward=np.where(ahead > last, np.float32(0), self._reward[real]),
            terminal=self._terminal[real] & (ahead <= last),
            future=self._look(np.minimum(ahead + 1, last), self._future_images),
            future_mask=ahead < self._end[rows][:, None],
        )

    __getitems__ = read  # what torch's DataLoader asks for: DataLoader(windows, batch_sampler=..., collate_fn=to_batch)

    @property
    def rows(self) -> np.ndarray:
        """The row of each sample, (len,), in the compact rows of all stores one after the other."""
        return self._rows

    def groups(self) -> list[np.ndarray]:
        """The indices of each store's samples, for a Sampler that mixes stores in exact shares."""
        owner = np.searchsorted(self._offsets, self._rows, side="right") - 1
        return [np.flatnonzero(owner == k) for k in range(len(self.stores))]

    @property
    def lengths(self) -> np.ndarray:
        """Rows of each episode of all stores, one after the other; those that take no part, too."""
        return np.concatenate([store.lengths for store in self.stores])

    def column(self, name: str) -> np.ndarray:
        """All rows of all stores, (see EpisodeStore.lowdim), one after the other; `rows` says which of them are samples."""
        return np.concatenate([store.lowdim(name) for store in self.stores])

    def by_episode(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """(len,): of one value for each of `lengths`, that of each sample's episode."""
        return np.repeat(values, self.lengths)[self._rows]

    def weights(self, episode: Callable[[Mapping[str, Any]], float | int] | None = None, rows: np.ndarray | None = None) -> np.ndarray:
        """Sampling probability of each sample, float64 (len,), sum 1: the product of

        episode: weight by its episode's meta (default 1); rows: weight of each sample, (len,) (default 1; see `weighting`).
        """
        weight = np.ones(len(self)) if rows is None else np.asarray(rows, np.float64)
        if episode:
            weight = weight * self.by_episode([float(episode(store.meta(i))) for store in self.stores for i in range(len(store))])
        if weight.shape != (len(self),) or not np.all(weight >= 0) or not 0 < weight.sum() < np.inf:
            raise ValueError(f"weights: {weight.shape}, sum {weight.sum()}; expected ({len(self)},), none negative, and one above 0")
        return weight / weight.sum()

    def _ahead(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows of each sample's actions (B, H), were its episode long enough, and the episode's last row (B, 1)."""
        return rows[:, None] + self.stride * np.arange(self.horizon), self._last[rows][:, None]

    def _done(self, ahead: np.ndarray, last: np.ndarray) -> np.ndarray:
        """(B, H, A). Repeated past the end, a position is held but a step goes on: those are zero there."""
        action = self._action[np.minimum(ahead, last)]
        if self._steps.any():
            action[(ahead > last)[..., None] & self._steps] = 0
        return action

    def _look(self, rows: np.ndarray, images: bool, live: bool = True) -> Look:
        cameras, late = self.spec.cameras if images else (), self._seen if live else {}
        frames = {c: self._gather(late[c][rows] if c in late else rows, lambda s, r, c=c: s.frames(c, r)) for c in cameras}
        features = None
        if (cached := self._features) is not None:
            features = self._gather(rows, lambda s, r: cached[self.stores.index(s)][r])
        return Look(frames, self._state[rows], features)

    def _wanted(self, rows: np.ndarray, salt: int) -> Look | None:
        if self._goals is None:
            return None
        nothing = np.zeros((len(rows), 1, 0), np.float32)
        if self._told is not None:
            return Look({}, nothing, self._told.read(rows, salt))
        goal = self._goals.rows(rows, self._last[rows], salt)[:, None]
        if self._goals.kind == "state":
            return Look({}, self._state[goal])
        return replace(self._look(goal, self._images, live=False), state=nothing)  # a picture is shown, not awaited: it is never late

    def _instructed(self, goals: Goals) -> Told:
        firsts = np.concatenate([store.starts + offset for store, offset in zip(self.stores, self._offsets[:-1], strict=True)])
        return Told(self.stores, np.isin(firsts, self._first[self._rows]), goals.embeddings)

    def _behind(self, rows: np.ndarray, seen: np.ndarray) -> Past:
        real = rows[:, None] + self.stride * np.arange(1 - self.history, 1) >= self._first[rows][:, None]
        done = (real & (seen != rows[:, None]))[..., None]
        return Past(np.where(done, self._action[seen], np.float32(0)), self._to_go[seen], seen - self._first[seen], real)

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

    def _delayed(self, camera: str, delay: float) -> np.ndarray:
        """For each row the row whose frame of this camera a robot with this delay [s] would be shown."""
        if camera not in self.spec.cameras:
            raise UserError(f"latency_s: no camera {camera!r}; valid: {', '.join(self.spec.cameras)}")
        if not np.isfinite(delay):
            raise UserError(f"latency_s: {camera}: {delay} s; expected a finite number")
        time = self.column("time")
        taken = np.concatenate([s.lowdim(f"image_time/{camera}") if s.version > 1 else s.lowdim("time") for s in self.stores])
        shown = np.arange(len(time))
        for first in np.unique(self._first):
            rows = slice(first, self._last[first] + 1)
            newest = np.searchsorted(taken[rows], time[rows] - delay, side="right") - 1
            shown[rows] = first + np.clip(newest, 0, rows.stop - first - 1)
        return shown

    def _hold(self, cache_mb: float, folder: Path | None) -> None:
        """Frames of the first rows, store after store, as far as the ceiling goes: any row is as likely as any other to be asked for."""
        row_bytes = sum(height * width * 3 for height, width in self.spec.cameras.values())
        room = int(min(cache_mb * 1e6 / row_bytes, self._offsets[-1])) if row_bytes else 0
        for store in self.stores:
            for camera in self.spec.cameras:
                store.hold_frames(camera, min(room, store.rows), folder)
            room -= min(room, store.rows)


def _states(store: EpisodeStore, spec: RobotSpec) -> np.ndarray:
    if not spec.state:
        return np.zeros((store.rows, 0), np.float32)
    return state_vector({name: store.lowdim(f"state/{name}") for name in spec.state}, spec)


def _bounds(stores: Sequence[EpisodeStore], offsets: np.ndarray, episodes: Episodes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows that take part, the first and the last row of every row's episode)."""
    chosen, first, last = [], [], []
    if episodes is not None and not callable(episodes) and (len(episodes) != len(stores) or any(np.ndim(part) != 1 for part in episodes)):
        raise ValueError(f"episodes: {episodes}; expected one list of indices for each store")
    for k, store in enumerate(stores):
        starts = store.starts + offsets[k]
        first.append(np.repeat(starts, store.lengths))
        last.append(np.repeat(starts + store.lengths - 1, store.lengths))
        keep = np.ones(len(store), bool)
        if callable(episodes):
            keep = np.array([bool(episodes(store.meta(i))) for i in range(len(store))], bool)
        elif episodes is not None:
            keep = np.isin(np.arange(len(store)), episodes[k])
            if len(episodes[k]) and not 0 <= np.min(episodes[k]) <= np.max(episodes[k]) < len(store):
                raise ValueError(f"episodes: {episodes[k]} of {store.url}; valid: 0 to {len(store) - 1}")
        chosen.append(np.flatnonzero(np.repeat(keep, store.lengths)) + offsets[k])
    return np.concatenate(chosen), np.concatenate(first), np.concatenate(last)


def _to_go(reward: np.ndarray, last: np.ndarray) -> np.ndarray:
    """For each row the sum of the rewards from it to its episode's last row."""
    total = np.cumsum(reward, dtype=np.float64)
    return (total[last] - total + reward).astype(np.float32)


def _ends(last: np.ndarray, terminal: np.ndarray) -> np.ndarray:
    """For each row the row that nothing follows: the next terminal one, else its episode's last."""
    rows = np.arange(len(terminal))
    following = np.minimum.accumulate(np.where(terminal, rows, len(rows))[::-1])[::-1]
    return np.minimum(following, last)
