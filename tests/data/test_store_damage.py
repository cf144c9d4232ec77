"""What a store makes of damage, nonsense and odd surroundings: one line, and nothing is written over."""

from __future__ import annotations

import json
import os
import resource
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zstandard

from hardware.types import ArraySpec
from robolearn.core.errors import UserError
from robolearn.data.codecs import with_checksum
from robolearn.data.store import EpisodeStore


@pytest.fixture
def store(tmp_path, spec):
    with EpisodeStore.create(tmp_path / "d.zarr", spec, {"by": "test"}) as store:
        yield store


def test_a_store_without_its_journal_is_damaged_not_empty(store, make_episode):
    """As an empty one the next episode would be written over the first."""
    store.append(make_episode(5))
    store.close()
    (store.path / "episodes.jsonl").unlink()
    for mode in ("r", "a"):
        with pytest.raises(UserError, match="damaged store: episodes.jsonl is missing"):
            EpisodeStore.open(store.path, mode)


def absurd(store, number: str) -> None:
    """The same number in the journal and in every array."""
    journal = store.path / "episodes.jsonl"
    journal.write_text(journal.read_text().replace('"length": 5', f'"length": {number}'))
    for path in store.path.rglob("zarr.json"):
        data = json.loads(path.read_text())
        if "shape" in data:
            data["shape"][0] = 10**40
            path.write_text(json.dumps(data))


@pytest.mark.parametrize("number", ["9" * 30, "9" * 13, "1e999", '"5"', "9" * 5000])
def test_absurd_numbers_are_damage_in_one_line(store, make_episode, number):
    store.extend([make_episode(5), make_episode(6)])
    absurd(store, number)
    with pytest.raises(UserError, match="damaged store: ") as caught:
        EpisodeStore.open(store.path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("time/zarr.json", lambda text: text.replace("256", "Infinity", 1)),
        ("time/zarr.json", lambda text: text.replace('"little"', '"big"')),
        ("time/zarr.json", lambda text: "[" * 100_000),
        ("time/zarr.json", lambda text: "[]"),
        ("images/front/zarr.json", lambda text: text.replace('"level": -1', '"level": "x"')),
        ("zarr.json", lambda text: text.replace("   12,", "   0,")),
        ("zarr.json", lambda text: text.replace("   12,", "   -3,")),
        ("episodes.jsonl", lambda text: "[" * 100_000 + "\n" + text),
        ("episodes.jsonl", lambda text: text.replace('"meta"', '"image_time": ["left"], "meta"')),
        ("episodes.jsonl", lambda text: text.replace('"meta"', '"image_time": [{}], "meta"')),
    ],
)
def test_nonsense_in_any_file_is_damage_in_one_line(store, make_episode, name, change):
    store.extend([make_episode(5), make_episode(6)])
    path = store.path / name
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match="damaged store: ") as caught:
        EpisodeStore.open(store.path)
    assert "\n" not in str(caught.value)


def test_a_writer_refuses_files_of_another_size(tmp_path, store, make_episode):
    """It would write over rows of finished episodes that share them."""
    store.append(make_episode(5))
    store.close()
    path = store.path / "time" / "zarr.json"
    data = json.loads(path.read_text())
    data["chunk_grid"]["configuration"]["chunk_shape"] = [512]
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match="array time: files of 512 rows are read, not written"):
        EpisodeStore.open(store.path, "a")


def test_a_file_or_an_unreadable_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file: not a robolearn store"):
        EpisodeStore.open(tmp_path / "file")
    (tmp_path / "odd" / "zarr.json").mkdir(parents=True)
    with pytest.raises(UserError, match=r"odd/zarr.json: cannot be read: Is a directory"):
        EpisodeStore.open(tmp_path / "odd")


def test_a_store_is_not_made_at_a_url_nor_of_an_impossible_spec(tmp_path, spec, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("http://example.invalid/x", Path("http://example.invalid/x")):
        with pytest.raises(UserError, match="an object store is read only"):
            EpisodeStore.create(place, spec)
    for size in ((0, 4), (4, -1)):
        with pytest.raises(UserError, match=r"cameras: front is .* \[px\]; expected at least 1"):
            EpisodeStore.create(tmp_path / "x", replace(spec, cameras={"front": size}))
    with pytest.raises(UserError, match="state: q has no elements"):
        EpisodeStore.create(tmp_path / "x", replace(spec, state={"q": ArraySpec((), (), (), ())}))
    assert list(tmp_path.iterdir()) == []


def test_a_path_may_be_written_in_any_way_and_the_program_may_move(tmp_path, spec, make_episode, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with EpisodeStore.create("my data ü.zarr", spec) as store:
        store.append(make_episode(5))
    (tmp_path / "link").symlink_to("my data ü.zarr")
    opened = [EpisodeStore.open(place) for place in ("my data ü.zarr/", Path("link"), "./link", str(tmp_path / "link"))]
    monkeypatch.chdir("/")
    assert [len(store.read(0)) for store in opened] == [5, 5, 5, 5]


def test_no_more_files_to_open_is_no_end(store, make_episode, monkeypatch):
    for seed in range(12):
        store.append(make_episode(3, seed))
    opened = EpisodeStore.open(store.path)
    rows = np.arange(opened.rows)
    expected = [opened.frames(name, rows) for name in ("front", "wrist")]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    again = EpisodeStore.open(store.path)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 6, hard))
    try:
        found = [again.frames(name, rows) for name in ("front", "wrist")]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    np.testing.assert_equal(found, expected)


def test_a_stretch_of_nothing_is_empty(store, make_episode):
    store.append(make_episode(9))
    assert len(store.read(0, 5, 2)) == 0


def test_meta_without_end_is_refused(store, make_episode):
    endless = {}
    endless["again"] = endless
    with pytest.raises(UserError, match="recursion"):
        store.append(replace(make_episode(3), meta=endless))


def test_damaged_features_are_no_features(store, make_episode):
    store.append(make_episode(9))
    store.write_features("net", np.ones((9, 2), np.float32))
    path = store.path / "features" / "net.npy"
    for left in (0, 60, 140):
        path.write_bytes(path.read_bytes()[:left])
        assert not store.has_features("net")
        store.write_features("net", np.ones((9, 2), np.float32))


def test_a_file_that_claims_more_than_its_rows_is_damage(store, make_episode):
    """A checksum keeps no bomb out: memory must not be taken on a header's word."""
    store.append(make_episode(5))
    bomb = with_checksum(zstandard.ZstdCompressor().compress(bytes(1 << 27)))
    (store.path / "reward" / "c.0").write_bytes(bomb)
    tracemalloc.start()
    with pytest.raises(UserError, match="reward: damaged: zstd: holds 134217728 bytes; expected 1024"):
        EpisodeStore.open(store.path).lowdim("reward")
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


def test_a_thousand_tiny_episodes_cost_the_same_each(store, make_episode, monkeypatch):
    """Nothing that an append does may go through all episodes before it."""
    from robolearn.data.journal import Journal

    store.extend([make_episode(1, seed) for seed in range(50)])
    seen = []
    real = Journal.add
    monkeypatch.setattr(Journal, "add", lambda self, lines, size: (seen.append(len(lines)), real(self, lines, size))[1])
    store.append(make_episode(1, 50))
    assert seen == [1] and len(store) == 51
    assert EpisodeStore.open(store.path).lowdim("reward").shape == (51,)
