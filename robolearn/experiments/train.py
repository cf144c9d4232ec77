"""Learn a policy from a store of episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console

from robolearn.core.checkpoint import load_state, save_checkpoint, save_state
from robolearn.core.errors import UserError, require_at_least
from robolearn.core.interrupt import deferred_interrupt
from robolearn.core.run import Run
from robolearn.core.types import Batch, Metrics
from robolearn.data.loader import Batches
from robolearn.data.store import EpisodeStore
from robolearn.data.tensors import to_batch
from robolearn.data.windows import Windows, split
from robolearn.experiments.reading import ReadingConfig, open_stores, sampler
from robolearn.experiments.vision import cache_features, give_weights
from robolearn.learners.fit import fit
from robolearn.learners.imitation import Imitation, ImitationConfig
from robolearn.models.encoders.base import CameraEncoder, EncoderConfig
from robolearn.models.encoders.selfsupervised import PretrainConfig
from robolearn.policies.chunk import ChunkConfig, ChunkPolicy
from robolearn.policies.diffusion import DiffusionConfig

__all__ = ["Config", "cache_features", "run"]

CHOICE = "the last step's averaged weights; no checkpoint was selected by a score"


@dataclass(frozen=True)
class Config:
    """Train a policy by imitation. Give `steps`, `minutes`, or both: what comes first ends it, and sets the learning rate's fall."""

    data: Path
    """The store to learn from; a path, or a URL (s3://, gs://, https://)."""
    out: Path
    """Artefact folder: policy.pt, metrics.jsonl; encoder.safetensors where one was pretrained."""
    policy: ChunkConfig = DiffusionConfig()
    """Which policy, what it sees, how many actions it answers with; --policy.type NAME: a module of robolearn.policies."""
    imitation: ImitationConfig = ImitationConfig()
    pretrain: PretrainConfig = PretrainConfig()
    """Of an encoder without weights that is frozen, or `tuned`, on the images of the dataset."""
    reading: ReadingConfig = ReadingConfig()
    steps: int = 12000
    """Updates at most."""
    minutes: float | None = None
    """Minutes of training at most, without the encoder's; None: as many as `steps` take."""
    batch_size: int = 256
    episodes: Literal["all", "successful"] = "all"
    """successful: leave out episodes known to have failed."""
    validation: float = 0.04
    """Share of the episodes, whole ones, that is held out and measured on, never trained on."""
    seed: int = 0
    device: str = "auto"
    """auto (cuda where there is one), cpu, cuda, cuda:1, ..."""
    threads: int = 0
    """CPU threads of torch; 0: its own choice."""
    save_every_s: float = 60.0
    """Seconds between saves of the training's state, from which the same command resumes."""
    overwrite: bool = False
    """Discard what another config left in `out`."""


def run(config: Config) -> None:
    """Train, or go on training, or say that it is done."""
    console = Console(stderr=True)
    folder = Run(config.out, config, config.overwrite)
    if folder.finished():
        console.print(f"{config.out}: already trained ({folder.result().get('steps')} steps)")
        return
    _check(config)
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    stores = open_stores(config.data, config.reading)
    store = stores[0]
    settings = config.policy
    torch.manual_seed(config.seed)  # the initial weights and dropout; everything else draws from generators of its own
    policy = settings.build(store.spec).to(device)
    policy.seed(config.seed)
    if config.reading.latency_s and not (policy.encoder is not None and not settings.encoder.frozen):  # pyright: ignore[reportOptionalMemberAccess]
        raise UserError("reading.latency_s: needs an encoder that is tuned (policy.encoder.tune: full): features are kept row by row")
    if policy.encoder is None and store.spec.cameras:
        unseen = ", ".join(store.spec.cameras)
        console.print(f"no encoder: the policy sees states only, not the cameras ({unseen}); configs/train/ has examples with one")
    with folder:
        training = Training(config, folder, stores, policy)
        steps, seconds = training.run()
        save_checkpoint(
            config.out / "policy.pt",
            training.learner.policy,
            settings,
            {
                "data": str(config.data),
                "steps": steps,
                "seconds": seconds,
                "seed": config.seed,
                "encoder": training.origin,
                "choice": CHOICE,
            },
        )
        folder.finish(
            steps=steps,
            train_seconds=round(seconds, 1),
            encoder=training.origin,
            parameters=sum(p.numel() for p in policy.parameters()),
            trainable=sum(p.numel() for p in policy.parameters() if p.requires_grad),
            device=str(device),
            checkpoint="policy.pt",
            choice=CHOICE,
            **training.validate(),
        )
        (config.out / "training.pt").unlink(missing_ok=True)
    console.print(f"{config.out / 'policy.pt'}: {steps} steps in {seconds / 60:.1f} minutes; encoder: {training.origin}")


