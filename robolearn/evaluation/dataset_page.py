"""The page of `robolearn inspect`: what is in a store, what looks wrong, what it is worth. Everything it shows is inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from robolearn.data.checks.flags import AMONG, RULES, EpisodeFlags, Rule
from robolearn.data.checks.quality import Measure
from robolearn.data.checks.synchrony import pooled
from robolearn.data.store import EpisodeStore
from robolearn.evaluation.album import Album, flat, sheets
from robolearn.evaluation.dataset_facts import (
    FLAG_HEAD,
    QUALITY_HEAD,
    RANGE_HEAD,
    flag_rows,
    quality_rows,
    range_rows,
    to_look_at,
    usual,
    vectors,
)
from robolearn.evaluation.multiples import histograms
from robolearn.evaluation.page import card, facts, folded, page, section, table, text
from robolearn.evaluation.plots import Level, Line, chart

LISTED = 200  # flagged episodes


def render(
    store: EpisodeStore, summary: Mapping[str, str], found: Sequence[EpisodeFlags], measures: Sequence[Measure], album: Album
) -> str:
    """The whole page."""
    left_out = f"Not shown, or the page would be too large: {', '.join(map(str, album.omitted))}." if album.omitted else ""
    parts = [
        f"<h1>{escape(store.path.name)}</h1>",
        card(facts(summary)),
        section("To look at", _odd(found, album)),
        section(
            "Flags",
            card(_flags(found, store)),
            *_spreads(found, store),
            _unfolded("Every rule, also those no episode breaks", _flags(found, store, True)),
        ),
        section("First frames", sheets(album.starts, "first frames")),
        section("Last frames", sheets(album.ends, "last frames")),
        section("Episodes", *_episodes(found)),
        section("Time", card(_steps(store)), card(_rates(found, store)), card(_stamps(found, store))),
        section("Cameras against the state", card(_lags(found, store))),
        section("Quality", card(table(QUALITY_HEAD, quality_rows(measures))), card(_quality(measures))),
        section("Values", *_values(store)),
        *album.episodes.values(),
        text(left_out, soft=True) if left_out else "",
        section("Spec", folded("as stored", "\n".join(f"{k}: {v}" for k, v in flat(store.spec.to_dict()).items()))),
    ]
    return page(f"{store.path.name}: {len(store)} episodes", parts)


def _odd(found: Sequence[EpisodeFlags], album: Album) -> str:
    """Flagged episodes: with a strip of pictures as far as there are some, the others as a table."""
    rows = to_look_at(found)
    habits = sorted(usual(found))
    words = (
        text(f"Most episodes are flagged {', '.join(habits)}: that is the dataset's habit, and not listed here.", soft=True)
        if habits
        else ""
    )
    strips = "".join(
        f'<figure class="odd">{album.strips[index]}<figcaption><b>Episode {index}</b>: {escape(why)}</figcaption></figure>'
        for index, why in rows
        if index in album.strips
    )
    others = [(index, why) for index, why in rows if index not in album.strips]
    rest = text(f"and {len(others) - LISTED} more.", soft=True) if len(others) > LISTED else ""
    return words + card(strips) + card(table(("episode", "why"), others[:LISTED])) + rest


def _flags(found: Sequence[EpisodeFlags], store: EpisodeStore, every: bool = False) -> str:
    """The rules, each with the reason for its threshold in small letters."""
    rows = flag_rows(found, store.spec, every)
    return table(FLAG_HEAD[:5], [(*row[:4], f"{row[4]}\n{row[5]}") for row in rows])


def _unfolded(title: str, body: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{card(body)}</details>"


def _spreads(found: Sequence[EpisodeFlags], store: EpisodeStore) -> list[str]:
    """How the numbers of broken rules are spread over the episodes: one outlier, or a slope? Where any is too many, the table tells."""
    shown = []
    for rule in (RULES | AMONG).values():
        pairs = [(e.index, float(flag.value)) for e in found for flag in e.flags if flag.rule.name == rule.name]
        broken = sum(rule.raised(value, store.spec) for _, value in pairs)
        if broken > 0 and len(found) > 3 and rule.threshold is not None:
            shown.append(card(_spread(rule, pairs, store)))
    return shown


def _spread(rule: Rule, pairs: Sequence[tuple[int, float]], store: EpisodeStore) -> str:
    limit = rule.limit(store.spec) or 0.0
    x, y = zip(*pairs, strict=True)
    high = max(*y, limit) * 1.08 or 1.0
    return chart([Line(rule.name, x, y, "dots")], "episode", rule.unit, (0.0, high), [Level("threshold", limit, limit, limit)], height=150)


def _episodes(found: Sequence[EpisodeFlags]) -> list[str]:
    episodes = [e.statistics for e in found]
    index = [e.index for e in episodes]
    charts = [card(chart([Line("length", index, [e.seconds for e in episodes], "dots")], "episode", "s", height=180))]
    rewards = [e.reward for e in episodes]
    if any(rewards):
        charts.append(card(chart([Line("sum of rewards", index, rewards, "dots", 3)], "episode", "reward", height=180)))
    return charts


def _steps(store: EpisodeStore) -> str:
    """How long the steps are [ms]: a histogram."""
    time = store.lowdim("time")
    inside = np.ones(store.rows, bool)
    inside[store.starts] = False
    steps = 1e3 * np.diff(time, prepend=time[0])[inside]
    if not len(steps):
        return ""
    counts, edges = np.histogram(steps, bins=np.linspace(0, max(2e3 / store.spec.rate_hz, steps.max() * 1.01), 61))
    x, y = np.repeat(edges, 2)[1:-1], np.repeat(counts, 2)  # a staircase
    return chart([Line("", x, y)], "ms between rows", "rows", y_range=(0.0, float(counts.max()) * 1.05), height=180)


def _rates(found: Sequence[EpisodeFlags], store: EpisodeStore) -> str:
    """Rate and jitter of each episode."""
    index = [e.index for e in found]
    period = 1e3 / store.spec.rate_hz
    usual_ms = Line("usual step", index, [1e3 / e.statistics.rate_hz for e in found], "dots")
    longest = Line("longest step", index, [e.statistics.longest_step_ms for e in found], "dots", 2)
    jitter = Line("jitter", index, [e.statistics.jitter_ms for e in found], "dots", 3)
    return chart([usual_ms, longest, jitter], "episode", "ms", levels=[Level("the spec's period", period, period, period, 4)], height=200)


def _stamps(found: Sequence[EpisodeFlags], store: EpisodeStore) -> str:
    """By the cameras' own stamps: how old the frames are [ms], where that is known."""
    lines = []
    for number, camera in enumerate(store.spec.cameras):
        known = [(e.index, 1e3 * e.stamps[camera]) for e in found if camera in e.stamps]
        if known:
            x, y = zip(*known, strict=True)
            lines.append(Line(camera, x, y, "dots", number % 6 + 1))
    return chart(lines, "episode", "ms from row to frame (median)", height=180) if lines else ""


