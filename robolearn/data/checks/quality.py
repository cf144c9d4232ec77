"""What the literature calls a dataset's quality: how far the actions follow from the states, how wide it spreads, how good it is.

Each measure says which estimator it uses; the papers define expectations, a store gives a sample. Distances are root mean
squares over the elements, each divided by its range (1st to 99th percentile of the store's rows), so that no unit dominates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from robolearn.data.checks.duplicates import require_alike
from robolearn.data.store import EpisodeStore

MOST_ROWS = 20_000  # that neighbours are searched for; a larger store is thinned to this many, drawn evenly with a seed
BINS = 10  # of each element's range, for counting state-action pairs


@dataclass(frozen=True)
class Measure:
    """One number about a store."""

    name: str
    value: float | None  # None: not defined for this store
    meaning: str  # one line: range, what is good, why it is not defined
    source: str
    episodes: np.ndarray | None = None  # (E,) the same of each episode, NaN where unknown; None where it makes no sense


@dataclass(frozen=True)
class Neighbours:
    """For N rows: the nearest row among other episodes."""

    row: np.ndarray  # int (N,)
    distance: np.ndarray  # float (N,)


def nearest_elsewhere(points: np.ndarray, episode: np.ndarray, seed: int = 0) -> Neighbours | None:
    """points (N, D), episode (N,) -> each row's nearest among the other half of the episodes; None below two episodes, or without D.

    The episodes are cut into two halves at random, so that a row never finds itself or the rows beside it, which resemble it
    whatever the data is worth.
    """
    names = np.unique(episode)
    if len(names) < 2 or not points.shape[1]:
        return None
    half = np.isin(episode, np.random.default_rng(seed).permutation(names)[: len(names) // 2])
    row, distance = np.zeros(len(points), int), np.zeros(len(points))
    for mine, theirs in ((half, ~half), (~half, half)):
        gap, found = KDTree(points[theirs]).query(points[mine])
        distance[mine], row[mine] = gap / np.sqrt(points.shape[1]), np.flatnonzero(theirs)[found]
    return Neighbours(row, distance)


def unexplained(values: np.ndarray, neighbours: Neighbours) -> np.ndarray:
    """values (N, D) -> (N,): half the squared difference to the neighbour's, over the variance of all. Mean 0: the neighbour tells
    all; 1: nothing. Half the mean squared difference of neighbours estimates the variance given the point (Rice 1984).
    """
    spread = values.var(axis=0).sum()
    squared = ((values - values[neighbours.row]) ** 2).sum(axis=1)
    return squared / (2 * spread) if spread > 0 else np.zeros(len(values))


def action_divergence(state: np.ndarray, action: np.ndarray, episode: np.ndarray, seed: int = 0) -> np.ndarray | None:
    """(N,) how much actions differ in like states, as a share of the actions' variance; lower is better. None below two episodes.

    Belkhale et al. 2023 ("Data Quality in Imitation Learning", NeurIPS) call action divergence the mismatch of the expert's and
    the learned policy, and measure it in data as the variance of the actions among nearby states. Estimator: nearest neighbours
    in other episodes (`unexplained`) instead of clusters. It counts two ways of doing a thing as divergence, as they do.
    """
    near = nearest_elsewhere(state, episode, seed)
    return None if near is None else unexplained(action, near)


def transition_diversity(state: np.ndarray, action: np.ndarray, after: np.ndarray, episode: np.ndarray, seed: int = 0) -> np.ndarray | None:
    """(N,) how much the state's change differs after like states and actions, as a share of its variance; 0 where the world is
    deterministic and the data dense. None below two episodes. after (N, D): the next row's state.

    Belkhale et al. 2023: the noise of the system for a given state and action; some of it helps, for it widens what is seen.
    Estimator: as for `action_divergence`, neighbours in state and action together.
    """
    near = nearest_elsewhere(np.concatenate([state, action], axis=1), episode, seed)
    return None if near is None or not state.shape[1] else unexplained(after - state, near)


def state_distance(state: np.ndarray, episode: np.ndarray, seed: int = 0) -> np.ndarray | None:
    """(N,) distance to the nearest state of another episode; 0: the same states again and again. None below two episodes.

    Belkhale et al. 2023 report state similarity; this is its opposite, in shares of the states' ranges. Estimator: one nearest neighbour.
    """
    near = nearest_elsewhere(state, episode, seed)
    return None if near is None else near.distance


def trajectory_quality(returns: np.ndarray, low: float, high: float) -> np.ndarray | None:
    """(E,) each episode's return between `low` (0) and `high` (1); their mean is TQ. None where low = high.

    Schweighofer et al. 2022 ("A Dataset Perspective on Offline Reinforcement Learning", CoLLAs): the mean return, normalised by
    a random and an expert policy's. Undiscounted. Who has no such policies passes the worst and best return seen.
    """
    return (returns - low) / (high - low) if high > low else None


def unique_pairs(state: np.ndarray, action: np.ndarray, low: np.ndarray, high: np.ndarray, bins: int = BINS) -> int:
    """How many cells of a grid over states and actions hold a row. low, high (S + A,): the grid's ends, where what is beyond counts.

    Schweighofer et al. 2022: SACo is this number over a reference dataset's. They count exact pairs; continuous ones are all
    unique, so that `bins` cells an element are counted instead.
    """
    values = np.concatenate([state, action], axis=1)
    cells = np.floor((values - low) / np.where(high > low, high - low, 1.0) * bins).clip(0, bins - 1).astype(np.uint8)
    return len(np.unique(np.ascontiguousarray(cells).view(f"V{max(cells.shape[1], 1)}")))


def positive_sided_variance(returns: np.ndarray) -> float:
    """Mean square of what the returns above their mean have beyond it: 0 where all are equal, 1/8 where half are 0 and half 1.

    Hong et al. 2023 ("Harnessing Mixed Offline RL Datasets via Trajectory Weighting", ICLR): where it is large, weighting the good
    trajectories pays; where it is near 0, there is nothing to pick out.
    """
    return float((np.maximum(returns - returns.mean(), 0) ** 2).mean())


def quality(store: EpisodeStore, reference: EpisodeStore | None = None, seed: int = 0) -> list[Measure]:
    """All measures of a store; no image is read. reference: what SACo and TQ compare with (an expert's, a replay buffer's).

    UserError: it has other states or actions.
    """
    if reference is not None:
        require_alike(store, reference)
    state, action, after, episode = _transitions(store, seed)
    rewards = [s.lowdim("reward") for s in (store, reference) if s is not None]
    returns = np.add.reduceat(store.lowdim("reward").astype(np.float64), store.starts)
    seen = returns if reference is None else np.append(returns, np.add.reduceat(rewards[1].astype(np.float64), reference.starts))
    thinned = f"{len(state)} of {store.rows - len(store)} rows" if len(state) < store.rows - len(store) else "all rows"
    belkhale = f"Belkhale et al. 2023; nearest neighbours in other episodes, {thinned}"

    def mean(name: str, values: np.ndarray | None, meaning: str, source: str = belkhale) -> Measure:
        if values is None:
            return Measure(name, None, "not defined: it takes two episodes of two rows, and a state", source)
        counts = np.bincount(episode, minlength=len(store))
        each = np.divide(np.bincount(episode, values, len(store)), counts, out=np.full(len(store), np.nan), where=counts > 0)
        return Measure(name, float(values.mean()), meaning, source, each)

    measures = [
        mean(
            "action divergence",
            action_divergence(state, action, episode, seed),
            "0: like states, like actions; 1: the actions do not follow from the states",
        ),
        mean(
            "transition diversity",
            transition_diversity(state, action, after, episode, seed),
            "0: like states and actions lead to the same; 1: what follows is noise, or the neighbours are too far away to tell",
        ),
        mean(
            "state distance", state_distance(state, episode, seed), "in shares of the ranges; 0: every state was met by another episode too"
        ),
    ]
    against = (
        "the worst and the best return seen here"
        if reference is None
        else f"the worst and the best return here and in {reference.path.name}"
    )
    each = trajectory_quality(returns, float(seen.min()), float(seen.max()))
    tq = "Schweighofer et al. 2022; undiscounted"
    if each is None:
        measures.append(Measure("TQ", None, "not defined: all returns are equal (no rewards recorded, or a single episode)", tq))
    else:
        measures.append(Measure("TQ", float(each.mean()), f"mean return; 0 and 1 are {against}", tq, each))
    measures += _coverage(store, reference)
    if each is not None:
        words = "of the same normalised returns; 0: nothing stands out; 0.125: half are worst, half are best, and weighting can pay"
        measures.append(Measure("return spread", positive_sided_variance(each), words, "Hong et al. 2023; positive-sided variance"))
    return measures


def _coverage(store: EpisodeStore, reference: EpisodeStore | None) -> list[Measure]:
    stores = [store] if reference is None else [store, reference]
    both = np.concatenate([np.concatenate([s.lowdim("state"), s.lowdim("action")], axis=1) for s in stores])
    low, high = np.quantile(both, (0.01, 0.99), axis=0)
    counts = [unique_pairs(s.lowdim("state"), s.lowdim("action"), low, high) for s in stores]
    source = f"Schweighofer et al. 2022; {BINS} bins an element, 1st to 99th percentile"
    if reference is not None:
        return [Measure("SACo", counts[0] / counts[1], f"unique state-action pairs over those of {reference.path.name}", source)]
    return [
        Measure(
            "unique pairs",
            float(counts[0]),
            "state-action pairs, counted in cells of a grid; SACo without a reference to divide by",
            source,
        ),
        Measure("unique pairs per row", counts[0] / store.rows, "near 0: the same again and again; 1: no pair twice", source),
    ]


def _transitions(store: EpisodeStore, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """state (N, S), action (N, A), next state (N, S), all in shares of the ranges, and episode (N,): N is at most `MOST_ROWS`."""
    kept = np.setdiff1d(np.arange(store.rows), store.starts + store.lengths - 1)
    if len(kept) > MOST_ROWS:
        kept = np.sort(np.random.default_rng(seed).choice(kept, MOST_ROWS, replace=False))
    episode = np.searchsorted(store.starts, kept, side="right") - 1

    def scaled(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        low, high = np.quantile(values, (0.01, 0.99), axis=0)
        return values[rows].astype(np.float64) / np.where(high > low, high - low, np.inf)

    state, action = store.lowdim("state"), store.lowdim("action")
    return scaled(state, kept), scaled(action, kept), scaled(state, kept + 1), episode
