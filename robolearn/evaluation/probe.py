"""What a linear map can read from features: how much of the robot's state they hold, and how plainly (Alain and Bengio, 2016).

Ridge regression from features to each state, scored on episodes that it never saw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

STRENGTHS = 10.0 ** np.arange(-5, 4)  # of the ridge, times the rows and the mean variance of a feature
FOLDS = 4  # of the training episodes, that choose among them


@dataclass(frozen=True)
class Part:
    """Some rows of some episodes: what was measured, and in which episode."""

    state: Mapping[str, np.ndarray]  # name -> float (N, D)
    episode: np.ndarray  # int (N,)


def linear_probe(features: np.ndarray, train: Part, held_out: np.ndarray, test: Part) -> dict[str, float]:
    """R^2 of each state: 1 is exact, 0 what the mean of the training rows gives, below 0 is worse than that.

    features (N, E) go with `train`, held_out (M, E) with `test`. R^2 is the mean over a state's numbers; those that do not
    move in the training or the test rows are left out, and a state of which none moves, too. How strong the ridge is, the training episodes
    decide among themselves, for each number on its own.
    """
    names, target = _stacked(train.state)
    truth = _stacked(test.state)[1]
    moving = (np.ptp(target, axis=0) > 1e-6) & (np.ptp(truth, axis=0) > 1e-6)
    names, target, truth = names[moving], target[:, moving], truth[:, moving]
    if not len(names):
        return {}
    strength = _choose(features, target, train.episode)
    drawn = _Ridge(features, target).predict(held_out, strength)
    score = 1 - np.square(drawn - truth).sum(0) / np.square(truth - target.mean(0)).sum(0)
    return {name: float(score[names == name].mean()) for name in dict.fromkeys(names.tolist())}


def small_pixels(images: Mapping[str, np.ndarray], size: int = 16) -> np.ndarray:
    """uint8 (N, H, W, 3) of each camera -> float32 (N, E): every image as size x size mean colours; what features must beat."""
    parts = [_shrunk(_shrunk(frames, 1, size), 2, size).reshape(len(frames), -1) for frames in images.values()]
    return np.concatenate(parts, axis=1)


class _Ridge:
    """Ridge regression for many strengths at the price of one: the eigenvectors are theirs in common."""

    def __init__(self, features: np.ndarray, target: np.ndarray) -> None:
        self._mean, self._target_mean = features.mean(0, dtype=np.float64), target.mean(0)
        centred = features - self._mean
        deviation = centred.std(0)
        self._scale = np.where(deviation > 1e-6 * max(deviation.max(initial=0.0), 1e-12), deviation, np.inf)  # a constant says nothing
        centred = centred / self._scale
        values, self._vectors = np.linalg.eigh(centred.T @ centred)
        self._values = np.maximum(values, 0.0)
        self._projected = self._vectors.T @ (centred.T @ (target - self._target_mean))
        self._rows = len(features)

    def predict(self, features: np.ndarray, strength: np.ndarray) -> np.ndarray:
        """strength: one for each column of the target."""
        weights = self._vectors @ (self._projected / (self._values[:, None] + strength * self._rows))
        return (features - self._mean) / self._scale @ weights + self._target_mean


def _choose(features: np.ndarray, target: np.ndarray, episode: np.ndarray) -> np.ndarray:
    """For each column of the target the strength that predicts left-out training episodes best."""
    episodes = np.unique(episode)
    if len(episodes) < 2:  # nothing to leave out: a middling one
        return np.full(target.shape[1], STRENGTHS[len(STRENGTHS) // 2])
    fold = np.searchsorted(episodes, episode) % min(FOLDS, len(episodes))
    error = np.zeros((len(STRENGTHS), target.shape[1]))
    for out in np.unique(fold):
        ridge, left = _Ridge(features[fold != out], target[fold != out]), fold == out
        for row, strength in enumerate(STRENGTHS):
            guess = ridge.predict(features[left], np.full(target.shape[1], strength))
            error[row] += np.square(guess - target[left]).sum(0)
    return STRENGTHS[error.argmin(0)]


def _stacked(state: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(the name of each column, float64 columns of all states)."""
    names = np.array([name for name, values in state.items() for _ in range(values.shape[1])], dtype=object)
    return names, np.concatenate([np.asarray(values, np.float64) for values in state.values()], axis=1)


def _shrunk(frames: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Means of `size` stretches along one axis; an axis that is shorter is left as it is."""
    length = frames.shape[axis]
    if length <= size:
        return frames.astype(np.float32)
    edges = np.linspace(0, length, size + 1).astype(np.int64)
    counts = np.diff(edges).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(4)])
    return np.add.reduceat(frames, edges[:-1], axis=axis, dtype=np.float32) / counts
