"""The cache of encoder outputs: whole or absent, gone on with, never of other episodes, one writer at a time."""

import multiprocessing
import os
import shutil
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest

from robolearn.core.errors import UserError
from robolearn.data import features
from robolearn.data.store import EpisodeStore


@pytest.fixture
def store(tmp_path, spec, make_episode, monkeypatch):
    """Three episodes, 60 rows; blocks of 8 rows."""
    monkeypatch.setattr(features, "BLOCK", 8)
    with EpisodeStore.create(tmp_path / "some.zarr", spec) as store:
        store.extend([make_episode(20, seed) for seed in range(3)])
        yield store


class Encoder:
    """Says of each row its number and twice that; remembers what it was asked, and may stop half-way."""

    def __init__(self, stop_at: int | None = None):
        self.asked: list[int] = []
        self.stop_at = stop_at

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        if self.stop_at is not None and rows[0] >= self.stop_at:
            raise KeyboardInterrupt
        self.asked += rows.tolist()
        return np.stack([rows, 2 * rows], axis=1).astype(np.float32)


def expected(rows: int) -> np.ndarray:
    return np.stack([np.arange(rows), 2 * np.arange(rows)], axis=1).astype(np.float32)


def names(store) -> list[str]:
    folder = store.path / "features"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_rows_are_asked_for_once_and_a_plain_npy_is_left(store):
    encoder = Encoder()
    store.feature_cache.fill("net", 2, encoder, {"weights": "w"})
    assert encoder.asked == list(range(60)) and names(store) == ["net.npy"]
    np.testing.assert_array_equal(store.features("net"), expected(60))
    np.testing.assert_array_equal(np.load(store.path / "features" / "net.npy"), expected(60))
    again = Encoder()
    EpisodeStore.open(store.path).feature_cache.fill("net", 2, again)
    assert again.asked == []


def test_only_new_rows_are_asked_for(store, make_episode):
    store.feature_cache.fill("net", 2, Encoder(), {"weights": "w"})
    store.append(make_episode(9, 7))
    assert store.feature_rows("net") == 60 and not store.has_features("net")
    encoder = Encoder()
    store.feature_cache.fill("net", 2, encoder, {"weights": "w"})
    assert encoder.asked == list(range(60, 69))
    np.testing.assert_array_equal(store.features("net"), expected(69))


def test_a_snapshot_reads_what_a_longer_one_wrote(store, make_episode):
    before = EpisodeStore.open(store.path)
    store.append(make_episode(9, 7))
    store.feature_cache.fill("net", 2, Encoder())
    encoder = Encoder()
    before.feature_cache.fill("net", 2, encoder)
    assert encoder.asked == [] and len(before.features("net")) == 60
    assert len(store.features("net")) == 69


@pytest.mark.parametrize("stop_at", [0, 8, 40])
def test_what_was_stopped_is_gone_on_with_and_never_seen_half(store, stop_at):
    with pytest.raises(KeyboardInterrupt):
        store.feature_cache.fill("net", 2, Encoder(stop_at))
    assert store.feature_rows("net") == 0
    assert names(store) == ([".net.part"] if stop_at == 40 else []), "of one block, which may not be on the disk, nothing is left"
    encoder = Encoder()
    store.feature_cache.fill("net", 2, encoder)
    assert encoder.asked == list(range(32 if stop_at == 40 else 0, 60))
    np.testing.assert_array_equal(store.features("net"), expected(60))
    assert names(store) == ["net.npy"]


def test_a_stopped_addition_leaves_the_rows_before_it(store, make_episode):
    store.feature_cache.fill("net", 2, Encoder())
    store.append(make_episode(40, 7))
    with pytest.raises(KeyboardInterrupt):
        store.feature_cache.fill("net", 2, Encoder(90))
    assert store.feature_rows("net") == 60 and names(store) == [".net.part", "net.npy"]
    store.append(make_episode(5, 8))
    encoder = Encoder()
    store.feature_cache.fill("net", 2, encoder)
    assert encoder.asked[0] in range(72, 90) and encoder.asked[-1] == 104
    np.testing.assert_array_equal(store.features("net"), expected(105))


def _filled(path, started) -> None:
    def encode(rows: np.ndarray) -> np.ndarray:
        if rows[0] >= 32:
            started.set()
            signal.pause()
        return Encoder()(rows)

    features.BLOCK = 8
    EpisodeStore.open(path).feature_cache.fill("net", 2, encode)


def test_killed_it_leaves_nothing_under_its_name_and_the_next_goes_on(store):
    context = multiprocessing.get_context("spawn")  # not forked: what other tests left running here holds locks
    started = context.Event()
    process = context.Process(target=_filled, args=(store.path, started))
    process.start()
    assert started.wait(60) and process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert names(store) == [".net.part"]
    encoder = Encoder()
    store.feature_cache.fill("net", 2, encoder)
    assert encoder.asked[0] == 24, "all blocks but the last, which a power cut could have torn"
    np.testing.assert_array_equal(store.features("net"), expected(60))


