"""Write a store in another project's format, or a policy as a program: all of it or nothing."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TaskID

from hardware.types import RobotSpec
from robolearn.core.errors import UserError, require_at_least
from robolearn.data.episode import Episode
from robolearn.data.formats import writable, write
from robolearn.data.store import EpisodeStore
from robolearn.experiments.building import progress

PROGRAMS = {"torch_export": ".pt2", "onnx": ".onnx"}  # formats of policies, and how their files are called
LEFT_OUT = {  # what does not come back
    "diffusion_policy_zarr": "reward, terminal, success, requested actions, instruction, names, units, capture times, streams",
    "lerobot_v2": "capture times and streams; times are rounded to the frame rate, and travel along as robolearn.time",
    "lerobot_v3": "capture times and streams; times are rounded to the frame rate, and travel along as robolearn.time",
}


@dataclass(frozen=True)
class Config:
    """Convert a store into another project's dataset, or a policy into a program that runs without robolearn."""

    path: str
    """The store; a folder, or a URL (s3://, gs://, http://). Or a policy.pt."""
    format: str
    """Of a store: lerobot_v3, lerobot_v2, robomimic_hdf5 or diffusion_policy_zarr; of a policy: torch_export or onnx."""
    out: Path
    """The file or folder to make. It must not exist: it may hold what is no store, and nothing here replaces that."""
    batch: int = 1
    """Of a policy: observations that the program answers at once; part of the file."""
    seed: int = 0
    """Of the observations on which a program is compared with its policy."""


def run(config: Config) -> None:
    """Build in a folder beside `out`, rename at the end. An error or an interruption leaves nothing; the next run tidies after a kill."""
    if config.format in PROGRAMS:
        _program(config)
        return
    if config.format not in (stores := writable()):
        raise UserError(
            f"format: {config.format!r} cannot be written; valid: of a store {', '.join(stores)}, of a policy {', '.join(PROGRAMS)}"
        )
    store = EpisodeStore.open(config.path)
    if not len(store):
        raise UserError(f"{config.path}: holds no episode yet")
    _refuse_to_replace(config.out)
    beside = config.out.with_name(f".{config.out.name}.partial")
    building = beside / config.out.name  # under its own name, which some formats write down
    shutil.rmtree(beside, ignore_errors=True)
    console = Console(stderr=True)
    if (lost := LEFT_OUT.get(config.format)) is not None:
        console.print(f"note: {config.format} has no place for {lost}", soft_wrap=True)
    try:
        beside.mkdir(parents=True)
        with progress(console) as bar:
            task = bar.add_task(f"{store.path.name} to {config.format}", total=len(store))
            write(building, _Watched(store, bar, task), config.format)
        building.rename(config.out)
    except UserError as error:
        raise UserError(str(error).replace(str(building), str(config.out))) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    console.print(f"{config.out}: {len(store)} episodes, {store.rows} rows, {config.format}", soft_wrap=True)


def _program(config: Config) -> None:
    require_at_least("batch", config.batch, 1, "observations")
    _refuse_to_replace(config.out)
    if config.out.suffix != PROGRAMS[config.format]:
        raise UserError(f"out: {config.out}; expected a name that ends in {PROGRAMS[config.format]}")
    from robolearn.experiments.programs import export_policy  # needs torch, which no store does

    said = export_policy(Path(config.path), config.format, config.out, config.batch, config.seed)
    Console(stderr=True).print(said, soft_wrap=True)


def _refuse_to_replace(out: Path) -> None:
    if out.exists():
        raise UserError(f"{out}: exists already; choose another --out, or remove it")


class _Watched:
    """A store whose progress bar shows the furthest episode that was asked for."""

    def __init__(self, store: EpisodeStore, bar: Progress, task: TaskID) -> None:
        self._store, self._bar, self._task = store, bar, task

    @property
    def spec(self) -> RobotSpec:
        return self._store.spec

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, index: int) -> Episode:
        if not 0 <= index < len(self):
            raise IndexError(index)
        episode = self._store.read(index)
        self._bar.update(self._task, completed=index + 1)
        return episode
