"""An encoder before it meets a policy: where its weights come from; a frozen one's features, computed once and kept with the frames."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import load_file

from robolearn.core.config import to_dict
from robolearn.core.errors import UserError
from robolearn.core.types import Metrics
from robolearn.data.store import EpisodeStore
from robolearn.experiments.encoder_file import load_weights, save_encoder
from robolearn.learners.pretraining.keypoints import PretrainConfig, pretrain
from robolearn.models.augment import Augment
from robolearn.models.encoders.base import CameraEncoder, EncoderConfig
from robolearn.models.encoders.cnn import SmallCnn

BATCH = 64  # frames encoded at once
# Of an encoder's config: where the weights came from, what is trained, what only training does to images. Equal weights that see equal
# parts of the images give equal features, whatever these say. Every other field is part of the features' key.
_NO_MATTER = {"weights", "tune", "blocks", "rank", "per_camera"} | {f.name for f in fields(Augment)}


def give_weights(
    encoder: CameraEncoder, config: EncoderConfig, stores: Sequence[EpisodeStore], pretraining: PretrainConfig, seed: int, path: Path
) -> tuple[str, Metrics]:
    """Fill an encoder: from config.weights, or else by self-supervision on the stores' own frames.

    `path` keeps what was learned, so that an interrupted training goes on with it. Returns where the weights came
    from ("file:...", "hub:...", "self-supervised on this dataset") and what the pretraining measured.
    """
    learned = "self-supervised on this dataset"
    if config.weights:
        return load_weights(encoder, config.weights), {}
    if path.exists():
        encoder.load_state_dict(load_file(path))
        return learned, {}
    if not isinstance(encoder, SmallCnn):
        raise UserError(
            f"policy.encoder: a pretrained {type(encoder).__name__} needs weights (a local file or a hub model); "
            "`robolearn pretrain` makes some from the dataset's own images; train itself does so only for encoder.type cnn"
        )
    rng = np.random.default_rng(seed)
    ends = np.cumsum([store.rows for store in stores])
    rows = np.sort(rng.choice(ends[-1], min(int(ends[-1]), pretraining.max_frames), replace=False))
    parts = [rows[(rows >= end - store.rows) & (rows < end)] - (end - store.rows) for store, end in zip(stores, ends, strict=True)]
    frames = {camera: np.concatenate([s.frames(camera, part) for s, part in zip(stores, parts, strict=True)]) for camera in encoder.cameras}
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("encoder: learning from the dataset's images", total=1.0)
        metrics = pretrain(encoder, frames, pretraining, torch.Generator().manual_seed(seed), lambda p: bar.update(task, completed=p))
    save_encoder(path, encoder, config, {"objective": "keypoints", **metrics})
    return learned, metrics


def features_key(encoder: CameraEncoder, config: EncoderConfig) -> str:
    """Names the features of exactly these weights, cameras and preprocessing; another encoder's cache is never taken for this one's."""
    settings = {name: value for name, value in to_dict(config, object).items() if name not in _NO_MATTER}
    seen = {camera: (size, encoder.crop_size(camera)) for camera, size in encoder.cameras.items()}
    digest = hashlib.sha256(repr((settings, seen)).encode())
    for name, value in sorted(encoder.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"{type(encoder).__name__}-{digest.hexdigest()[:16]}"


def encode(store: EpisodeStore, encoder: CameraEncoder, rows: np.ndarray) -> np.ndarray:
    """float32 (N, E): what the robot will see at these rows."""
    device = next(encoder.parameters()).device
    features = np.empty((len(rows), encoder.out_dim), np.float32)
    encoder.eval()
    with torch.no_grad():
        for start in range(0, len(rows), BATCH):
            chosen = rows[start : start + BATCH]
            frames = {c: torch.from_numpy(store.frames(c, chosen)).permute(0, 3, 1, 2).unsqueeze(1).to(device) for c in encoder.cameras}
            features[start : start + len(chosen)] = encoder(frames)[:, 0].float().cpu().numpy()
    return features


def cache_features(store: EpisodeStore, encoder: CameraEncoder, config: EncoderConfig) -> str:
    """Encode the rows of `store` that have no features yet, as the robot will at run time; returns the key to read them by.

    The same weights in another batch size give the same features up to the order of float32 sums (about 1e-6).
    """
    key, console = features_key(encoder, config), Console(stderr=True)
    if (done := store.feature_rows(key)) == store.rows:
        return key
    about = {"cameras": list(encoder.cameras), "weights": config.weights}
    few = store.rows - done < 500  # one more episode is not worth a bar
    with Progress(console=console, disable=few) as bar:
        task = bar.add_task("encoder: features of every frame", total=store.rows)

        def block(rows: np.ndarray) -> np.ndarray:
            found = encode(store, encoder, rows)
            bar.update(task, completed=int(rows[-1]) + 1)
            return found

        waiting = lambda: console.print(f"{store.url}: another process computes these features; waiting for it")  # noqa: E731
        store.feature_cache.fill(key, encoder.out_dim, block, about, waiting)
    return key


def device_named(name: str) -> torch.device:
    """UserError: not on this machine."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device: '{name}' is not here ({str(error).splitlines()[0]}); valid: auto, cpu, cuda") from error
