"""How far a camera lags behind the robot, told from the two motions alone: cross-correlation with an honest doubt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CERTAIN = 3.3  # standard errors; 1 in 1,000 by chance for one lag, 1 in 20 for the best of some fifty
BETTER = 2.0  # standard errors that the best lag's correlation must be above lag 0's; of 3,600 made synchronous pairs none was
CLIP = 0.98  # quantile: one flash of light or one jump must not decide


@dataclass(frozen=True)
class Profile:
    """Correlation of what changes in the picture with how fast the state moves, for each lag -R..R in rows."""

    correlation: np.ndarray  # float64 (2 R + 1,); at lag l > 0 the picture follows l rows late
    likeness: np.ndarray  # float64 (R + 1,) the state's speed with itself l rows later
    samples: float  # independent ones: neighbouring steps resemble each other and count less

    @property
    def best(self) -> int:
        """The lag of the highest correlation, in rows; of equal ones the smallest."""
        lags = np.arange(len(self.correlation)) - len(self.correlation) // 2
        return int(min(lags[self.correlation == self.correlation.max()], key=abs))

    @property
    def related(self) -> bool:
        """The picture follows the state's motion at all: the best lag's correlation is no chance (Fisher's z)."""
        return float(np.arctanh(min(self._at(self.best), 0.999))) * self._root > CERTAIN

    @property
    def significant(self) -> bool:
        """And it follows late or early: the best lag is better than none (Meng, Rosenthal and Rubin 1992, for correlated correlations)."""
        if not self.related or self.best == 0:
            return False
        best, none, alike = self._at(self.best), self._at(0), min(float(self.likeness[abs(self.best)]), 0.999)
        square = (best**2 + none**2) / 2
        f = min((1 - alike) / (2 * (1 - square)), 1.0)
        gap = np.arctanh(min(best, 0.999)) - np.arctanh(np.clip(none, -0.999, 0.999))
        return bool(gap * self._root / np.sqrt(2 * (1 - alike) * (1 - f * square) / (1 - square)) > BETTER)

    @property
    def _root(self) -> float:
        """One over the standard error of Fisher's z."""
        return float(np.sqrt(max(self.samples - 3, 0)))

    def _at(self, lag: int) -> float:
        return float(self.correlation[len(self.correlation) // 2 + lag])


def profile(change: np.ndarray, speed: np.ndarray, reach: int) -> Profile:
    """change, speed (N,): of the picture, of the state. reach: rows either way, at most a quarter of them.

    Effective samples after Bartlett (1946): N over 1 + 2 times the sum of the products of both autocorrelations.
    """
    count = len(change)
    change, speed = (np.minimum(x, np.quantile(x, CLIP)).astype(np.float64) if count else np.zeros(0) for x in (change, speed))
    reach = min(reach, count // 4)
    found = np.zeros(2 * reach + 1)
    if count < 8 or change.std() < 1e-9 or speed.std() < 1e-9:
        return Profile(found, np.ones(reach + 1), 0.0)
    for lag in range(-reach, reach + 1):
        late, early = (change[lag:], speed[: count - lag]) if lag >= 0 else (change[:lag], speed[-lag:])
        spread = late.std() * early.std()
        found[lag + reach] = ((late - late.mean()) * (early - early.mean())).mean() / spread if spread > 1e-12 else 0.0
    itself = _autocorrelation(speed)
    alike = (_autocorrelation(change) * itself)[1 : count // 4].clip(0).sum()
    return Profile(found, itself[: reach + 1], count / (1 + 2 * float(alike)))


def pooled(profiles: Sequence[Profile]) -> Profile:
    """Of several episodes: the mean of Fisher's z weighted by the samples, over the lags that all of them have."""
    profiles = [p for p in profiles if p.samples > 3]
    if not profiles:
        return Profile(np.zeros(1), np.ones(1), 0.0)
    reach = min(len(p.correlation) // 2 for p in profiles)
    z = [np.arctanh(np.clip(_middle(p.correlation, reach), -0.999, 0.999)) * p.samples for p in profiles]
    total = sum(p.samples for p in profiles)
    alike = np.sum([p.likeness[: reach + 1] * p.samples for p in profiles], axis=0) / total
    return Profile(np.tanh(np.sum(z, axis=0) / total), alike, total)


def _middle(values: np.ndarray, reach: int) -> np.ndarray:
    middle = len(values) // 2
    return values[middle - reach : middle + reach + 1]


def _autocorrelation(x: np.ndarray) -> np.ndarray:
    x = x - x.mean()
    full = np.fft.irfft(np.abs(np.fft.rfft(x, 2 * len(x))) ** 2)[: len(x)]
    return full / full[0]
