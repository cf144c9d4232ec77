"""Teach an encoder on a store's own images, without labels, and measure what a linear map can read from its features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from robolearn.core.checkpoint import load_state, save_state
from robolearn.core.errors import UserError, require_at_least, require_positive
from robolearn.core.files import require_outside
from robolearn.core.interrupt import deferred_interrupt
from robolearn.core.run import Run
from robolearn.core.types import Metrics
from robolearn.data.store import EpisodeStore
from robolearn.data.windows import restrict, split
from robolearn.evaluation.probe import Part, linear_probe, small_pixels
from robolearn.experiments.advice import enough_memory
from robolearn.experiments.encoder_file import load_weights, save_encoder
from robolearn.experiments.vision import device_named, encode
from robolearn.learners.fit import fit, training_bar
from robolearn.learners.pretraining import Clips, LearningConfig, Pretraining, rows_of
from robolearn.learners.pretraining.moco import MocoConfig
from robolearn.learners.pretraining.objective import ObjectiveConfig
from robolearn.models.encoders.base import CameraEncoder, EncoderConfig
from robolearn.models.encoders.cnn import SmallCnnConfig

PRODUCT = "encoder.safetensors"
SAMPLE = 512  # frames that an objective sees before it starts
HELD_OUT = 4  # batches that the loss is measured on

Scores = dict[str, float]  # state -> R^2


@dataclass(frozen=True)
class Config:
    """Self-supervision on a store's own images. Give `steps`, `minutes`, or both: what comes first ends it."""

    data: Path
    """The store; a path, or a URL (s3://, gs://, https://)."""
    out: Path
    """Artefact folder: encoder.safetensors, which `train --policy.encoder.weights` takes; metrics.jsonl."""
    encoder: EncoderConfig = SmallCnnConfig()
    """--encoder.type NAME: a module of robolearn.models.encoders. Its weights, where given, are where it starts."""
    objective: ObjectiveConfig = MocoConfig()
    """--objective.type moco, byol, mae, time_contrastive, vip, taco or keypoints."""
    learning: LearningConfig = LearningConfig()
    cameras: tuple[str, ...] = ()
    """Which cameras; empty: all."""
    steps: int = 5000
    """Updates at most."""
    minutes: float | None = None
    """Minutes of training at most; None: as many as `steps` take."""
    batch_size: int = 64
    """Clips of an update; one to four images each, as the objective wants."""
    validation: float = 0.1
    """Share of the episodes, whole ones, that is held out: the loss and the probe are measured on them."""
    probe_rows: int = 2000
    """Rows that the linear probe is fitted on, and as many at most that it is scored on; 0: none."""
    cache_mb: float = 2000.0
    """Ceiling of decoded frames kept ready [MB]; 0: none."""
    seed: int = 0
    device: str = "auto"
    """auto (cuda where there is one), cpu, cuda, cuda:1, ..."""
    threads: int = 0
    """CPU threads of torch; 0: its own choice."""
    save_every_s: float = 60.0
    """Seconds between saves of the training's state, from which the same command resumes."""
    overwrite: bool = False
    """Begin anew, whatever is in `out`: it is discarded."""


