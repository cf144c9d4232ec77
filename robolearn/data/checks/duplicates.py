"""The same episode twice: bit for bit, or nearly, in one store or across a training and a test set."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from robolearn.core.errors import UserError
from robolearn.data.store import EpisodeStore

NEAR = 0.01  # of the ranges, root mean square: two demonstrations of one task by one hand differ by far more
POINTS = 32  # rows that stand for an episode, evenly spread from its first to its last
COMPONENTS = 16  # in which candidates are looked for
CANDIDATES = 5  # of which the nearest is taken, by the full distance


@dataclass(frozen=True)
class Twin:
    """The episode that is most like one."""

    store: str  # "" for the same store
    index: int
    distance: float  # root mean square over rows and elements, in shares of the ranges; states and actions
    exact: bool  # the same states and actions, bit for bit

    @property
    def near(self) -> bool:
        return self.exact or self.distance < NEAR


def twins(store: EpisodeStore, against: EpisodeStore | None = None) -> list[Twin | None]:
    """Of every episode of `store`: its nearest in `store` or `against`; None where it is the only one. Reads no image.

    Episodes are compared by `POINTS` rows each, so that a copy at another speed is a near one; `CANDIDATES` neighbours in the
    first principal components are compared in full. UserError: `against` has other states or actions.
    """
    if against is not None:
        require_alike(store, against)
    scale = _scale(store)
    names = [("", i) for i in range(len(store))]
    shapes, prints = _shapes(store, scale), _prints(store)
    if against is not None:
        names += [(str(against.path), i) for i in range(len(against))]
        shapes, prints = np.concatenate([shapes, _shapes(against, scale)]), prints + _prints(against)
    if len(names) < 2:
        return [None] * len(store)
    copies: dict[str, list[int]] = {}
    for number, digest in enumerate(prints):
        copies.setdefault(digest, []).append(number)
    found: list[Twin | None] = []
    for number, neighbours in enumerate(_neighbours(shapes, len(store))):
        if same := [other for other in copies[prints[number]] if other != number]:
            other, distance = same[0], 0.0
        else:
            gaps = np.sqrt(((shapes[neighbours] - shapes[number]) ** 2).mean(axis=1))
            other, distance = int(neighbours[gaps.argmin()]), float(gaps.min())
        found.append(Twin(*names[other], distance, bool(same)))
    return found


def _neighbours(shapes: np.ndarray, count: int) -> list[np.ndarray]:
    """Of the first `count` rows: which others are near in the directions that vary most. Projection never makes a distance larger."""
    centred = shapes - shapes.mean(axis=0)
    axes = np.linalg.svd(centred[:: max(1, len(centred) // 2000)], full_matrices=False)[2][:COMPONENTS]
    flat = centred @ axes.T
    nearest = np.atleast_2d(KDTree(flat).query(flat[:count], k=min(CANDIDATES + 1, len(flat)))[1])
    return [row[row != number] for number, row in enumerate(nearest)]


def _shapes(store: EpisodeStore, scale: np.ndarray) -> np.ndarray:
    """float32 (E, POINTS * D): each episode's states and actions, interpolated between rows."""
    values = np.concatenate([store.lowdim("state"), store.lowdim("action")], axis=1) / scale
    found = np.zeros((len(store), POINTS * len(scale)), np.float32)
    for index, (start, length) in enumerate(zip(store.starts, store.lengths, strict=True)):
        at = np.linspace(0, length - 1, POINTS)
        low, part = np.floor(at).astype(int), (at % 1)[:, None]
        rows = values[start : start + length]
        found[index] = ((1 - part) * rows[low] + part * rows[np.minimum(low + 1, length - 1)]).ravel()
    return found


def _prints(store: EpisodeStore) -> list[str]:
    state, action = store.lowdim("state"), store.lowdim("action")
    spans = [slice(start, start + length) for start, length in zip(store.starts, store.lengths, strict=True)]
    return [hashlib.sha256(state[span].tobytes() + b"|" + action[span].tobytes()).hexdigest() for span in spans]


def _scale(store: EpisodeStore) -> np.ndarray:
    """(S + A,) ranges, 1st to 99th percentile; infinite where nothing moves."""
    low, high = np.quantile(np.concatenate([store.lowdim("state"), store.lowdim("action")], axis=1), (0.01, 0.99), axis=0)
    return np.where(high > low, high - low, np.inf)


def require_alike(store: EpisodeStore, other: EpisodeStore) -> None:
    """UserError where the two do not have the same states and actions, element by element."""
    mine, theirs = ({**{k: v.names for k, v in s.spec.state.items()}, "action": s.spec.action.names} for s in (store, other))
    for key in dict.fromkeys([*mine, *theirs]):
        if mine.get(key) != theirs.get(key):
            has, wanted = (", ".join(found.get(key, ())) or "absent" for found in (theirs, mine))
            raise UserError(f"{other.path}: cannot be compared with {store.path}: {key} is {has}, not {wanted}")
