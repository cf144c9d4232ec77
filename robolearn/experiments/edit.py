"""Make a new store of what is wanted of others: relabel, filter, trim, resample, redact, rename, merge, split. Never in place."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from functools import reduce
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import track

from hardware.types import RobotSpec
from robolearn.core.errors import UserError
from robolearn.data.editing.edits import Edit, Redact, Rename, Resample, SparseReward, TrimIdle, chain
from robolearn.data.editing.facts import Facts
from robolearn.data.editing.merged import Merged
from robolearn.experiments.building import Appender, building, is_complete, progress


@dataclass(frozen=True)
class Config:
    """Make a new store from one or several. What is asked for happens in the order of these options; names and numbers are the sources'."""

    path: tuple[str, ...]
    """The stores; several are merged, one after the other, and must have the same spec. Episodes are numbered through from 0."""
    out: Path
    """The store to make."""
    success: str | None = None
    """These episodes succeeded: numbers, e.g. 4,7-9, or an expression, e.g. "meta.score > 0.9"."""
    failure: str | None = None
    """These did not."""
    keep: str | None = None
    """Only these: numbers, or an expression over length, index, meta.<key> and the flags that inspect shows (docs/edit.md)."""
    trim_idle: float | None = None
    """Let the robot stand still for at most this long at either end [s]; None: as it did."""
    trim_pauses: float | None = None
    """The same of each pause in between [s]."""
    rate_hz: float | None = None
    """Resample to this many rows per second [Hz]."""
    reward: Literal["sparse"] | None = None
    """sparse: a successful episode earns 1 in its last row, which is terminal, and 0 before; a failed one nothing. None: as recorded."""
    redact: tuple[str, ...] = ()
    """Drop a camera (wrist), or blacken a part of its frames (front:top,left,bottom,right in px)."""
    rename: tuple[str, ...] = ()
    """OLD=NEW for cameras and states (front=top), elements (state.q.a=shoulder, action.x=dx) and streams."""
    robot: str | None = None
    """Another name of the robot; stores that differ in it alone can be merged then."""
    split: float | str | None = None
    """Into `out` goes this share of the episodes, drawn with `seed`, or those for which this expression holds; the rest into `out_rest`."""
    out_rest: Path | None = None
    """The second store of a split."""
    compression: str = "zstd"
    """Of images: zstd, jpegxl, jpeg:95, h264:20 ... Only zstd and jpegxl:0 keep every bit."""
    overwrite: bool = False
    """Replace stores that are already there, once the new ones are complete."""
    seed: int = 0
    """Draws a split."""


def run(config: Config) -> None:
    """Plan, then write episode by episode beside `out`, rename at the end. The sources are only read."""
    _require_consistent(config)
    console, sources = Console(stderr=True), Merged(config.path, config.robot)
    spec, edits = _edits(config, sources)
    made: dict[str, Any] = {
        "from": sources.lineage(),
        "options": {f.name: value for f in fields(config) if f.name in _DECISIVE and (value := getattr(config, f.name)) != f.default},
        "robolearn": version("robolearn"),
    }
    outs = [out for out in (config.out, config.out_rest) if out is not None]
    marks = [{**made, "part": part} for part, _ in zip(("out", "rest"), outs, strict=False)]
    complete = [is_complete(out, "edit", mark, config.overwrite) for out, mark in zip(outs, marks, strict=True)]
    for out, done in zip(outs, complete, strict=True):
        if done:
            console.print(f"{out}: already complete", soft_wrap=True)
    if all(complete):
        return
    meta, parts = _plan(config, sources)
    with ExitStack() as stack, progress(console) as bar:
        stores = []
        for out, mark, numbers, done in zip(outs, marks, parts, complete, strict=True):
            if done:
                continue
            provenance = {"edit": mark, "episodes": sources.origins(numbers)}
            store = stack.enter_context(building(out, spec, provenance, config.compression, config.overwrite, sources.calibration))
            task, appender = bar.add_task(out.name, total=len(numbers), completed=len(store)), Appender(store)
            for number in numbers[len(store) :]:  # those before were stored before an interruption
                episode = replace(sources[number], meta=meta[number])
                edited = reduce(lambda seen, edit: edit(seen), edits, episode)
                if "length" in edited.meta:
                    edited = replace(edited, meta={**edited.meta, "length": len(edited)})
                appender.add(edited)
                bar.advance(task)
            appender.flush()
            stores.append((out, store))
    for out, store in stores:
        told = f"{len(store)} of {len(sources)} episodes, {store.rows} of {sources.rows} rows"
        console.print(f"{out}: {told}", soft_wrap=True)


