"""What there is to say about a store, as rows of words: for the terminal and for the page alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from hardware.types import ArraySpec, RobotSpec, Source
from robolearn.data.checks.flags import AMONG, LATE, RULES, EpisodeFlags
from robolearn.data.checks.quality import Measure
from robolearn.data.checks.statistics import EpisodeStatistics, column_statistics
from robolearn.data.checks.synchrony import pooled
from robolearn.data.journal import JOURNAL, Journal
from robolearn.data.store import EpisodeStore
from robolearn.data.writing import RECORDING, UNFINISHED
from robolearn.evaluation.album import flat
from robolearn.evaluation.plots import number

RANGE_HEAD = ("element", "unit", "limits", "min", "1 %", "median", "99 %", "max", "mean", "std", "at limit")
FLAG_HEAD = ("flag", "episodes", "worst", "flagged", "what it is", "why this threshold")
QUALITY_HEAD = ("measure", "value", "meaning", "after")


def summarise(store: EpisodeStore, found: Sequence[EpisodeFlags]) -> dict[str, str]:
    """The facts of the whole store."""
    spec, episodes = store.spec, [e.statistics for e in found]
    rows = np.array([e.rows for e in episodes])
    outcomes = Counter(e.success for e in episodes)
    sources: Counter[int] = sum((Counter(e.sources) for e in episodes), Counter())
    late = sum(e.longest_step_ms > 1e3 * LATE / spec.rate_hz for e in episodes)
    missing = sum(e.values["dropped_rows"] for e in found)
    facts = {
        "robot": f"{spec.name}, {spec.action_mode}, {spec.rate_hz:g} Hz",
        "cameras": ", ".join(f"{name} {height}x{width} px" for name, (height, width) in spec.cameras.items()) or "none",
        "episodes": f"{len(episodes)}, {rows.min()} to {rows.max()} rows, median {np.median(rows):g}",
        "rows": f"{store.rows}, {sum(e.seconds for e in episodes) / 60:.1f} min",
        "success": f"{outcomes[True]} yes, {outcomes[False]} no, {outcomes[None]} unknown",
        "who acted": ", ".join(f"{_source(kind)} {count / store.rows:.1%}" for kind, count in sources.most_common()),
        "on disk": _on_disk(store),
        "rate": f"{np.median([e.rate_hz for e in episodes]):.2f} Hz measured, jitter {np.median([e.jitter_ms for e in episodes]):.2f} ms, "
        f"longest step {max(e.longest_step_ms for e in episodes):.1f} ms, {late} episodes with a late row, {missing:.0f} rows missing",
        "idle": f"{_share(episodes, 'idle'):.1%} of steps (no state moved by more than 0.1 % of its range)",
        "overruled": f"{_share(episodes, 'overruled'):.1%} of rows (executed another action than requested)",
    }
    for camera in spec.cameras:
        share = sum(e.duplicated[camera] * e.rows for e in episodes) / store.rows
        facts[f"repeated frames, {camera}"] = f"{share:.1%}, longest run {max(e.frozen[camera] for e in episodes)}"
        lag = pooled([e.lags[camera] for e in found])
        if lag.significant:
            facts[f"lag, {camera}"] = f"{lag.best / spec.rate_hz:.3f} s behind the state, by the motion of all episodes together"
    if left := unfinished(store):
        facts["unfinished"] = "; ".join(left)
    if store.provenance:
        facts["provenance"] = "; ".join(f"{key}: {value}" for key, value in flat(store.provenance).items())
    return facts


def unfinished(store: EpisodeStore) -> list[str]:
    """What was begun and never ended. A store behind a URL cannot be searched."""
    path, found = store.path, []
    if not path.is_dir():
        return found
    if (path / RECORDING).exists():
        found.append("an episode is being recorded, or its recorder was killed")
    if count := sum(1 for _ in (path / UNFINISHED).glob("*")):
        found.append(f"{count} recordings without an end in {UNFINISHED}/ (EpisodeStore.recover)")
    content = (path / JOURNAL).read_bytes()
    if torn := len(content) - Journal.parse(content).size:
        found.append(f"the last {torn} bytes of {JOURNAL} are no episode: a writer was killed")
    if (partial := path.with_name(f".{path.name}.partial")).exists():
        found.append(f"an import was interrupted: {partial.name}")
    return found


def vectors(store: EpisodeStore) -> list[tuple[str, np.ndarray, ArraySpec]]:
    """(title, values (rows, D), spec) of every state and of both actions; of one where the two never differ."""
    states = [(f"state {name}", store.lowdim(f"state/{name}"), part) for name, part in store.spec.state.items()]
    done, asked = store.lowdim("action"), store.lowdim("requested_action")
    if np.array_equal(done, asked):
        return [*states, ("action, requested and executed", done, store.spec.action)]
    return [*states, ("action", done, store.spec.action), ("requested action", asked, store.spec.action)]


def range_rows(values: np.ndarray, spec: ArraySpec) -> list[tuple[str, ...]]:
    """One row of RANGE_HEAD for each element."""
    rows = []
    for c in column_statistics(values, spec):
        measured = (c.minimum, c.q01, c.median, c.q99, c.maximum, c.mean, c.std)
        rows.append((c.name, c.unit or "1", f"{number(c.low)} to {number(c.high)}", *map(number, measured), f"{c.saturated:.1%}"))
    return rows


def usual(found: Sequence[EpisodeFlags]) -> set[str]:
    """Rules that more than half of the episodes break: a habit of the dataset, said once and not of every episode.

    Never those that are about other episodes: a copy is to be found whatever the others are.
    """
    counts = Counter(flag.rule.name for e in found for flag in e.raised if flag.rule.name in RULES)
    return {name for name, count in counts.items() if len(found) > 3 and count > len(found) / 2}


def to_look_at(found: Sequence[EpisodeFlags]) -> list[tuple[int, str]]:
    """(episode, what is odd about it), habits left out."""
    habits = usual(found)
    odd = [(e.index, "; ".join(f.says for f in e.raised if f.rule.name not in habits)) for e in found]
    return [(index, why) for index, why in odd if why]


def flag_rows(found: Sequence[EpisodeFlags], spec: RobotSpec, every: bool = False) -> list[tuple[str, ...]]:
    """One row of FLAG_HEAD for each rule that some episode breaks; every: for all rules."""
    rows = []
    for rule in (RULES | AMONG).values():
        numbers = [flag.value for e in found for flag in e.flags if flag.rule.name == rule.name]
        count = sum(rule.raised(value, spec) for value in numbers)
        if numbers and (count or every):
            limit = rule.limit(spec)
            worst = "" if limit is None else number(round(float(min(numbers) if rule.below else max(numbers)), 6))
            unit = "" if rule.unit == "1" else f" {rule.unit}"
            flagged = "where true" if limit is None else f"{'below' if rule.below else 'above'} {number(limit)}{unit}"
            rows.append((rule.name, f"{count} of {len(numbers)}", worst, flagged, rule.meaning, rule.reason))
    return rows


def quality_rows(measures: Sequence[Measure]) -> list[tuple[str, ...]]:
    """One row of QUALITY_HEAD for each measure."""
    return [(m.name, "–" if m.value is None else number(m.value), m.meaning, m.source) for m in measures]


def _on_disk(store: EpisodeStore) -> str:
    spec = store.spec
    frame_bytes = sum(height * width * 3 for height, width in spec.cameras.values())
    raw = store.rows * (frame_bytes + 4 * (spec.state_dim + 2 * spec.action.dim) + 14)
    disk = sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file())
    return f"{disk / 1e6:.1f} MB, {raw / disk:.1f} times less than raw" if disk else "elsewhere"


def _share(episodes: Sequence[EpisodeStatistics], name: str) -> float:
    return sum(getattr(e, name) * e.rows for e in episodes) / sum(e.rows for e in episodes)


def _source(kind: int) -> str:
    return Source(kind).name.lower() if kind in Source._value2member_map_ else f"unknown ({kind})"
