"""Bring foreign logs into a store: recognise the format, read, check, write; all of it or nothing."""

from __future__ import annotations

import operator
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hardware.types import RobotSpec
from robolearn.core.errors import UserError
from robolearn.data.episode import check_episode
from robolearn.data.formats import locate, read
from robolearn.data.store import EpisodeStore


@dataclass(frozen=True)
class Config:
    """Convert a dataset of another project into a store."""

    path: Path
    """The file or folder to read, or a folder that holds just one dataset."""
    out: Path
    """The store to make, e.g. runs/pusht.zarr."""
    format: str | None = None
    """Its format: diffusion_policy_zarr, robosuite_hdf5; None: told by content."""
    limit: int | None = None
    """Read only the first this many episodes; None: all."""
    overwrite: bool = False
    """Replace a store that is already at `out`, once the new one is complete."""
    seed: int = 0
    """Taken as by every verb; reading draws nothing at random."""


def run(config: Config) -> None:
    """Build beside `out`, rename at the end. An error leaves nothing; a killed or interrupted run goes on where it stopped."""
    where, name = locate(config.path, config.format)
    if config.limit is not None and config.limit < 1:
        raise UserError(f"limit: {config.limit} episodes; must be at least 1")
    console = Console(stderr=True)
    imported = {"from": str(where.absolute()), "format": name, "limit": config.limit, "robolearn": version("robolearn")}
    if config.out.exists() and not config.overwrite:
        if EpisodeStore.open(config.out).provenance.get("import") != imported:
            raise UserError(f"{config.out}: exists and came from elsewhere; choose another --out, or --overwrite it")
        console.print(f"{config.out}: already complete", soft_wrap=True)
        return
    spec, episodes = read(where, name)
    building = config.out.with_name(f".{config.out.name}.partial")
    store = _resume(building, spec, {"import": imported})
    total = operator.length_hint(episodes) or None
    if config.limit is not None:
        total = min(total or config.limit, config.limit)
    try:
        with store, _progress(console) as progress:
            task = progress.add_task(f"{where.name} ({name})", total=total, completed=len(store))
            for number, episode in enumerate(islice(episodes, config.limit)):
                if number < len(store):
                    continue  # stored before the interruption
                try:
                    check_episode(episode, spec)
                except ValueError as error:
                    raise UserError(f"{where}: episode {number}: {str(error).removeprefix('episode: ')}") from error
                store.append(episode)
                progress.update(task, completed=number + 1)
            if not len(store):
                raise UserError(f"{where}: holds no episode")
            rows = store.rows
        if config.overwrite and config.out.exists():
            _remove_store(config.out)
        building.rename(config.out)
    except Exception:
        shutil.rmtree(building, ignore_errors=True)
        raise
    console.print(f"{config.out}: {len(store)} episodes, {rows} rows", soft_wrap=True)


def _resume(building: Path, spec: RobotSpec, provenance: dict[str, Any]) -> EpisodeStore:
    """The unfinished store of the same import, or a new one."""
    if building.exists():
        try:
            store = EpisodeStore.open(building, "a")
        except UserError as error:
            if "another process" in str(error):
                raise
        else:
            if store.provenance == provenance and store.spec == spec:
                return store
            store.close()
        shutil.rmtree(building)
    return EpisodeStore.create(building, spec, provenance)


def _remove_store(path: Path) -> None:
    EpisodeStore.open(path, "a").close()  # refuses what is no store, and what someone is writing to
    shutil.rmtree(path)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("episodes"), TimeElapsedColumn())
    return Progress(*columns, console=console)