def run(config: Config) -> None:
    """Pretrain, or go on, or say that it is done."""
    console = Console(stderr=True)
    folder = Run(config.out, config, config.overwrite)
    if folder.finished():
        console.print(f"{config.out}: already pretrained ({folder.result().get('steps')} steps)")
        return
    _check(config)
    device = device_named(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    store = EpisodeStore.open(config.data)
    cameras = restrict(store.spec, config.cameras or None).cameras
    if not cameras:
        raise UserError(f"{config.data}: robot '{store.spec.name}' has no camera, so there is nothing to see")
    if not len(store):
        raise UserError(f"{config.data}: holds no episode yet")
    torch.manual_seed(config.seed)  # the initial weights; everything else draws from generators of its own
    encoder = config.encoder.build(cameras)
    origin = load_weights(encoder, config.encoder.weights) if config.encoder.weights else "from scratch"
    remedies = [f"--batch_size {max(config.batch_size // 2, 2)} halves the batch"]
    if config.cache_mb:
        remedies.append(f"--cache_mb 0 keeps no frames in RAM (now {config.cache_mb:g} MB)")
    with enough_memory(f"at batch_size {config.batch_size}", remedies):
        _pretrain(config, folder, store, encoder, origin, device)


def _pretrain(config: Config, folder: Run, store: EpisodeStore, encoder: CameraEncoder, origin: str, device: torch.device) -> None:
    session = Session(config, folder, store, encoder, device)
    with folder, session.clips:
        result: dict[str, Any] = session.run() | {"encoder": origin, "objective": type(config.objective).__name__.removesuffix("Config")}
        save_encoder(config.out / PRODUCT, encoder, config.encoder, {**result, "data": str(config.data), "seed": config.seed})
        folder.finish(**result, parameters=sum(p.numel() for p in encoder.parameters()), device=str(device), checkpoint=PRODUCT)
        (config.out / "training.pt").unlink(missing_ok=True)
    _show(result)
    Console(stderr=True).print(f"{config.out / PRODUCT}: {result['steps']} steps in {result['train_seconds'] / 60:.1f} minutes; {origin}")


class Session:
    """One pretraining in its folder."""

    def __init__(self, config: Config, folder: Run, store: EpisodeStore, encoder: CameraEncoder, device: torch.device):
        self.config, self.folder, self.store, self.encoder = config, folder, store, encoder
        (train,), (self.held_out,) = split(store, config.validation, np.random.default_rng(config.seed))
        self.train = train
        self.clips = self._clips(train, config.seed, config.cache_mb, device)
        objective = config.objective.build(encoder, self.clips.frames(SAMPLE), self.clips.actions())
        objective.generator.manual_seed(config.seed)
        self.learner = Pretraining(objective.to(device), config.learning)
        self.steps, self.seconds = 0, 0.0
        self.before: dict[str, Scores] = {}
        self._state_path, self._saved = config.out / "training.pt", 0.0
        self._recent: list[Metrics] = []
        self._last: Metrics | None = None
        self._resume()

    def run(self) -> dict[str, Any]:
        """Train to the end; what done.json says of it."""
        if not self.steps:
            with self.folder.timed("probe"):
                self.before = {"probe_before": self._probe(), "probe_pixels": self._probe(pixels=True)}
            self.folder.log(step=0, **_flat(self.before), **self.validate())
        limit = None if self.config.minutes is None else 60 * self.config.minutes
        self._saved = self.seconds
        bar = training_bar(type(self.learner.objective).__name__)
        with self.folder.timed("train"), deferred_interrupt() as self._interrupt, bar:
            self.steps, self.seconds = fit(
                cast(Any, self.learner),  # what it updates from is between it and its clips
                cast(Any, self.clips),
                self.config.steps,
                limit,
                self.steps,
                self.seconds,
                self._on_step,
                bar=bar,
            )
            if self._last is not None:  # on a GPU the learner does not look by itself
                self.learner.check(self._last)
        with self.folder.timed("probe"):
            after = {"probe_after": self._probe()}
        found = {"steps": self.steps, "train_seconds": round(self.seconds, 1), **self.before, **after, **self.validate()}
        self.folder.log(step=self.steps, **_flat(after))
        return found

    def validate(self) -> Metrics:
        """The loss on held-out episodes, always on the same clips, views and masks."""
        objective, config = self.learner.objective, self.config
        if not len(self.held_out) or self.store.lengths[self.held_out].max() < config.objective.shortest:
            return {}
        drawn = objective.generator.get_state()
        objective.generator.manual_seed(config.seed)
        objective.eval()
        with torch.no_grad(), self._clips(self.held_out, config.seed, 0, self._device) as clips:
            losses = [float(objective.loss(next(clips))[1]["loss"]) for _ in range(HELD_OUT)]
        objective.generator.set_state(drawn)
        return {"val_loss": float(np.mean(losses))}

    def _probe(self, pixels: bool = False) -> Scores:
        """R^2 of each state from the frozen features, or from tiny images, on held-out episodes."""
        if not (self.config.probe_rows and len(self.held_out) and self.store.spec.state):
            return {}
        features, parts = [], []
        for episodes in (self.train, self.held_out):
            rows = rows_of(self.store, episodes)
            rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), self.config.probe_rows)).astype(np.int64)]
            owner = np.searchsorted(self.store.starts, rows, side="right") - 1
            parts.append(Part({name: self.store.lowdim(f"state/{name}")[rows] for name in self.store.spec.state}, owner))
            seen = small_pixels({c: self.store.frames(c, rows) for c in self.encoder.cameras}) if pixels else None
            features.append(encode(self.store, self.encoder, rows) if seen is None else seen)
        return linear_probe(features[0], parts[0], features[1], parts[1])

    def _on_step(self, step: int, seconds: float, metrics: Metrics) -> None:
        self._recent.append(metrics)
        self._last = metrics
        save = seconds - self._saved >= self.config.save_every_s or self._interrupt.wanted
        if step % 100 == 0 or save:
            self.learner.check(metrics)
        if step % 100 == 0:
            means = {name: float(np.mean([float(m[name]) for m in self._recent])) for name in metrics}
            self._recent.clear()
            self.folder.log(step=step, train_seconds=round(seconds, 2), **means, **(self.validate() if step % 1000 == 0 else {}))
        if save:
            self._saved = seconds
            save_state(self._state_path, self._state(step, seconds))
        if self._interrupt.wanted:
            raise KeyboardInterrupt

    @property
    def _device(self) -> torch.device:
        return next(self.encoder.parameters()).device

    def _clips(self, episodes: np.ndarray, seed: int, cache_mb: float, device: torch.device) -> Clips:
        config = self.config
        return Clips(self.store, config.objective, tuple(self.encoder.cameras), episodes, config.batch_size, seed, device, cache_mb)

    def _state(self, step: int, seconds: float) -> dict[str, Any]:
        return {
            "learner": self.learner.state_dict(),
            "clips": self.clips.state_dict(),
            "before": self.before,
            "data": self.store.feature_cache.fingerprint(),
            "steps": step,
            "seconds": seconds,
        }

    def _resume(self) -> None:
        if not self._state_path.exists():
            self.folder.rewind(-1)  # killed before it saved anything: all of it is done again
            return
        state: Mapping[str, Any] = load_state(self._state_path, self._device)
        data = self.store.feature_cache.fingerprint()
        if state.get("data", data) != data:
            raise UserError(f"{self._state_path}: began on other episodes: {self.config.data} was changed since; --overwrite starts anew")
        try:
            self.clips.load_state_dict(state["clips"])
        except ValueError as error:
            raise UserError(f"{self._state_path}: {error}; --overwrite starts anew") from error
        self.learner.load_state_dict(state["learner"])
        self.steps, self.seconds, self.before = state["steps"], state["seconds"], state["before"]
        self.folder.rewind(self.steps)


