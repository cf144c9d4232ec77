"""What may be wrong with an episode: named numbers, each with a unit, a threshold and the reason for it.

`robolearn inspect` shows them, `robolearn edit` filters by them; their names are identifiers for that reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hardware.types import RobotSpec
from robolearn.data.checks import motion
from robolearn.data.checks.duplicates import NEAR, Twin
from robolearn.data.checks.footage import Footage, longest_run, watch
from robolearn.data.checks.statistics import EpisodeStatistics, episode_statistics, state_scale
from robolearn.data.checks.synchrony import Profile, profile
from robolearn.data.episode import Episode
from robolearn.data.store import EpisodeStore

LATE = 1.5  # a step longer than this many usual ones lost rows
LAG_S = 1.0  # how far a camera's lag is searched for, either way


@dataclass(frozen=True)
class Rule:
    """One kind of flag. An episode is flagged where its number is above the threshold; without a threshold, where it is true."""

    name: str
    unit: str
    threshold: float | None
    reason: str  # for the threshold
    meaning: str
    says: str  # of one episode; {value}, {where}
    periods: bool = False  # the threshold counts the spec's periods [1 / rate_hz]; the number itself is in seconds
    below: bool = False  # flagged below the threshold

    def limit(self, spec: RobotSpec) -> float | None:
        """The threshold in the number's unit."""
        return self.threshold / spec.rate_hz if self.periods and self.threshold is not None else self.threshold

    def raised(self, value: float | bool, spec: RobotSpec) -> bool:
        limit = self.limit(spec)
        return bool(value) if limit is None else value < limit if self.below else value > limit

    def of(self, value: float | bool, where: str, spec: RobotSpec) -> Flag:
        return Flag(self, value, where, self.raised(value, spec), self.says.format(value=value, where=where))


RULES = {
    rule.name: rule
    for rule in (
        Rule(
            "frozen_camera", "rows", 4, "a camera at a third of the rows' rate repeats a frame twice, not four times",
            "longest run of equal frames while the state moved", "{where} shows one picture for {value:.0f} rows",
        ),
        Rule(
            "dropped_rows", "rows", 0, "a policy learns one period between rows; a hole shows it a jump",
            "missing by the clock: steps longer than 1.5 times the usual one", "{where} ({value:.0f} missing)",
        ),
        Rule(
            "black_camera", "share of frames", 0, "no lit scene looks so",
            "frames that show nothing: black, or of one colour", "{where} shows nothing in {value:.0%} of its frames",
        ),
        Rule(
            "duplicated_frames", "share of steps", 0.1, "a frame lost now and then is usual; more: the camera is slower than the rows",
            "steps in which the state moved and the frame did not change by a bit", "{where} repeats {value:.0%} of its frames in motion",
        ),
        Rule(
            "desync", "s", 1.5, "within a period, camera and state cannot be told apart",
            "a camera is off its rows: by its stamps, else by the lag of its motion behind the state's where that is significant",
            "{where} is {value:.3f} s off its rows", periods=True,
        ),
        Rule(
            "idle", "share of steps", 0.5, "a policy that sees mostly rest learns to rest",
            "no state moved by more than 0.1 % of its range", "idle for {value:.0%} of its steps",
        ),
        Rule(
            "idle_start", "s", 1.0, "longer than a person needs to react; a policy copies the pause",
            "idle before the first movement", "waits {value:.1f} s at the start",
        ),
        Rule(
            "idle_end", "s", 1.0, "longer than a person needs to react; a policy copies the pause",
            "idle after the last movement", "waits {value:.1f} s at the end",
        ),
        Rule(
            "jerk", "1", 2.0, "smooth 0.1 to 0.5, a random walk 2.4, white noise 3.2: above 2, noise or staircases outweigh the motion",
            "third over first difference of the state, root mean squares, median over its elements", "jerky: {value:.2f}",
        ),
        Rule(
            "saturated", "share of rows", 0.3, "what was wanted is unknown beyond the limit; a third of the rows bends the distribution",
            "an action element at the spec's limits, the worst one; switches do not count",
            "{where} at its limit in {value:.0%} of the rows",
        ),
        Rule(
            "outside", "share of rows", 0, "the spec promises it cannot be: wrong unit, wrong order, or wrong limits",
            "a state or action beyond the spec's limits", "{where} beyond its limits in {value:.1%} of the rows",
        ),
        Rule(
            "jumps", "steps", 0, "a body cannot: a lost sample, an angle that wraps, a quaternion that changes sign",
            "steps in which a state moved by a tenth of its range, four times faster than usual and than around it",
            "{where} jumps in {value:.0f} steps",
        ),
        Rule(
            "rate_error", "1", 0.05, "a speed learned from it would be off by as much",
            "the measured rate over the spec's, minus 1, without its sign", "{where}",
        ),
        Rule(
            "overruled", "share of rows", 0.2, "the governor decided this often, not the operator",
            "another action was executed than requested", "overruled in {value:.0%} of its rows",
        ),
        Rule(
            "unlabeled", "bool", None, "it can be neither trained for nor evaluated on",
            "nobody knows whether it succeeded", "success unknown",
        ),
        Rule(
            "unended", "bool", None, "a value would be learned past the end of the task",
            "it succeeded, yet no row is terminal", "succeeded, yet no row is terminal",
        ),
        Rule(
            "interrupted", "bool", None, "its end is missing, and with it what the last actions led to",
            "the recorder was killed and the episode recovered", "recording was interrupted",
        ),
    )
}  # fmt: skip


