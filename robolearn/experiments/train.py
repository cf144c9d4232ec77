"""Learn a policy from a store of episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from rich.console import Console

from robolearn.core.checkpoint import load_policy, save_checkpoint
from robolearn.core.errors import UserError
from robolearn.core.run import Run
from robolearn.data.episode import not_failed
from robolearn.data.goals import Goals
from robolearn.data.loader import Batches
from robolearn.data.store import EpisodeStore
from robolearn.data.windows import Windows, split
from robolearn.experiments import selection
from robolearn.experiments.advice import advised
from robolearn.experiments.goals import goals_for, with_language
from robolearn.experiments.reading import open_stores, sampler
from robolearn.experiments.train_config import Config, check
from robolearn.experiments.training import Training, validate
from robolearn.experiments.vision import cache_features, device_named, give_weights
from robolearn.learners.imitation import Imitation
from robolearn.learners.memory import memorize
from robolearn.learners.ranks import Ranks
from robolearn.models.augment import Augment
from robolearn.models.encoders.base import CameraEncoder, EncoderConfig
from robolearn.policies.chunk import ChunkPolicy

__all__ = ["Config", "Imitation", "cache_features", "run"]

CHOICE = "the last step's averaged weights; no checkpoint was selected by a score"
MEMORY = "every training window, remembered; nothing was selected by a score"
# What changes the way and not the result (up to the order of sums): it may differ when a training goes on.
HOW = (
    "imitation.accumulate",
    "imitation.compile",
    "reading.cache_mb",
    "reading.workers",
    "reading.stride",  # was an option once; folders of then say 1
    "device",  # its rounding and its dropout are as good
    "threads",
    "save_every_s",
    "keep_last",
    "keep_best",
    "wandb",
)


@dataclass(frozen=True)
class Product:
    """What a training ends with."""

    policy: Any
    steps: int
    seconds: float
    origin: str
    choice: str
    facts: dict[str, Any]


def run(config: Config) -> None:
    """Train, or go on training, or say that it is done. Under torchrun every process calls it; the first one writes."""
    ranks = Ranks.join(device_named(config.device))
    console = Console(stderr=True, quiet=not ranks.leads)
    with ranks.in_turn():
        folder = Run(config.out, config, config.overwrite, how=HOW, writes=ranks.leads)
        finished = folder.finished()
    if finished:
        console.print(f"{config.out}: already trained ({folder.result().get('steps')} steps)")
    else:
        _run(config, folder, ranks, console)
    ranks.leave()


def _run(config: Config, folder: Run, ranks: Ranks, console: Console) -> None:
    check(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.batch_size % ranks.count:
        raise UserError(f"batch_size: {config.batch_size} rows; expected a multiple of the {ranks.count} processes")
    stores = open_stores(config.data, config.reading)
    settings = with_language(config.policy)
    torch.manual_seed(config.seed)  # the initial weights, the same on all ranks
    with advised(config):
        policy = settings.build(stores[0].spec).to(ranks.device)
    _check_policy(config, policy)
    if policy.encoder is None and (cameras := stores[0].spec.cameras):
        unseen = ", ".join(cameras)
        console.print(f"no encoder: the policy sees states only, not the cameras ({unseen}); configs/train/ has examples with one")
    if policy.config.encoder is not None and policy.config.encoder.frozen and (idle := _idle(policy.config.encoder)):
        console.print(f"frozen encoder: its random {idle} is left out: features of the centre of each image are cached")
    with folder, advised(config):
        product = _learn(config, folder, stores, policy, ranks)
        if ranks.leads:
            meta = {"data": str(config.data), "steps": product.steps, "seconds": product.seconds, "seed": config.seed}
            meta |= {"encoder": product.origin, "choice": product.choice}
            save_checkpoint(config.out / "policy.pt", product.policy, settings, meta)
        folder.finish(
            steps=product.steps,
            train_seconds=round(product.seconds, 1),
            encoder=product.origin,
            parameters=sum(p.numel() for p in policy.parameters()),
            trainable=sum(p.numel() for p in policy.parameters() if p.requires_grad),
            device=str(ranks.device),
            processes=ranks.count,
            checkpoint="policy.pt",
            choice=product.choice,
            **product.facts,
        )
        if ranks.leads:
            (config.out / "training.pt").unlink(missing_ok=True)
    spent = f"{product.seconds / 60:.1f} minutes" if product.seconds >= 60 else f"{product.seconds:.0f} s"
    console.print(f"{config.out / 'policy.pt'}: {product.steps} steps in {spent}; encoder: {product.origin}")


def _learn(config: Config, folder: Run, stores: Sequence[EpisodeStore], policy: ChunkPolicy, ranks: Ranks) -> Product:
    """Everything between the stores and the policy."""
    rng = np.random.default_rng(config.seed)
    training, held_out = split(stores, config.validation, rng)
    if config.episodes == "successful":
        training = [
            np.array([i for i in part if not_failed(store.meta(int(i)))], dtype=np.int64)
            for store, part in zip(stores, training, strict=True)
        ]
    if not any(len(part) for part in training):
        raise UserError(f"{config.data}: no episode to train on: {sum(map(len, stores))} stored, episodes: {config.episodes}")
    origin, key = "none", None
    if policy.encoder is not None and policy.config.encoder is not None:
        with folder.timed("encoder"), ranks.in_turn():
            origin, key = _see(config, folder, stores, training, policy.encoder, policy.config.encoder)
    goals = goals_for(policy.config, config.reading.goal, stores)
    windows = _windows(config, stores, policy, training, key, goals)
    unseen = _windows(config, stores, policy, held_out, key, goals) if any(len(part) for part in held_out) else None
    actions = windows.chunks() if policy.space.relative else windows.lowdim("action")
    policy.fit_normalizers(windows.lowdim("state"), actions, None if key is None else _features(windows, key))
    # What came before drew more or fewer numbers, depending on what was found done; and no two ranks may draw the same noise.
    torch.manual_seed(_noise_seed(config.seed, ranks.rank))
    policy.seed(config.seed if ranks.leads else _noise_seed(config.seed, ranks.rank))
    policy.prepare()
    if policy.learns_by == "memory":
        with folder.timed("train"):
            memorize(policy, windows, config.batch_size, ranks.device, quiet=not ranks.leads)
        facts = {} if unseen is None else validate(policy, unseen, config)
        return Product(policy, 0, folder.stages["train"], origin, MEMORY, facts)
    learner = Imitation(policy, config.imitation, ranks)
    draw = sampler(windows, config.reading, config.batch_size, rng, ranks.rank, ranks.count)
    batches = Batches(windows, draw, ranks.device, config.reading.workers)
    course = Training(config, folder, learner, batches, unseen, origin, {"data": str(config.data), "seed": config.seed}, key)
    course.resume(str(stores[0].path))
    course.run()
    product, choice, facts = learner.collect(), CHOICE, {}
    if course.selection is not None and ranks.leads:
        with folder.timed("select"):
            step, selected = course.selection.finish()
        product = load_policy(course.checkpoints.path(step), device=ranks.device)
        choice, facts = selection.sentence(selected), {"selected": selected}
    if unseen is not None and ranks.leads:
        facts |= validate(product, unseen, config)
    return Product(product, course.steps, course.seconds, course.origin, choice, facts)


def _windows(
    config: Config, stores: Sequence[EpisodeStore], policy: ChunkPolicy, episodes: Sequence, key: str | None, goals: Goals | None
) -> Windows:
    """What the policy is shown of these episodes. key: of a frozen encoder's features."""
    return Windows(
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
        goals=goals,
        latency_s=config.reading.latency_s,
        cache_mb=config.reading.cache_mb,
        cache_folder=config.reading.cache_folder,
    )


