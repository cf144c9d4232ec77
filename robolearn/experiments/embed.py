"""Compute a frozen encoder's features of every frame once, into the store's cache; list and remove what is there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from robolearn.core.checkpoint import read_header
from robolearn.core.errors import UserError
from robolearn.data.store import EpisodeStore
from robolearn.data.windows import restrict
from robolearn.experiments.encoder_file import load_weights
from robolearn.experiments.vision import cache_features, device_named, features_key
from robolearn.models.encoders.base import EncoderConfig, Sizes


@dataclass(frozen=True)
class Config:
    """`train` with the same encoder and tune: none finds these features by itself. Killed, the same command goes on."""

    data: Path
    """The store; a path, or a URL (s3://, gs://, https://), whose features are kept in the user's cache folder."""
    encoder: EncoderConfig | None = None
    """--encoder.type NAME and --encoder.weights FILE or hub address; it is frozen, whatever its tune says."""
    checkpoint: Path | None = None
    """In its place: a policy's file, whose encoder it is."""
    cameras: tuple[str, ...] = ()
    """Which cameras the encoder sees; empty: all, or the policy's."""
    device: str = "auto"
    """auto (cuda where there is one), cpu, cuda, cuda:1, ..."""
    threads: int = 0
    """CPU threads of torch; 0: its own choice."""
    list: bool = False
    """Only say what is in the cache."""
    remove: str = ""
    """Only delete: a key from --list, `stale` (of other episodes, or unfinished) or `all`."""


def run(config: Config) -> None:
    """Encode what is not encoded yet, or look after the cache."""
    store = EpisodeStore.open(config.data)
    if config.list and config.remove:
        raise UserError("remove: not together with list")
    if config.list:
        _list(store)
    elif config.remove:
        _remove(store, config.remove)
    else:
        _embed(config, store)


def _embed(config: Config, store: EpisodeStore) -> None:
    if (config.encoder is None) == (config.checkpoint is None):
        raise UserError("encoder: give either --encoder.type and --encoder.weights, or --checkpoint with a policy's file")
    if not store.rows:
        raise UserError(f"{config.data}: holds no episode yet")
    if config.threads:
        torch.set_num_threads(config.threads)
    device = device_named(config.device)
    settings, cameras = _asked(config, store)
    encoder = settings.build(cameras)
    load_weights(encoder, settings.weights)
    before = store.feature_rows(features_key(encoder, settings))
    key = cache_features(store, encoder.to(device), settings)
    print(f"{key}: {store.rows} rows of {encoder.out_dim} numbers in {config.data}, {store.rows - before} of them new")


def _asked(config: Config, store: EpisodeStore) -> tuple[EncoderConfig, Sizes]:
    """The encoder, frozen, and what it looks at."""
    settings, cameras = config.encoder, config.cameras
    if config.checkpoint is not None:
        header = read_header(config.checkpoint)
        settings = getattr(header.config, "encoder", None)
        if not isinstance(settings, EncoderConfig):
            raise UserError(f"checkpoint: {config.checkpoint}: this policy has no encoder")
        settings = replace(settings, weights=str(config.checkpoint))
        if set(cameras) - set(header.spec.cameras):
            raise UserError(f"cameras: {', '.join(cameras)}; the policy's encoder sees {', '.join(header.spec.cameras)}")
        cameras = tuple(header.spec.cameras)
    assert settings is not None
    if not settings.weights:
        raise UserError("encoder.weights: empty; expected a file (robolearn pretrain makes one), or an address on a hub")
    seen = restrict(store.spec, cameras or None).cameras
    if not seen:
        raise UserError(f"{config.data}: robot '{store.spec.name}' has no camera, so there is nothing to see")
    return replace(settings, tune="none"), seen


def _list(store: EpisodeStore) -> None:
    table = Table(title=f"features kept with {store.url}", title_justify="left")
    for head in ("key", "rows", "of", "numbers", "MB", "cameras", "weights"):
        table.add_column(head, no_wrap=head in ("key", "rows"), justify="right" if head in ("rows", "of", "numbers", "MB") else "left")
    for cached in store.feature_cache.files():
        rows = str(cached.rows) if cached.finished else "unfinished"
        about = [", ".join(cached.about.get("cameras", ())), str(cached.about.get("weights", ""))]
        row = (cached.key, rows, str(store.rows), str(cached.width or ""), f"{cached.size / 1e6:.1f}", *about)
        table.add_row(*map(Text, row))
    Console().print(table)


def _remove(store: EpisodeStore, what: str) -> None:
    files = store.feature_cache.files()
    if what in ("all", "stale"):
        good = {cached.key for cached in files if cached.finished and cached.rows}
        keys = [cached.key for cached in files if what == "all" or cached.key not in good]
    else:
        keys = [what]
    for key in dict.fromkeys(keys):
        try:
            store.feature_cache.remove(key)
        except ValueError as error:
            raise UserError(f"remove: {error}") from error
        print(f"removed {key}")
    if not keys:
        print("nothing to remove")
