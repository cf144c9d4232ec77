"""A frozen encoder: where its weights come from, and its features, computed once and kept beside the frames."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import load_file, save

from robolearn.core.config import to_dict
from robolearn.core.errors import UserError
from robolearn.core.files import write_atomic
from robolearn.core.types import Metrics
from robolearn.data.store import EpisodeStore
from robolearn.models.encoders.base import CameraEncoder, EncoderConfig
from robolearn.models.encoders.cnn import SmallCnn
from robolearn.models.encoders.selfsupervised import PretrainConfig, pretrain

BATCH = 64  # frames encoded at once


def give_weights(
    encoder: CameraEncoder, config: EncoderConfig, stores: Sequence[EpisodeStore], pretraining: PretrainConfig, seed: int, path: Path
) -> tuple[str, Metrics]:
    """Fill an encoder: from config.weights, or else by self-supervision on the stores' own frames.

    `path` keeps what was learned, so that an interrupted training goes on with it. Returns where the weights came
    from ("file:...", "hub:...", "self-supervised on this dataset") and what the pretraining measured.
    """
    learned = "self-supervised on this dataset"
    if config.weights:
        return encoder.load_weights(config.weights), {}
    if path.exists():
        encoder.load_state_dict(load_file(path))
        return learned, {}
    if not isinstance(encoder, SmallCnn):
        raise UserError(
            f"policy.encoder: a pretrained {type(encoder).__name__} needs weights (a local file or a hub model); "
            "only robolearn.models.encoders.cnn:SmallCnnConfig learns from the dataset's own images"
        )
    rng = np.random.default_rng(seed)
    ends = np.cumsum([store.rows for store in stores])
    rows = np.sort(rng.choice(ends[-1], min(int(ends[-1]), pretraining.max_frames), replace=False))
    parts = [rows[(rows >= end - store.rows) & (rows < end)] - (end - store.rows) for store, end in zip(stores, ends, strict=True)]
    frames = {camera: np.concatenate([s.frames(camera, part) for s, part in zip(stores, parts, strict=True)]) for camera in encoder.cameras}
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("encoder: learning from the dataset's images", total=1.0)
        metrics = pretrain(encoder, frames, pretraining, torch.Generator().manual_seed(seed), lambda p: bar.update(task, completed=p))
    write_atomic(path, save({name: value.cpu().contiguous() for name, value in encoder.state_dict().items()}))
    return learned, metrics


def features_key(encoder: CameraEncoder, config: EncoderConfig) -> str:
    """Names the features of exactly these weights; another encoder's cache is never taken for this one's."""
    digest = hashlib.sha256(repr((to_dict(config, object), dict(encoder.cameras))).encode())
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return f"{type(encoder).__name__}-{digest.hexdigest()[:16]}"


def cache_features(store: EpisodeStore, encoder: CameraEncoder, config: EncoderConfig) -> str:
    """Encode the rows of `store` that have no features yet, as the robot will at run time; returns the key to read them by.

    The same weights in another batch size give the same features up to the order of float32 sums (about 1e-6).
    """
    key, encoder = features_key(encoder, config), encoder.eval()
    done = store.feature_rows(key)
    if done == store.rows:
        return key
    device = next(encoder.parameters()).device
    features = np.empty((store.rows - done, encoder.out_dim), np.float32)
    few = store.rows - done < 500  # one more episode is not worth a bar
    with Progress(console=Console(stderr=True), disable=few) as bar, torch.no_grad():
        for start in bar.track(range(done, store.rows, BATCH), description="encoder: features of every frame"):
            rows = np.arange(start, min(start + BATCH, store.rows))
            frames = {c: torch.from_numpy(store.frames(c, rows)).permute(0, 3, 1, 2).unsqueeze(1).to(device) for c in encoder.cameras}
            features[start - done : start - done + len(rows)] = encoder(frames)[:, 0].cpu().numpy()
    store.write_features(key, features)
    return key