def _flat(scores: Mapping[str, Scores]) -> dict[str, float]:
    """For one row of metrics."""
    return {f"{kind}/{name}": value for kind, values in scores.items() for name, value in values.items()}


def _show(result: Mapping[str, Any]) -> None:
    if not result["probe_after"]:
        Console(stderr=True).print("no linear probe: it needs probe_rows, a held-out episode and a state")
        return
    table = Table(title="linear probe: R² of each state on held-out episodes (the mean of the training rows: 0)", title_justify="left")
    for head in ("state", "before", "after", "16 x 16 pixels"):
        table.add_column(head, justify="left" if head == "state" else "right")
    for name, score in result["probe_after"].items():
        table.add_row(name, *(f"{value:.3f}" for value in (result["probe_before"][name], score, result["probe_pixels"][name])))
    Console().print(table)


def _check(config: Config) -> None:
    given = {"steps": (config.steps, "updates"), "minutes": (config.minutes, "min")}
    for name, (value, unit) in given.items():
        if value is not None:
            require_positive(name, value, unit)
    require_at_least("batch_size", config.batch_size, 2, "clips")
    require_at_least("probe_rows", config.probe_rows, 0, "rows")
    require_at_least("cache_mb", config.cache_mb, 0, "MB")
    require_at_least("save_every_s", config.save_every_s, 0, "s")
    require_outside(config.out, config.data)
    if not 0 <= config.validation < 1:
        raise UserError(f"validation: {config.validation} of the episodes; expected 0 to below 1")
    if config.encoder.tune not in ("full", "none"):
        raise UserError(
            f"encoder.tune: {config.encoder.tune}; pretraining trains the whole network: full (one for each camera), "
            "or none (one for all, as where it will be frozen)"
        )
