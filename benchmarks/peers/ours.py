"""Our store. --variant CODEC, with +ram or +mapped (all frames decoded and kept in RAM or in a memory-mapped file), +ram=MB, +numpy.

numpy: as `Windows` reads them, without torch, whose import alone takes 280 MB.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import demos
import numpy as np
from memory_map import read_ahead
from series import AHEAD, BATCH, SEED, Case, Contestant, disk_bytes, serve

WATCHED = 48  # frames that the codec table is about: whole clips
EVERYTHING_MB = 1e6


class Ours(Contestant):
    name = "ours"

    def __init__(self, data: Path, variant: str) -> None:
        super().__init__(data, variant)
        from robolearn.data import EpisodeStore, Sampler, Windows

        self._codec, *extras = variant.split("+")
        self._extra = {name: value for name, _, value in (extra.partition("=") for extra in extras)}
        self._store, self._sampler, self._windows = EpisodeStore, Sampler, Windows
        self.versions = {"numpy": np.__version__}
        if "numpy" not in self._extra:
            import torch

            from robolearn.data.loader import Batches

            self._batches, self.versions["torch"] = Batches, torch.__version__

    @property
    def folder(self) -> Path:
        return self.data / f"ours-{self._codec}"

    def prepare(self) -> dict[str, Any]:
        self.folder.mkdir()
        begun = time.perf_counter()
        with self._store.create(self.folder / "demos.zarr", spec(), compression=self._codec) as store:
            for episode in demos.episodes(self.data):
                store.append(as_episode(episode))
        written = {"write_s": time.perf_counter() - begun, "image_bytes": disk_bytes(self.folder / "demos.zarr" / "images")}
        return written | codec_numbers(self._codec, self.data)

    def batches(self, case: Case, workers: int) -> Iterator[Any]:
        cache_mb = float(self._extra.get("ram") or EVERYTHING_MB) if self._extra.keys() & {"ram", "mapped"} else 0
        held_in = self.folder / "held" if "mapped" in self._extra else None
        store = self._store.open(self.folder / "demos.zarr")
        windows = self._windows(store, case.history, case.horizon, cache_mb=cache_mb, cache_folder=held_in)
        sampler = self._sampler(len(windows), BATCH, np.random.default_rng(SEED))
        if "numpy" in self._extra:
            return read_ahead(windows.read, sampler, workers)
        return self._batches(windows, sampler, workers=workers, prefetch=AHEAD)


def spec() -> Any:
    from hardware.types import ArraySpec, RobotSpec

    def unlimited(name: str, width: int) -> ArraySpec:
        return ArraySpec(tuple(f"{name}_{i}" for i in range(width)), ("",) * width, (-np.inf,) * width, (np.inf,) * width)

    cameras: dict[str, tuple[int, int]] = dict.fromkeys(demos.CAMERAS, (84, 84))
    state = {name: unlimited(name, width) for name, width in demos.STATE.items()}
    return RobotSpec("demos", cameras, state, unlimited("action", demos.ACTION), "ee_delta", demos.RATE_HZ)


def as_episode(found: dict[str, np.ndarray]) -> Any:
    from hardware.types import Source
    from robolearn.data.episode import Episode

    steps = len(found["actions"])
    return Episode(
        time=np.arange(steps) / demos.RATE_HZ,
        images={name: found[name] for name in demos.CAMERAS},
        state={name: found[name] for name in demos.STATE},
        action=found["actions"],
        requested_action=found["actions"],
        reward=np.zeros(steps, np.float32),
        terminal=np.zeros(steps, bool),
        source=np.full(steps, Source.SCRIPTED, np.uint8),
        meta={"success": None},
    )


def codec_numbers(name: str, data: Path) -> dict[str, Any]:
    """Milliseconds a frame on one thread and the peak signal-to-noise ratio [dB] (None: lossless), of the first frames of a camera."""
    from robolearn.data.codecs import frame_codec

    codec = frame_codec(name)
    frames = np.array(demos.raw(data, demos.CAMERAS[0])[:WATCHED])
    chunks = [frames[i : i + codec.rows] for i in range(0, len(frames), codec.rows)]
    decoded = np.empty_like(frames)
    encode_s, decode_s = [], []
    for _ in range(5):
        begun = time.perf_counter()
        coded = [codec.encode(chunk) for chunk in chunks]
        between = time.perf_counter()
        codec.decode(coded, decoded)
        encode_s.append(between - begun)
        decode_s.append(time.perf_counter() - between)
    error = decoded.astype(float) - frames
    return {
        "encode_ms": 1e3 * float(np.median(encode_s)) / len(frames),
        "decode_ms": 1e3 * float(np.median(decode_s)) / len(frames),
        "psnr_db": 10 * float(np.log10(255**2 / np.mean(error**2))) if error.any() else None,
        "lossless": codec.lossless,
    }


if __name__ == "__main__":
    serve(Ours)