def test_two_at_once_do_the_work_once(store):
    inside, go_on, waited, asked = threading.Event(), threading.Event(), threading.Event(), Encoder()
    second = Encoder()

    def slow(rows: np.ndarray) -> np.ndarray:
        inside.set()
        assert go_on.wait(60)
        return asked(rows)

    def wait() -> None:
        waited.set()

    def other() -> None:
        EpisodeStore.open(store.path).feature_cache.fill("net", 2, second, waiting=wait)

    first = threading.Thread(target=store.feature_cache.fill, args=("net", 2, slow))
    first.start()
    assert inside.wait(60)
    follower = threading.Thread(target=other)
    follower.start()
    assert waited.wait(60)
    with pytest.raises(UserError, match="another process is writing it"):
        EpisodeStore.open(store.path).feature_cache.remove("net")
    go_on.set()
    first.join()
    follower.join()
    assert asked.asked == list(range(60)) and second.asked == []
    assert names(store) == ["net.npy"]


def rewritten(store, episodes, provenance=None) -> EpisodeStore:
    """Another store at the same place, the cache of the first one beside it: as with a URL, or files copied over."""
    kept = store.path.with_name("kept")
    shutil.copytree(store.path / "features", kept)
    store.close()
    shutil.rmtree(store.path)
    with EpisodeStore.create(store.path, store.spec, provenance or {}) as new:
        new.extend(episodes)
    shutil.copytree(kept, store.path / "features")
    return EpisodeStore.open(store.path)


def test_the_same_episodes_again_are_the_same(store, make_episode):
    store.feature_cache.fill("net", 2, Encoder())
    assert rewritten(store, [make_episode(20, seed) for seed in range(3)]).feature_rows("net") == 60


@pytest.mark.parametrize("change", ["meta", "action", "time", "length", "picture", "provenance"])
def test_features_of_other_episodes_are_none(store, make_episode, change):
    store.feature_cache.fill("net", 2, Encoder())
    episodes = [make_episode(20, seed) for seed in range(3)]
    second = episodes[1]
    match change:
        case "meta":
            episodes[1] = replace(second, meta={**second.meta, "success": False})
        case "action":
            episodes[1] = replace(second, action=second.action + 1e-3)
        case "time":
            episodes[1] = replace(second, time=second.time + 1.0)
        case "length":
            episodes[1] = make_episode(19, 1)
        case "picture":  # times and actions are the same: a redacted copy
            episodes = [replace(e, images={name: image // 2 for name, image in e.images.items()}) for e in episodes]
    new = rewritten(store, episodes, {"edit": "redact"} if change == "provenance" else None)
    assert new.feature_rows("net") == (0 if change in ("picture", "provenance") else 20), "those before the change are good"
    encoder = Encoder()
    new.feature_cache.fill("net", 2, encoder)
    assert encoder.asked[0] == (0 if change in ("picture", "provenance") else 20)
    np.testing.assert_array_equal(new.features("net"), expected(new.rows))


def test_a_part_of_other_episodes_is_not_gone_on_with(store, make_episode):
    with pytest.raises(KeyboardInterrupt):
        store.feature_cache.fill("net", 2, Encoder(40))
    new = rewritten(store, [make_episode(20, seed) for seed in (5, 6, 7)])
    encoder = Encoder()
    new.feature_cache.fill("net", 2, encoder)
    assert encoder.asked[0] == 0


def test_what_is_there_can_be_listed_and_removed(store, make_episode):
    store.feature_cache.fill("one", 2, Encoder(), {"cameras": ["front"]})
    with pytest.raises(KeyboardInterrupt):
        store.feature_cache.fill("two", 2, Encoder(40))
    store.append(make_episode(5, 7))
    found = store.feature_cache.files()
    assert [(c.key, c.rows, c.width, c.finished, dict(c.about)) for c in found] == [
        ("one", 60, 2, True, {"cameras": ["front"]}),
        ("two", 0, 0, False, {}),
    ]
    assert found[0].size == (store.path / "features" / "one.npy").stat().st_size
    store.feature_cache.remove("two")
    assert names(store) == ["one.npy"]
    with pytest.raises(UserError, match="no features 'two'; valid: one"):
        store.feature_cache.remove("two")
    store.feature_cache.remove("one")
    assert names(store) == [] and store.feature_cache.files() == []


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"junk" * 100])
def test_a_damaged_file_or_part_is_done_anew(store, damage):
    store.feature_cache.fill("net", 2, Encoder())
    for name in ("net.npy", ".net.part"):
        (store.path / "features" / name).write_bytes(damage)
    assert store.feature_rows("net") == 0
    store.feature_cache.fill("net", 2, Encoder())
    np.testing.assert_array_equal(store.features("net"), expected(60))


def test_wrong_answers_and_a_full_disk_leave_nothing(store, monkeypatch):
    with pytest.raises(ValueError, match=r"features of 8 rows are \(8, 3\); expected \(8, 2\)"):
        store.feature_cache.fill("net", 2, lambda rows: np.zeros((len(rows), 3), np.float32))
    assert names(store) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 100))
    with pytest.raises(UserError, match=r"net.npy: disk full: 0.0 MB are needed"):
        store.feature_cache.fill("net", 2, Encoder())
    assert names(store) == []