_DECISIVE = {f.name for f in fields(Config)} - {"path", "out", "out_rest", "overwrite"}


def _require_consistent(config: Config) -> None:
    if (config.split is None) != (config.out_rest is None):
        raise UserError("split: needs both --split and --out-rest, the store for the rest")
    if isinstance(config.split, int | float) and not 0 < config.split < 1:
        raise UserError(f"split: {config.split:g}; expected a share between 0 and 1, or an expression")
    outs = [out for out in (config.out, config.out_rest) if out is not None]
    for number, out in enumerate(outs):
        for other in [*config.path, *map(str, outs[:number])]:
            mine, theirs = out.resolve(), Path(other).resolve()
            if mine.is_relative_to(theirs) or theirs.is_relative_to(mine):
                raise UserError(f"{out}: lies in the way of {other}; an edit makes a new store and leaves its sources as they are")


def _edits(config: Config, sources: Merged) -> tuple[RobotSpec, list[Edit]]:
    """The operations on one episode, in their order, and the spec they lead to."""
    made = []
    if config.trim_idle is not None or config.trim_pauses is not None:
        made.append(lambda spec: TrimIdle(spec, sources.scale, config.trim_idle, config.trim_pauses))
    if (rate_hz := config.rate_hz) is not None:
        made.append(lambda spec: Resample(spec, rate_hz))
    if config.reward is not None:
        made.append(SparseReward)
    if config.redact:
        made.append(lambda spec: Redact(spec, config.redact))
    if config.rename:
        made.append(lambda spec: Rename(spec, config.rename))
    return chain(sources.spec, *made)


def _plan(config: Config, sources: Merged) -> tuple[list[dict[str, Any]], list[list[int]]]:
    """(every episode's meta, the episodes of each output in order). UserError: nothing is left."""
    facts = Facts(sources, lambda indices, name: track(indices, f"looking at {name}", console=Console(stderr=True), transient=True))
    labels = {value: facts.choose(name, text) for name, value in (("success", True), ("failure", False)) if (text := getattr(config, name))}
    if both := set(labels.get(True, ())) & set(labels.get(False, ())):
        raise UserError(f"success, failure: episode {min(both)} is in both")
    for value, numbers in labels.items():
        for number in numbers:
            facts.meta[number]["success"] = value
    kept = list(range(len(sources))) if config.keep is None else facts.choose("keep", config.keep)
    if config.reward is not None and (unknown := [n for n in kept if facts.meta[n].get("success") not in (True, False)]):
        which = ", ".join(f"{n} ({facts.meta[n].get('success')!r:.20})" for n in unknown[:8])
        raise UserError(f"reward: of {len(unknown)} episodes nobody says whether they succeeded: {which}; --success and --failure do")
    parts = [kept]
    if config.split is not None:
        if not isinstance(config.split, str):
            drawn = np.random.default_rng(config.seed).permutation(len(kept))[: round(config.split * len(kept))]
            chosen = {kept[i] for i in drawn}
        else:
            chosen = set(facts.choose("split", config.split))
        parts = [[n for n in kept if n in chosen], [n for n in kept if n not in chosen]]
    for name, numbers in zip(("out", "out_rest"), parts, strict=False):
        if not numbers:
            raise UserError(f"{name}: no episode is left of {len(sources)}; nothing was written")
    return facts.meta, parts