def _lags(found: Sequence[EpisodeFlags], store: EpisodeStore) -> str:
    """Correlation of the picture's change with the state's speed, over the lag, all episodes together."""
    lines, words = [], []
    for number, camera in enumerate(store.spec.cameras):
        lag = pooled([e.lags[camera] for e in found])
        if lag.samples <= 3:
            continue
        at = (np.arange(len(lag.correlation)) - len(lag.correlation) // 2) / store.spec.rate_hz
        lines.append(Line(camera, at, lag.correlation, "strong", number % 6 + 1))
        if lag.significant:
            words.append(f"{camera}: {abs(lag.best) / store.spec.rate_hz:.3f} s {'behind' if lag.best > 0 else 'ahead of'} the state")
        else:
            words.append(f"{camera}: {'in step with the state' if lag.related else 'too little in common with the state to tell'}")
    if not lines:
        return ""
    return chart(lines, "s that the picture comes late", "correlation", height=200) + text("; ".join(words) + ".", soft=True)


def _quality(measures: Sequence[Measure]) -> str:
    shares = [m for m in measures if m.episodes is not None and m.name in ("action divergence", "transition diversity", "TQ")]
    lines = [Line(m.name, np.arange(len(m.episodes)), m.episodes, "dots", i + 1) for i, m in enumerate(shares) if m.episodes is not None]
    return chart(lines, "episode", "1", height=200) if lines else ""


def _values(store: EpisodeStore) -> list[str]:
    parts = []
    for name, values, spec in vectors(store):
        drawn = "" if name == "requested action" else card(histograms(spec, values))
        numbers = f'<div class="numbers">{table(RANGE_HEAD, range_rows(values, spec))}</div>'
        parts.append(f"<h3>{escape(name)}</h3>{card(numbers)}{drawn}")
    return parts
