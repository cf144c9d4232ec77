"""Look at a store before trusting it: a table on the terminal and one self-contained HTML page."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from hardware.types import ArraySpec, Source
from robolearn.core.errors import UserError
from robolearn.core.files import write_atomic
from robolearn.data.episode import Episode
from robolearn.data.statistics import EpisodeStatistics, column_statistics, episode_statistics, state_scale
from robolearn.data.store import EpisodeStore
from robolearn.evaluation.page import card, facts, folded, page, section, table, text
from robolearn.evaluation.plots import Line, chart, number

SHEET_FRAMES = 8  # of each episode on the contact sheet
LATE = 1.5  # a step longer than this many periods is called late
FROZEN = 5  # rows of equal frames from which a camera is called frozen


@dataclass(frozen=True)
class Config:
    """Check a store and show what it holds."""

    path: Path
    """The store."""
    out: Path | None = None
    """The HTML page; None: beside the store, under its name."""
    shown: int = 4
    """Episodes whose pictures and plots the page shows."""
    seed: int = 0
    """Draws the episodes that are shown."""


def run(config: Config) -> None:
    """Read every row once. The store is not changed."""
    store = EpisodeStore.open(config.path)
    if not len(store):
        raise UserError(f"{config.path}: holds no episode yet")
    out = config.out or config.path.with_name(config.path.name.removesuffix(".zarr") + ".html")
    console, scale = Console(), state_scale(store)
    episodes: list[EpisodeStatistics] = []
    for index in track(range(len(store)), f"reading {config.path.name}", console=Console(stderr=True), transient=True):
        episodes.append(episode_statistics(index, store.read(index), store.spec, scale))
    summary, flags = summarise(store, episodes), flagged(store, episodes)
    console.print(_rich(f"{config.path}", ("", ""), list(summary.items())))
    for name, values, spec in _vectors(store):
        console.print(_rich(name, [RANGE_HEAD[i] for i in SHORT], [[row[i] for i in SHORT] for row in range_rows(values, spec)]))
    if flags:
        console.print(_rich("episodes to look at", ("episode", "why"), flags))
    order = np.random.default_rng(config.seed).permutation(len(store))[: config.shown]
    write_atomic(out, render(store, summary, flags, episodes, np.sort(order)).encode())
    console.print(f"page: {out}", soft_wrap=True)


def summarise(store: EpisodeStore, episodes: Sequence[EpisodeStatistics]) -> dict[str, str]:
    """The facts of the whole store, ready to print."""
    spec, rows = store.spec, np.array([e.rows for e in episodes])
    outcomes = Counter(e.success for e in episodes)
    sources: Counter[int] = sum((Counter(e.sources) for e in episodes), Counter())
    frame_bytes = sum(height * width * 3 for height, width in spec.cameras.values())
    raw = store.rows * (frame_bytes + 4 * (spec.state_dim + 2 * spec.action.dim) + 14)
    disk = sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file())
    late = sum(e.longest_step_ms > 1e3 * LATE / spec.rate_hz for e in episodes)
    facts = {
        "robot": f"{spec.name}, {spec.action_mode}, {spec.rate_hz:g} Hz",
        "cameras": ", ".join(f"{name} {height}x{width} px" for name, (height, width) in spec.cameras.items()) or "none",
        "episodes": f"{len(episodes)}, {rows.min()} to {rows.max()} rows, median {np.median(rows):g}",
        "rows": f"{store.rows}, {sum(e.seconds for e in episodes) / 60:.1f} min",
        "success": f"{outcomes[True]} yes, {outcomes[False]} no, {outcomes[None]} unknown",
        "who acted": ", ".join(f"{_source(kind)} {count / store.rows:.1%}" for kind, count in sources.most_common()),
        "on disk": f"{disk / 1e6:.1f} MB, {raw / disk:.1f} times less than raw",
        "rate": f"{np.median([e.rate_hz for e in episodes]):.2f} Hz measured, jitter {np.median([e.jitter_ms for e in episodes]):.2f} ms, "
        f"longest step {max(e.longest_step_ms for e in episodes):.1f} ms, {late} episodes with a late row",
        "idle": f"{_share(episodes, 'idle'):.1%} of steps (no state moved by more than 0.1 % of its range)",
        "overruled": f"{_share(episodes, 'overruled'):.1%} of rows (executed another action than requested)",
    }
    for camera in spec.cameras:
        share = sum(e.duplicated[camera] * e.rows for e in episodes) / store.rows
        facts[f"repeated frames, {camera}"] = f"{share:.1%}, longest run {max(e.frozen[camera] for e in episodes)}"
    if store.provenance:
        facts["provenance"] = "; ".join(f"{key}: {value}" for key, value in _flat(store.provenance).items())
    return facts


RANGE_HEAD = ("element", "unit", "limits", "min", "1 %", "median", "99 %", "max", "mean", "std", "at limit")
SHORT = (0, 1, 2, 3, 5, 7, 9, 10)  # what of it fits a terminal


def range_rows(values: np.ndarray, spec: ArraySpec) -> list[tuple[str, ...]]:
    """One row of RANGE_HEAD for each element."""
    rows = []
    for c in column_statistics(values, spec):
        measured = (c.minimum, c.q01, c.median, c.q99, c.maximum, c.mean, c.std)
        rows.append((c.name, c.unit or "1", f"{number(c.low)} to {number(c.high)}", *map(number, measured), f"{c.saturated:.1%}"))
    return rows


def flagged(store: EpisodeStore, episodes: Sequence[EpisodeStatistics]) -> list[tuple[str, str]]:
    """(episode, what is odd about it)."""
    found, period_ms = [], 1e3 / store.spec.rate_hz
    usual = float(np.median([e.rows for e in episodes]))
    for e in episodes:
        why = [f"{name} shows one picture for {run} rows" for name, run in e.frozen.items() if run >= FROZEN and e.idle < 0.5]
        if e.longest_step_ms > LATE * period_ms:
            why.append(f"a step of {e.longest_step_ms:.0f} ms instead of {period_ms:.0f} ms")
        if e.idle > 0.5:
            why.append(f"idle for {e.idle:.0%} of its steps")
        if e.rows < usual / 5:
            why.append(f"only {e.rows} rows, the median is {usual:g}")
        if why:
            found.append((str(e.index), "; ".join(why)))
    return found


def render(
    store: EpisodeStore,
    summary: Mapping[str, str],
    flags: Sequence[tuple[str, str]],
    episodes: Sequence[EpisodeStatistics],
    shown: np.ndarray,
) -> str:
    """The page."""
    index = np.arange(len(episodes))
    lengths = [Line("length", index, [e.seconds for e in episodes], "dots")]
    gains = [Line("sum of rewards", index, [e.reward for e in episodes], "dots", 3)]
    parts = [
        f"<h1>{escape(store.path.name)}</h1>",
        card(facts(summary)),
        *[section(name, card(table(RANGE_HEAD, range_rows(values, spec)))) for name, values, spec in _vectors(store)],
        section("Episodes", card(chart(lengths, "episode", "s")), card(chart(gains, "episode", "reward"))),
        section("To look at", card(table(("episode", "why"), flags))) if flags else "",
        section("Time between rows", card(_steps_chart(store))),
        *[_episode_section(store, int(i), store.read(int(i))) for i in shown],
        section("Spec", folded("as stored", "\n".join(f"{k}: {v}" for k, v in _flat(store.spec.to_dict()).items()))),
    ]
    return page(f"{store.path.name}: {len(store)} episodes", parts)


def _episode_section(store: EpisodeStore, index: int, episode: Episode) -> str:
    spec, time = store.spec, episode.time - episode.time[0]
    parts = [text("; ".join(f"{k}: {v}" for k, v in _flat(dict(episode.meta)).items()), soft=True)]
    rows = np.linspace(0, len(episode) - 1, min(SHEET_FRAMES, len(episode))).round().astype(int)
    for name, frames in episode.images.items():
        parts.append(f"<h3>{escape(name)}</h3>{_picture(np.concatenate(list(frames[rows]), axis=1), f'{name} at rows {rows.tolist()}')}")
    asked = [Line("", time, episode.requested_action[:, i], "thin", i % 6 + 1) for i in range(spec.action.dim)]
    done = [Line(name, time, episode.action[:, i], "strong", i % 6 + 1) for i, name in enumerate(spec.action.names)]
    parts.append(card(chart([*done, *asked], "s", f"action, executed (thin: requested) [{_units(spec.action)}]")))
    for name, part in spec.state.items():
        lines = [Line(label, time, episode.state[name][:, i], "strong", i % 6 + 1) for i, label in enumerate(part.names)]
        parts.append(card(chart(lines, "s", f"{name} [{_units(part)}]")))
    parts.append(card(chart([Line("", time, episode.reward)], "s", "reward", height=160)))
    return section(f"Episode {index}", *parts)


def _steps_chart(store: EpisodeStore) -> str:
    time = store.lowdim("time")
    inside = np.ones(store.rows, bool)
    inside[store.starts] = False
    steps = 1e3 * np.diff(time, prepend=time[0])[inside]
    if not len(steps):
        return ""
    counts, edges = np.histogram(steps, bins=np.linspace(0, max(2e3 / store.spec.rate_hz, steps.max() * 1.01), 61))
    x, y = np.repeat(edges, 2)[1:-1], np.repeat(counts, 2)  # a staircase
    return chart([Line("", x, y)], "ms between rows", "rows", y_range=(0.0, float(counts.max()) * 1.05), height=180)


def _picture(image: np.ndarray, alt: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(alt)}" style="width:100%;border-radius:8px;image-rendering:auto" src="data:image/png;base64,{data}">'


def _vectors(store: EpisodeStore) -> list[tuple[str, np.ndarray, ArraySpec]]:
    states = [(f"state {name}", store.lowdim(f"state/{name}"), part) for name, part in store.spec.state.items()]
    actions = [(name.replace("_", " "), store.lowdim(name), store.spec.action) for name in ("action", "requested_action")]
    return [*states, *actions]


def _rich(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    shown = Table(*head, title=title, title_justify="left", show_header=any(head))
    for row in rows:
        shown.add_row(*map(Text, row))  # names are names, not markup
    return shown


def _share(episodes: Sequence[EpisodeStatistics], name: str) -> float:
    return sum(getattr(e, name) * e.rows for e in episodes) / sum(e.rows for e in episodes)


def _source(kind: int) -> str:
    return Source(kind).name.lower() if kind in Source._value2member_map_ else f"unknown ({kind})"


def _units(spec: ArraySpec) -> str:
    return ", ".join(dict.fromkeys(unit or "1" for unit in spec.units))


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
