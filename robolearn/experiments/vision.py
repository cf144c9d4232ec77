"""An encoder before it meets a policy: where its weights come from; a frozen one's features, computed once and kept with the frames."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import load_file

from robolearn.core.errors import UserError
from robolearn.core.types import Metrics
from robolearn.data.store import EpisodeStore
from robolearn.experiments.advice import enough_memory
from robolearn.experiments.encoder_file import load_weights, save_encoder, settings_that_matter
from robolearn.learners.pretraining import rows_of
from robolearn.learners.pretraining.keypoints import PretrainConfig, pretrain
from robolearn.models.encoders.base import CameraEncoder, EncoderConfig
from robolearn.models.encoders.cnn import SmallCnn

BATCH = 64  # frames encoded at once
FEATURES_VERSION = 2  # grows where this program computes other features from the same settings and weights


def give_weights(
    encoder: CameraEncoder,
    config: EncoderConfig,
    stores: Sequence[EpisodeStore],
    episodes: Sequence[np.ndarray],
    pretraining: PretrainConfig,
    seed: int,
    path: Path,
) -> tuple[str, Metrics]:
    """Fill an encoder: from config.weights, or else by self-supervision on frames of these `episodes`, indices for each store.

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
    known = [rows_of(store, chosen) if len(chosen) else np.zeros(0, np.int64) for store, chosen in zip(stores, episodes, strict=True)]
    ends = np.cumsum([len(rows) for rows in known])
    drawn = np.sort(rng.choice(ends[-1], min(int(ends[-1]), pretraining.max_frames), replace=False))
    parts = [rows[drawn[(drawn >= end - len(rows)) & (drawn < end)] - (end - len(rows))] for rows, end in zip(known, ends, strict=True)]
    frames = {camera: np.concatenate([s.frames(camera, part) for s, part in zip(stores, parts, strict=True)]) for camera in encoder.cameras}
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("encoder: learning from the dataset's images", total=1.0)
        metrics = pretrain(encoder, frames, pretraining, torch.Generator().manual_seed(seed), lambda p: bar.update(task, completed=p))
    save_encoder(path, encoder, config, {"objective": "keypoints", **metrics})
    return learned, metrics


def features_key(encoder: CameraEncoder, config: EncoderConfig) -> str:
    """Names the features of exactly these weights, cameras and preprocessing; another encoder's cache is never taken for this one's."""
    seen = {camera: (size, encoder.crop_size(camera)) for camera, size in encoder.cameras.items()}
    digest = hashlib.sha256(repr((FEATURES_VERSION, settings_that_matter(config), encoder.fixed, seen)).encode())
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
            with enough_memory(
                f"for {BATCH} frames at once", ["--device cpu takes longer", "a smaller encoder or encoder.size takes less"]
            ):
                found = encode(store, encoder, rows)
            bar.update(task, completed=int(rows[-1]) + 1)
            return found

        waiting = lambda: console.print(f"{store.url}: another process computes these features; waiting for it")  # noqa: E731
        store.feature_cache.fill(key, encoder.out_dim, block, about, waiting)
    return key


def device_named(name: str) -> torch.device:
    """UserError: not on this machine."""
    if name in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda")  # which one is left open: torchrun's processes each take their own
    try:
        device = torch.empty(0, device="cpu" if name == "auto" else name).device
        if device.type == "meta":
            raise RuntimeError("it computes nothing")
        return device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device: '{name}' is not here ({str(error).splitlines()[0]}); valid: auto, cpu, cuda") from error