AMONG = {  # rules that need the other episodes
    rule.name: rule
    for rule in (
        Rule(
            "short", "1", 5, "an attempt that was broken off, or a cut in the wrong place",
            "how many times shorter than the median episode", "{where}",
        ),
        Rule(
            "duplicate", "bool", None, "it counts double; across training and test, it is no test",
            "its states and actions are another episode's, bit for bit", "the same as {where}",
        ),
        Rule(
            "near_duplicate", "share of ranges", NEAR, "people do not repeat themselves: Push-T's most alike are 0.06 apart",
            "distance to the nearest other episode, root mean square over 32 rows and all elements",
            "{value:.2%} of the ranges from {where}", below=True,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Flag:
    """One rule's number for one episode."""

    rule: Rule
    value: float | bool
    where: str  # the camera, element or episode that it is about; "" for the whole episode
    raised: bool
    says: str  # one clause


@dataclass(frozen=True)
class EpisodeFlags:
    """All that was measured of one episode."""

    index: int
    flags: tuple[Flag, ...]  # of every rule, in the rules' order
    statistics: EpisodeStatistics
    lags: Mapping[str, Profile]  # camera -> its motion against the state's
    stamps: Mapping[str, float]  # camera -> median of image_time minus time [s], where stamps are known

    @property
    def raised(self) -> list[Flag]:
        return [flag for flag in self.flags if flag.raised]

    @property
    def values(self) -> dict[str, float | bool]:
        return {flag.rule.name: flag.value for flag in self.flags}


def episode_flags(index: int, episode: Episode, spec: RobotSpec, scale: np.ndarray) -> Mapping[str, float | bool]:
    """Name -> number, of one episode by itself. scale (S,): `statistics.state_scale` of its store. Thresholds: `RULES`.

    frozen_camera [rows]                  longest run of equal frames while the state moved, the worst camera
    dropped_rows [rows]                   missing by the clock: steps longer than 1.5 times the usual one
    black_camera [share of frames]        frames that show nothing: black, or of one colour, the worst camera
    duplicated_frames [share of steps]    moving steps whose frame equals the one before bit for bit, the worst camera
    desync [s]                            how far a camera is off its rows: by image_time where known, else by the lag of its motion
                                          behind the state's where that is significant, else 0; the worst camera, without its sign
    idle [share of steps]                 no state moved by more than 0.1 % of its range
    idle_start, idle_end [s]              the same, before the first and after the last movement
    jerk [1]                              third over first difference of the state, root mean squares, median over the moving elements:
                                          near 0 smooth, 1 reverses every three rows, 2.4 a random walk, 3.2 white noise
    saturated [share of rows]             an action element at the spec's limits, the worst element; switches do not count
    outside [share of rows]               a state or executed action beyond the spec's limits
    jumps [steps]                         steps in which a state moved far faster than usual and than before and after
    rate_error [1]                        measured rate over the spec's rate, minus 1, without its sign
    overruled [share of rows]             executed another action than requested
    unlabeled [bool]                      nobody knows whether it succeeded
    unended [bool]                        it succeeded, yet no row is terminal
    interrupted [bool]                    the recorder was killed, the episode recovered
    """
    return examine(index, episode, spec, scale).values


def examine(index: int, episode: Episode, spec: RobotSpec, scale: np.ndarray) -> EpisodeFlags:
    """Look at every row once. scale: as for `episode_flags`."""
    footage = {name: watch(frames) for name, frames in episode.images.items()}
    found = episode_statistics(index, episode, spec, scale, footage)
    steps = motion.steps_of(motion.state_vector(episode, spec), scale)
    reach = max(round(LAG_S * spec.rate_hz), 2)
    lags = {name: profile(film.change, np.linalg.norm(steps, axis=1), reach) for name, film in footage.items()}
    stamps = {name: float(np.median(taken - episode.time)) for name, taken in episode.image_time.items()}
    numbers = _cameras(footage, steps, spec) | _clock(found, episode, spec) | _motion(episode, spec, scale, steps)
    off = {name: abs(lag.best) / spec.rate_hz if lag.significant else 0.0 for name, lag in lags.items()}
    numbers["desync"] = _worst(off | {name: abs(seconds) for name, seconds in stamps.items()})
    numbers["idle"], numbers["overruled"] = (found.idle, ""), (found.overruled, "")
    numbers["unlabeled"] = (found.success is None, "")
    numbers["unended"] = (bool(found.success) and not episode.terminal.any(), "")
    numbers["interrupted"] = (bool(episode.meta.get("interrupted", False)), "")
    return EpisodeFlags(index, tuple(rule.of(*numbers[name], spec) for name, rule in RULES.items()), found, lags, stamps)


def flags(store: EpisodeStore, scale: np.ndarray | None = None) -> Iterator[EpisodeFlags]:
    """Of every episode, one at a time; no more than one is held."""
    scale = state_scale(store) if scale is None else scale
    for index in range(len(store)):
        yield examine(index, store.read(index), store.spec, scale)


def compare(found: Sequence[EpisodeFlags], twins: Sequence[Twin | None], spec: RobotSpec) -> list[EpisodeFlags]:
    """The same with the flags of `AMONG`. twins: see `duplicates.twins`."""
    usual = float(np.median([e.statistics.rows for e in found]))
    compared = []
    for e, twin in zip(found, twins, strict=True):
        more = [AMONG["short"].of(usual / e.statistics.rows, f"only {e.statistics.rows} rows, the median is {usual:g}", spec)]
        if twin is not None:
            where = f"episode {twin.index}{f' of {twin.store}' if twin.store else ''}"
            more.append(AMONG["duplicate"].of(twin.exact, where, spec))
            if not twin.exact:
                more.append(AMONG["near_duplicate"].of(twin.distance, where, spec))
        compared.append(replace(e, flags=(*e.flags, *more)))
    return compared


Numbers = dict[str, tuple[float | bool, str]]  # rule -> its number, and the camera or element that is worst


def _cameras(footage: Mapping[str, Footage], steps: np.ndarray, spec: RobotSpec) -> Numbers:
    # Where no state is recorded, nobody knows whether anything moved: every frame should differ.
    moving = ~motion.still(steps) if spec.state_dim else np.ones(len(steps), bool)
    runs = {name: float(longest_run(film.same & moving) + 1) for name, film in footage.items()}
    repeated = {name: float(film.same[moving].mean()) if moving.any() else 0.0 for name, film in footage.items()}
    blank = {name: float(film.blank.mean()) for name, film in footage.items()}
    return {"frozen_camera": _worst(runs), "duplicated_frames": _worst(repeated), "black_camera": _worst(blank)}


def _clock(found: EpisodeStatistics, episode: Episode, spec: RobotSpec) -> Numbers:
    gaps = np.diff(episode.time)
    usual = float(np.median(gaps)) if len(gaps) else 1 / spec.rate_hz
    late = gaps[gaps > LATE * usual] / usual
    step = f"a step of {found.longest_step_ms:.0f} ms instead of {1e3 * usual:.0f} ms"
    rate = f"{found.rate_hz:.2f} Hz instead of {spec.rate_hz:g} Hz"
    return {"dropped_rows": (float((np.rint(late) - 1).clip(1).sum()), step), "rate_error": (abs(found.rate_hz / spec.rate_hz - 1), rate)}


def _motion(episode: Episode, spec: RobotSpec, scale: np.ndarray, steps: np.ndarray) -> Numbers:
    state, names = motion.state_vector(episode, spec), motion.state_names(spec)
    gone = np.flatnonzero(~motion.still(steps))  # steps in which something moved
    first, last = (int(gone[0]), int(gone[-1]) + 1) if len(gone) else (len(episode) - 1, len(episode) - 1)
    rough = motion.roughness(state, scale)
    leaps = motion.jumps(state, scale, episode.time)
    full = dict(zip(spec.action.names, motion.saturated(episode.action, spec.action).tolist(), strict=True))
    beyond = {key: motion.outside(episode.state[key], part) for key, part in spec.state.items()}
    beyond = np.concatenate([*beyond.values(), motion.outside(episode.action, spec.action)], axis=1)
    worst = [*names, *(f"action {name}" for name in spec.action.names)][int(beyond.sum(axis=0).argmax())]
    return {
        "idle_start": (float(episode.time[first] - episode.time[0]), ""),
        "idle_end": (float(episode.time[-1] - episode.time[last]), ""),
        "jerk": (float(np.nanmedian(rough)) if np.isfinite(rough).any() else 0.0, ""),
        "jumps": (float(leaps.any(axis=1).sum()), names[int(leaps.sum(axis=0).argmax())] if names else ""),
        "saturated": _worst(full),
        "outside": (float(beyond.any(axis=1).mean()), worst),
    }


def _worst(found: Mapping[str, float]) -> tuple[float, str]:
    """The highest number and whose it is; 0 where there is none (no camera)."""
    return max(((value, name) for name, value in found.items() if math.isfinite(value)), default=(0.0, ""), key=lambda pair: pair[0])
