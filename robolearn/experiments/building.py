"""A new store under its final name only once it is complete: built beside it, continued where it was killed, gone where it failed."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hardware.types import RobotSpec
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode
from robolearn.data.layout import FORMAT_VERSION, from_json, to_json
from robolearn.data.store import EpisodeStore

BATCH_BYTES = 64 << 20  # decoded, stored together
BATCH_S = 5.0  # or whatever came within this time: no more than that is lost with the power
SKIPPED = "skipped"  # the part of the provenance that grows while a store is built


def is_complete(out: Path, key: str, made: Mapping[str, Any], overwrite: bool) -> bool:
    """Has this been done already, to the last option? UserError: something else is there, and it is not to be replaced."""
    if not out.exists() or overwrite:
        return False
    there, here = EpisodeStore.open(out).provenance.get(key), _plain(made)
    if there == here:
        return True
    if not isinstance(there, Mapping):
        raise UserError(f"{out}: exists and came from elsewhere; choose another --out, or --overwrite it")
    different = [name for name in dict.fromkeys([*there, *here]) if there.get(name) != here.get(name)]
    said = "; ".join(f"{name}: {_short(there.get(name))} != {_short(here.get(name))}" for name in different)
    raise UserError(
        f"{out}: exists, made of other data or with other options (there != here): {said}; choose another --out, or --overwrite it"
    )


@contextmanager
def building(
    out: Path, spec: RobotSpec, provenance: Mapping[str, Any], compression: str, overwrite: bool, calibration: str | None = None
) -> Iterator[EpisodeStore]:
    """The store to fill; it already holds what the same command stored before it was killed. At the end it is renamed to `out`.

    An error in the block removes it; Ctrl-C and kill leave it for the next time. UserError: names that cannot be folders.
    """
    if overwrite and out.exists():
        _require_replaceable(out)
    beside = _beside(out, "partial")
    store = _resumed(beside, spec, _plain(provenance))
    if store is None:  # one without an episode yet is false
        store = EpisodeStore.create(beside, spec, provenance, compression, calibration)
    try:
        with store:
            yield store
        if overwrite and out.exists():
            _require_replaceable(out)
            replaced = _beside(out, "replaced")
            shutil.rmtree(replaced, ignore_errors=True)
            out.rename(replaced)
            beside.rename(out)
            shutil.rmtree(replaced)
        else:
            beside.rename(out)
    except Exception:
        shutil.rmtree(beside, ignore_errors=True)
        raise


class Appender:
    """Stores episodes several at a time: many short ones are fewer files, and wait less for the disk."""

    def __init__(self, store: EpisodeStore) -> None:
        self.store = store
        self._waiting, self._bytes, self._since = list[Episode](), 0, time.monotonic()

    def add(self, episode: Episode) -> None:
        """UserError: it cannot be stored."""
        self._waiting.append(episode)
        self._bytes += sum(frames.nbytes for frames in episode.images.values()) + 100 * len(episode)
        if self._bytes >= BATCH_BYTES or time.monotonic() - self._since >= BATCH_S:
            self.flush()

    def flush(self) -> None:
        """What waits is in the store when this returns."""
        if self._waiting:
            self.store.extend(self._waiting)
        self._waiting, self._bytes, self._since = [], 0, time.monotonic()


def record_skipped(store: EpisodeStore, skipped: Sequence[Mapping[str, Any]]) -> None:
    """Keep in the provenance which episodes were left out, and why; at once, so that a killed import knows it too."""
    store.annotate(SKIPPED, list(skipped))


def progress(console: Console) -> Progress:
    """Episodes done, of how many, since when."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("episodes"), TimeElapsedColumn())
    return Progress(*columns, console=console)


def _resumed(beside: Path, spec: RobotSpec, provenance: Mapping[str, Any]) -> EpisodeStore | None:
    """The unfinished store of the same command; what another one left is removed."""
    if not beside.exists():
        return None
    try:
        store = EpisodeStore.open(beside, "a")
    except UserError as error:
        if "another process" in str(error):
            raise
    else:
        if {k: v for k, v in store.provenance.items() if k != SKIPPED} == provenance and store.spec == spec:
            return store
        store.close()
    shutil.rmtree(beside)
    return None


def _require_replaceable(path: Path) -> None:
    """UserError: no store, or one that somebody is writing to."""
    if EpisodeStore.open(path).version == FORMAT_VERSION:
        EpisodeStore.open(path, "a").close()


def _beside(out: Path, what: str) -> Path:
    return out.with_name(f".{out.name}.{what}")


def _short(value: Any) -> str:
    text = json.dumps(to_json(value))
    return text if len(text) <= 80 else text[:77] + "..."


def _plain(data: Any) -> Any:
    """As it comes back from a store."""
    return from_json(json.loads(json.dumps(to_json(data))))
