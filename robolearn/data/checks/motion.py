"""How the numbers of one episode move, element by element: stillness, smoothness, jumps, limits."""

from __future__ import annotations

import numpy as np

from hardware.types import ArraySpec, RobotSpec
from robolearn.data.episode import Episode

IDLE = 1e-3  # of a state's range in the data
AT_LIMIT = 1e-3  # of the distance between the limits
SWITCH = 0.1  # an action element that spends less than this share of its rows between its limits is a switch (a gripper)
JUMP = 0.1  # of a state's range in one step
SPIKE = 4.0  # times the fastest usual steps, and the steps around it
AROUND = 5  # steps on either side


def state_vector(episode: Episode, spec: RobotSpec) -> np.ndarray:
    """float32 (T, S): all states side by side, in the spec's order."""
    parts = [episode.state[name] for name in spec.state]
    return np.concatenate(parts, axis=1) if parts else np.zeros((len(episode), 0), np.float32)


def state_names(spec: RobotSpec) -> list[str]:
    """(S,) as people call them; with the vector's name before it where two vectors share an element's name."""
    names = [name for part in spec.state.values() for name in part.names]
    if len(set(names)) == len(names):
        return names
    return [f"{key}.{name}" for key, part in spec.state.items() for name in part.names]


def steps_of(state: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(T - 1, S) how far each state moved, as a share of its range; 0 for states that never move. state (T, S), scale (S,)."""
    return np.abs(np.diff(state.astype(np.float64), axis=0)) / scale


def still(steps: np.ndarray) -> np.ndarray:
    """bool (T - 1,): no state moved by more than 0.1 % of its range."""
    return steps.max(axis=1, initial=0.0) < IDLE


def roughness(state: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(S,) third over first difference, root mean squares; NaN where a state hardly moves. Needs no unit and no time.

    A sine of angular frequency w per row has (2 sin(w / 2))^2; a random walk sqrt(6), white noise sqrt(10).
    """
    found = np.full(state.shape[1], np.nan)
    if len(state) < 4:
        return found
    first, third = (np.sqrt((np.diff(state.astype(np.float64), n, axis=0) ** 2).mean(axis=0)) for n in (1, 3))
    moving = first / scale > IDLE / 10
    found[moving] = third[moving] / first[moving]
    return found


def jumps(state: np.ndarray, scale: np.ndarray, time: np.ndarray) -> np.ndarray:
    """bool (T - 1, S): steps in which a state moved by a tenth of its range and far faster than usual and than around it.

    Speeds, so that a gap in time is no jump. Usual: the 90th percentile of the steps in which that state moved at all, so
    that a slow sensor's staircase is no row of jumps. A state of two values is a switch and never jumps.
    """
    if len(state) < 3:
        return np.zeros((max(len(state) - 1, 0), state.shape[1]), bool)
    gaps = np.diff(time)
    speed = steps_of(state, scale) / (gaps / np.median(gaps)).clip(1.0)[:, None]
    found = np.zeros(speed.shape, bool)
    for i in range(speed.shape[1]):
        column = speed[:, i]
        moving = column > IDLE
        if column.max() < JUMP or len(np.unique(state[:, i])) <= 2:
            continue
        padded = np.pad(column, AROUND, mode="reflect") if len(column) > AROUND else np.pad(column, AROUND, mode="edge")
        # A glitch goes there and back: two fast steps, so that the third fastest around is what else went on.
        nearby = np.sort(np.lib.stride_tricks.sliding_window_view(padded, 2 * AROUND + 1), axis=1)[:, -3]
        usual = np.quantile(column[moving], 0.9) if moving.sum() > 2 else 0.0
        found[:, i] = (column > JUMP) & (column > SPIKE * np.maximum(usual, nearby))
    return found


def at_limits(values: np.ndarray, spec: ArraySpec) -> np.ndarray:
    """bool (T, D): within 0.1 % of a limit, or beyond it; never where the limits are infinite."""
    low, high = np.array(spec.low), np.array(spec.high)
    margin = np.where(np.isfinite(high - low), AT_LIMIT * (high - low), 0.0)
    return (values <= low + margin) | (values >= high - margin)


def saturated(action: np.ndarray, spec: ArraySpec) -> np.ndarray:
    """(A,) share of rows at a limit; 0 for switches, which are nowhere else."""
    share = at_limits(action, spec).mean(axis=0)
    return np.where(share > 1 - SWITCH, 0.0, share)


def outside(values: np.ndarray, spec: ArraySpec) -> np.ndarray:
    """bool (T, D): beyond a limit by more than 0.1 % of the distance between the limits."""
    low, high = np.array(spec.low), np.array(spec.high)
    margin = np.where(np.isfinite(high - low), AT_LIMIT * (high - low), 1e-6)
    return (values < low - margin) | (values > high + margin)
