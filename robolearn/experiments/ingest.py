"""Bring foreign logs into a store: recognise the format, read, map, check, write; all of it or nothing."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from robolearn.core.config import to_dict
from robolearn.core.errors import UserError, one_line, require_at_least
from robolearn.data.editing.mapping import Map, load_map, read_mapped
from robolearn.data.editing.selection import as_text, episode_numbers
from robolearn.data.episode import Episode, check_episode
from robolearn.data.formats import Options, Reader, locate
from robolearn.data.formats._hub import PREFIX, download
from robolearn.data.store import EpisodeStore
from robolearn.experiments.building import SKIPPED, Appender, building, is_complete, progress, record_skipped

SHOWN = 10  # episodes left out that the terminal names; the provenance names all


@dataclass(frozen=True)
class Config:
    """Convert a dataset of another project into a store."""

    path: str
    """The file or folder to read, a folder that holds just one dataset, or hf://owner/name[@revision] of the Hugging Face Hub."""
    out: Path
    """The store to make, e.g. runs/pusht.zarr."""
    format: str | None = None
    """Its format, e.g. lerobot_v3; None: told by content."""
    rate_hz: float | None = None
    """Rows per second [Hz]; None: as the map, the files or their format say."""
    cameras: tuple[str, ...] | None = None
    """Only these, by the files' names; none after the flag: no image. None: all."""
    episodes: str | None = None
    """Only these, by the files' numbers from 0, e.g. 24-33,40. None: all."""
    limit: int | None = None
    """Only the first this many of them; None: all."""
    map: Path | None = None
    """YAML: rename, convert and label what is read (docs/ingest-map.md)."""
    skip_bad: bool = False
    """Leave out episodes that are damaged or no episodes (NaN, time that stands still), and say which. Otherwise one ends the import."""
    compression: str = "zstd"
    """Of images: zstd, jpegxl, jpeg:95, h264:20 ... Only zstd and jpegxl:0 keep every bit."""
    overwrite: bool = False
    """Replace a store that is already at `out`, once the new one is complete."""
    seed: int = 0
    """Taken as by every verb; reading draws nothing at random."""


def run(config: Config) -> None:
    """Build beside `out`, rename at the end. An error leaves nothing; a killed or interrupted run goes on where it stopped."""
    console = Console(stderr=True)
    if config.limit is not None:
        require_at_least("limit", config.limit, 1, "episodes")
    if config.rate_hz is not None and not 0 < config.rate_hz < math.inf:
        raise UserError(f"rate_hz: {config.rate_hz} Hz; expected above 0")
    mapping, remote = Map() if config.map is None else load_map(config.map), config.path.startswith(PREFIX)
    path, name = (Path(), config.format) if remote else locate(config.path, config.format)
    imported = _imported(config, config.path if remote else str(path.absolute()), name, mapping)
    if not remote:
        imported["files"] = _fingerprint(path)
    if is_complete(config.out, "import", imported, config.overwrite):
        console.print(Text(f"{config.out}: already complete"), soft_wrap=True)
        return
    provenance: dict[str, Any] = {"import": imported}
    if remote:
        path, provenance["commit"] = download(config.path)
        path, name = locate(path, config.format)
    options = Options(mapping.rate_hz if config.rate_hz is None else config.rate_hz, config.cameras)
    with closing(read_mapped(path, name, options, mapping)) as reader:
        numbers = _numbers(config, getattr(reader, "numbers", range(len(reader))))
        console.print(Text(f"reading {one_line(str(path))} ({name})"), soft_wrap=True)
        for note in reader.notes:
            console.print(Text(f"note: {note}"), soft_wrap=True)
        provenance["notes"] = list(reader.notes)
        with building(config.out, reader.spec, provenance, config.compression, config.overwrite) as store:
            skipped = _fill(store, reader, numbers, config.skip_bad, path, console)
    for one in skipped[:SHOWN]:
        console.print(Text(f"left out: episode {one['episode']}: {one['why']}"), soft_wrap=True)
    if len(skipped) > SHOWN:
        console.print(f"left out: {len(skipped) - SHOWN} more, named in the store's provenance")
    console.print(Text(f"{config.out}: {len(store)} episodes, {store.rows} rows"), soft_wrap=True)


def _imported(config: Config, source: str, format: str | None, mapping: Map) -> dict[str, Any]:
    """All that decides what the store will hold."""
    chosen = {name: getattr(config, name) for name in ("rate_hz", "cameras", "episodes") if getattr(config, name) is not None}
    chosen |= {name: value for name in ("skip_bad", "compression") if (value := getattr(config, name)) != getattr(Config, name)}
    chosen |= {} if config.map is None else {"map": to_dict(mapping)}
    return {"from": source, "format": format, "limit": config.limit, "robolearn": version("robolearn"), **chosen}


def _numbers(config: Config, files: Sequence[int]) -> list[int]:
    """Which of the reader's episodes, in order; the option names them by the files' own numbers."""
    if config.episodes is None:
        return list(range(len(files)))[: config.limit]
    place = {number: index for index, number in enumerate(files)}
    wanted = episode_numbers("episodes", config.episodes, max(files) + 1)
    if absent := [number for number in wanted if number not in place]:
        raise UserError(f"episodes: {as_text(absent)} cannot be read; valid: {as_text(files)}")
    return [place[number] for number in wanted][: config.limit]


def _fingerprint(path: Path) -> str:
    """Names, sizes and times of the files: another one means that the data has changed."""
    digest = hashlib.sha256()
    for folder, folders, files in os.walk(path) if path.is_dir() else [(str(path.parent), [], [path.name])]:
        folders.sort()
        for name in sorted(files):
            with suppress(OSError):  # a link to nowhere
                state = os.stat(os.path.join(folder, name))
                digest.update(f"{os.path.relpath(folder, path)} {name} {state.st_size} {state.st_mtime_ns}\n".encode("utf-8", "replace"))
    return digest.hexdigest()[:16]


def _fill(store: EpisodeStore, reader: Reader, numbers: list[int], skip_bad: bool, path: Path, console: Console) -> list[dict[str, Any]]:
    """Store what is missing of these episodes; those that were left out, and why."""
    skipped, appender = list(store.provenance.get(SKIPPED, [])), Appender(store)
    with progress(console) as bar:
        done = len(store) + len(skipped)  # before an interruption
        task = bar.add_task(escape(one_line(path.name)), total=len(numbers), completed=done)
        for number in numbers[done:]:
            try:
                episode = _checked(reader, number, path)
            except UserError as error:
                if not skip_bad:
                    raise UserError(f"{error}; --skip-bad leaves such episodes out") from error
                skipped.append({"episode": number, "why": str(error).removeprefix(f"{path}: ").removeprefix(f"episode {number}: ")})
                appender.flush()  # what is stored and what is skipped together say where to go on
                record_skipped(store, skipped)
            else:
                appender.add(episode)
            bar.advance(task)
        appender.flush()
    if not len(store):
        raise UserError(f"{path}: none of its {len(numbers)} episodes can be stored; episode {skipped[0]['episode']}: {skipped[0]['why']}")
    return skipped


def _checked(reader: Reader, number: int, path: Path) -> Episode:
    episode = reader[number]
    try:
        check_episode(episode, reader.spec)
    except ValueError as error:
        raise UserError(f"{path}: episode {number}: {str(error).removeprefix('episode: ')}") from error
    return episode