def _features(windows: Windows, key: str) -> np.ndarray:
    """Of the windows' rows only: what is held out takes no part in the units either."""
    starts = np.cumsum([0, *(store.rows for store in windows.stores)])
    own = zip(windows.stores, windows.groups(), starts, strict=False)
    return np.concatenate([store.features(key)[windows.rows[group] - start] for store, group, start in own])


def _see(
    config: Config, folder: Run, stores: Sequence[EpisodeStore], training: Sequence, encoder: CameraEncoder, settings: EncoderConfig
) -> tuple[str, str | None]:
    """Where the encoder's weights come from, and the key of its features where it is frozen and they are cached."""
    if not (settings.frozen or settings.weights or config.pretrain.tuned):
        return "from scratch, with the policy", None
    origin, metrics = give_weights(encoder, settings, stores, training, config.pretrain, config.seed, config.out / "encoder.safetensors")
    if metrics:
        folder.log(**metrics)
    if not settings.frozen:
        return f"{origin}, tuned with the policy", None
    return origin, [cache_features(store, encoder, settings) for store in stores][0]


def _check_policy(config: Config, policy: ChunkPolicy) -> None:
    """UserError for options that this policy cannot follow."""
    frozen = policy.config.encoder is None or policy.config.encoder.frozen
    if config.reading.latency_s and frozen:
        raise UserError("reading.latency_s: needs an encoder that is tuned (policy.encoder.tune: full): features are kept row by row")
    if config.select.every:
        selection.check(config.select, policy)


def _idle(encoder: EncoderConfig) -> str:
    """The random changes of images that are asked for."""
    off = Augment()
    asked = (encoder, *encoder.per_camera.values())
    return ", ".join(f.name for f in fields(Augment) if any(getattr(one, f.name) != getattr(off, f.name) for one in asked))


def _noise_seed(seed: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, rank]).generate_state(1, np.uint64)[0])