class Training:
    """One training in its folder: everything between the store and the checkpoint."""

    def __init__(self, config: Config, folder: Run, stores: Sequence[EpisodeStore], policy: ChunkPolicy):
        self.config, self.folder, self.device = config, folder, next(policy.parameters()).device
        rng = np.random.default_rng(config.seed)
        training, held_out = split(stores, config.validation, rng)
        if config.episodes == "successful":
            training = [
                np.array([i for i in part if store.meta(int(i)).get("success") is not False], dtype=np.int64)
                for store, part in zip(stores, training, strict=True)
            ]
        self.origin, key = "none", None
        encoder, encoder_config = policy.encoder, policy.config.encoder
        if encoder is not None and encoder_config is not None:
            with folder.timed("encoder"):
                self.origin, key = self._see(stores, encoder, encoder_config)
        self.windows, self.held_out = (
            Windows(
                stores,
                policy.history,
                policy.horizon,
                cameras=tuple(policy.spec.cameras),
                state_keys=tuple(policy.spec.state),
                episodes=episodes,
                features_key=key,
                images=key is None and bool(policy.spec.cameras),
                past=policy.sees_past,
                future=policy.sees_future,
                stride=config.reading.stride,
                latency_s=config.reading.latency_s,
                cache_mb=config.reading.cache_mb,
                cache_folder=config.reading.cache_folder,
            )
            if any(len(part) for part in episodes)
            else None
            for episodes in (training, held_out)
        )
        if self.windows is None:
            raise UserError(f"{config.data}: no episode to train on: {sum(map(len, stores))} stored, episodes: {config.episodes}")
        features = None if key is None else np.concatenate([store.features(key) for store in stores])
        policy.fit_normalizers(self.windows.lowdim("state"), self.windows.lowdim("action"), features)
        self.learner = Imitation(policy, config.imitation)
        self.batches = Batches(
            self.windows, sampler(self.windows, config.reading, config.batch_size, rng), self.device, config.reading.workers
        )
        self.steps, self.seconds = 0, 0.0
        self._state_path, self._saved = config.out / "training.pt", 0.0
        self._recent: list[Metrics] = []
        self._resume(stores[0])

    def _see(self, stores: Sequence[EpisodeStore], encoder: CameraEncoder, settings: EncoderConfig) -> tuple[str, str | None]:
        """Where the encoder's weights come from, and the key of its features where it is frozen and they are cached."""
        config = self.config
        if not (settings.frozen or settings.weights or config.pretrain.tuned):
            return "from scratch, with the policy", None
        origin, metrics = give_weights(encoder, settings, stores, config.pretrain, config.seed, config.out / "encoder.safetensors")
        if metrics:
            self.folder.log(**metrics)
        if not settings.frozen:
            return f"{origin}, tuned with the policy", None
        return origin, [cache_features(store, encoder, settings) for store in stores][0]

    def run(self) -> tuple[int, float]:
        limit = None if self.config.minutes is None else 60 * self.config.minutes
        self._saved = self.seconds
        with self.batches, self.folder.timed("train"), deferred_interrupt() as self._interrupt:
            kind = type(self.learner.policy).__name__
            return fit(
                self.learner,
                self.batches,
                self.config.steps,
                limit,
                self.steps,
                self.seconds,
                self._on_step,
                kind,
            )

    def validate(self) -> Metrics:
        """Held-out episodes, averaged weights, always the same noise. action_error: mean distance of a drawn action, in units of
        the actions' half range; a weak sign of success, as every offline measure is."""
        policy = self.learner.policy
        if self.held_out is None or not isinstance(policy, ChunkPolicy):
            return {}
        policy.seed(self.config.seed)
        rows = np.linspace(0, len(self.held_out) - 1, min(len(self.held_out), 256)).astype(np.int64)
        batch = to_batch(self.held_out.read(rows)).to(self.device)
        with torch.no_grad():
            loss = policy.eval().loss(batch)[1]["loss"]
            return {"val_loss": loss, "val_action_error": _action_error(policy, batch)}

    def _on_step(self, step: int, seconds: float, metrics: Metrics) -> None:
        self._recent.append(metrics)
        if step % 100 == 0:
            means = {name: float(np.mean([m[name] for m in self._recent])) for name in metrics}
            self._recent.clear()
            self.folder.log(step=step, train_seconds=round(seconds, 2), **means, **(self.validate() if step % 1000 == 0 else {}))
        if seconds - self._saved >= self.config.save_every_s or self._interrupt.wanted:
            self._saved = seconds
            save_state(self._state_path, self._state(step, seconds))
        if self._interrupt.wanted:
            raise KeyboardInterrupt

    def _state(self, step: int, seconds: float) -> dict[str, Any]:
        return {
            "spec": self.learner.policy.spec.to_dict(),
            "learner": self.learner.state_dict(),
            "batches": self.batches.state_dict(),
            "steps": step,
            "seconds": seconds,
            "encoder": self.origin,
        }

    def _resume(self, store: EpisodeStore) -> None:
        if not self._state_path.exists():
            return
        state: Mapping[str, Any] = load_state(self._state_path, self.device)
        if state["spec"] != self.learner.policy.spec.to_dict():
            raise UserError(f"{self._state_path}: began on data of another robot than {store.path}; --overwrite starts anew")
        try:
            self.batches.load_state_dict(state["batches"])
        except ValueError as error:
            raise UserError(f"{self._state_path}: {error}; --overwrite starts anew") from error
        self.learner.load_state_dict(state["learner"])
        self.steps, self.seconds, self.origin = state["steps"], state["seconds"], state["encoder"]


def _action_error(policy: ChunkPolicy, batch: Batch) -> float:
    difference = policy.action_norm.normalize(policy.act(batch.obs)) - policy.action_norm.normalize(batch.action)
    return float(difference.norm(dim=-1)[~batch.pad].mean())


def _check(config: Config) -> None:
    for name, value, unit in (
        ("steps", config.steps, "updates"),
        ("batch_size", config.batch_size, "rows"),
        ("minutes", config.minutes, "min"),
    ):
        if value is not None and not value > 0:
            raise UserError(f"{name}: {value} {unit}; expected more than 0")
    require_at_least("pretrain.steps", config.pretrain.steps, 3, "updates")
    require_at_least("pretrain.batch_size", config.pretrain.batch_size, 1, "images")
    require_at_least("pretrain.max_frames", config.pretrain.max_frames, 1, "frames")
    if not 0 <= config.validation < 1:
        raise UserError(f"validation: {config.validation} of the episodes; expected 0 to below 1")
    if config.device != "auto":
        try:
            torch.empty(0, device=config.device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"device: '{config.device}' is not here ({str(error).splitlines()[0]}); valid: auto, cpu, cuda") from error
