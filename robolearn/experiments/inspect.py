"""Look at a store before trusting it: a table on the terminal, one self-contained HTML page, and a Rerun recording if asked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from robolearn.core.errors import UserError
from robolearn.core.files import write_atomic
from robolearn.data.checks.duplicates import twins
from robolearn.data.checks.flags import EpisodeFlags, compare, examine
from robolearn.data.checks.quality import quality
from robolearn.data.checks.statistics import state_scale
from robolearn.data.store import EpisodeStore
from robolearn.evaluation.album import Album
from robolearn.evaluation.dataset_facts import (
    FLAG_HEAD,
    QUALITY_HEAD,
    RANGE_HEAD,
    flag_rows,
    quality_rows,
    range_rows,
    summarise,
    to_look_at,
    vectors,
)
from robolearn.evaluation.dataset_page import render
from robolearn.experiments.rerun_log import RerunLog

SHORT = (0, 1, 2, 3, 5, 7, 9, 10)  # of RANGE_HEAD, what fits a terminal
LISTED = 20  # flagged episodes on the terminal; the page lists more


@dataclass(frozen=True)
class Config:
    """Check a store and show what it holds."""

    path: Path
    """The store; a path, or a URL (s3://, gs://, https://)."""
    out: Path | None = None
    """The HTML page; None: beside the store, under its name."""
    shown: int = 4
    """Episodes whose films and plots the page shows, and that --rerun logs."""
    against: Path | None = None
    """Another store, e.g. the test set: episodes that are in both are flagged."""
    reference: Path | None = None
    """A store of the same robot that coverage and returns are compared with; None: only with itself."""
    rerun: Path | None = None
    """Write the shown episodes as a Rerun recording too, e.g. out.rrd."""
    seed: int = 0
    """Draws the episodes that are shown, and the rows of a large store that quality is measured on."""


def run(config: Config) -> None:
    """Read every frame once, one episode at a time. The store is not changed."""
    store = _open(config.path)
    against, reference = (None if path is None else _open(path) for path in (config.against, config.reference))
    if config.shown < 0:
        raise UserError(f"shown: {config.shown} episodes; expected 0 or more")
    if config.out is None and "://" in store.url:
        raise UserError(f"out: {store.url} is no place for the page; name one with --out")
    out = config.out or config.path.with_name(config.path.name.removesuffix(".zarr") + ".html")
    console, scale = Console(), state_scale(store)
    nearest, measures = twins(store, against), quality(store, reference, config.seed)
    shown = np.random.default_rng(config.seed).permutation(len(store))[: config.shown].tolist()
    album, found = Album(store.spec, len(store), shown), list[EpisodeFlags]()
    with nullcontext() if config.rerun is None else RerunLog(config.rerun, store.spec, store.path.name) as log:
        for index in track(range(len(store)), f"reading {config.path.name}", console=Console(stderr=True), transient=True):
            episode = store.read(index)
            found.append(examine(index, episode, store.spec, scale))
            album.add(found[-1], episode)
            if log is not None and index in album.shown:
                log.add(index, episode)
    found = compare(found, nearest, store.spec)
    summary = summarise(store, found)
    console.print(_rich(f"{config.path}", ("", ""), list(summary.items())))
    for name, values, spec in vectors(store):
        console.print(_rich(name, [RANGE_HEAD[i] for i in SHORT], [[row[i] for i in SHORT] for row in range_rows(values, spec)]))
    if rows := flag_rows(found, store.spec):
        console.print(_rich("flags", FLAG_HEAD[:5], [row[:5] for row in rows]))
    if odd := to_look_at(found):
        console.print(_rich("episodes to look at", ("episode", "why"), [(str(index), why) for index, why in odd[:LISTED]]))
    if len(odd) > LISTED:
        console.print(f"and {len(odd) - LISTED} more")
    console.print(_rich("quality", QUALITY_HEAD[:3], [row[:3] for row in quality_rows(measures)]))
    write_atomic(out, render(store, summary, found, measures, album).encode())
    console.print(f"page: {out}", soft_wrap=True)
    if config.rerun is not None:
        console.print(f"rerun: {config.rerun}", soft_wrap=True)


def _open(path: Path) -> EpisodeStore:
    store = EpisodeStore.open(path)
    if not len(store):
        raise UserError(f"{path}: holds no episode yet")
    return store


def _rich(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    shown = Table(title=title, title_justify="left", show_header=any(head))
    for i, name in enumerate(head):
        shown.add_column(name, no_wrap=i == 0)  # names are what people copy
    for row in rows:
        shown.add_row(*map(Text, row))  # names are names, not markup
    return shown
