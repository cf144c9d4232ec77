"""What caching a frozen encoder's features saves: one training update from images and from the cache, the same encoder, in one run.

    robolearn ingest --path pusht_cchi_v7_replay.zarr --out runs/pusht.zarr
    python benchmarks/features.py --data runs/pusht.zarr

An update reads a batch, and learns from it; from images it encodes them first. The policy is the default diffusion policy, the encoders
begin at random (what they compute costs the same). Both in turns, medians. Encoding the whole store once (`robolearn embed`) is timed, too,
and stays in its cache.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from robolearn.core.types import Batch
from robolearn.data.loader import Batches
from robolearn.data.sampling import Sampler
from robolearn.data.store import EpisodeStore
from robolearn.data.windows import Windows
from robolearn.experiments.vision import cache_features
from robolearn.learners.imitation import Imitation
from robolearn.models.encoders.base import EncoderConfig
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.models.encoders.resnet import ResNetConfig
from robolearn.policies.diffusion import DiffusionConfig

ENCODERS: dict[str, EncoderConfig] = {
    "cnn": SmallCnnConfig(tune="none", keypoints=32, crop=1.0),
    "resnet-18": ResNetConfig(tune="none", depth=18),
    "resnet-50": ResNetConfig(tune="none", depth=50),
}


@dataclass(frozen=True)
class Config:
    data: Path = Path("runs/pusht.zarr")
    encoders: tuple[str, ...] = tuple(ENCODERS)
    batch: int = 64
    rounds: int = 5
    calls: int = 4
    """Updates of a round, each side."""
    threads: int = 2


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    store = EpisodeStore.open(config.data)
    print(f"\nbatch {config.batch}, {config.rounds} rounds of {config.calls} updates, {config.threads} threads, {store.rows} rows")
    print("\n| encoder | all features once, s | ms per update from images | from the cache | ratio |")
    print("|---|---|---|---|---|")
    for name in config.encoders:
        torch.manual_seed(0)
        settings = ENCODERS[name]
        policy = DiffusionConfig(encoder=settings, state=("agent_pos",)).build(store.spec)
        assert policy.encoder is not None
        policy.encoder.eval()
        begun = time.perf_counter()
        key = cache_features(store, policy.encoder, settings)
        once = time.perf_counter() - begun
        state = tuple(policy.spec.state)
        cached = Windows(store, policy.history, policy.horizon, state_keys=state, images=False, features_key=key)
        seen = Windows(store, policy.history, policy.horizon, state_keys=state)
        policy.fit_normalizers(cached.lowdim("state"), cached.lowdim("action"), store.features(key))
        learner = Imitation(policy)
        times: dict[str, list[float]] = {"images": [], "cache": []}
        sides = {side: batches(windows, config.batch) for side, windows in (("images", seen), ("cache", cached))}
        for _ in range(config.rounds + 1):
            for side, stream in sides.items():
                times[side].append(measure(learner, stream, config.calls))
        images, cache = (statistics.median(times[side][1:]) for side in ("images", "cache"))
        note = f"{once:.0f}" if once > 1 else "found"
        print(f"| {name} | {note} | {images:.0f} | {cache:.0f} | **{images / cache:.1f}x** |", flush=True)


def batches(windows: Windows, size: int) -> Batches:
    return Batches(windows, Sampler(len(windows), size, np.random.default_rng(0)))


def measure(learner: Imitation, stream: Batches, calls: int) -> float:
    """Milliseconds per update, reading included."""
    begun = time.perf_counter()
    for _ in range(calls):
        batch: Batch = next(stream)
        learner.update(batch)
    return 1e3 * (time.perf_counter() - begun) / calls


if __name__ == "__main__":
    main(tyro.cli(Config))
