from __future__ import annotations

import json
import resource
from dataclasses import replace

import numpy as np
import pytest

from robolearn.core.errors import UserError
from robolearn.data.store import EpisodeStore


@pytest.fixture
def store(tmp_path, spec):
    with EpisodeStore.create(tmp_path / "d.zarr", spec, {"by": "test"}) as store:
        yield store


def files(store: EpisodeStore) -> set[str]:
    return {str(path.relative_to(store.path)) for path in store.path.rglob("*")}


def test_what_goes_in_comes_out_bit_for_bit(store, spec, make_episode, assert_same):
    episodes = [make_episode(rows, seed, success=seed % 2 == 0) for seed, rows in enumerate((1, 255, 256, 257, 300))]
    assert [store.append(episode) for episode in episodes] == [0, 1, 2, 3, 4]
    opened = EpisodeStore.open(store.path)
    assert opened.spec == spec
    assert opened.provenance == {"by": "test"}
    assert len(opened) == 5 and opened.rows == 1069
    assert [opened.length(i) for i in range(5)] == [1, 255, 256, 257, 300]
    assert opened.starts.tolist() == [0, 1, 256, 512, 769]
    for i, episode in enumerate(episodes):
        assert_same(opened.read(i), episode)
        assert opened.meta(i)["success"] is (i % 2 == 0)
    part = opened.read(4, 30, 40)
    np.testing.assert_array_equal(part.images["front"], episodes[4].images["front"][30:40])
    np.testing.assert_array_equal(part.time, episodes[4].time[30:40])
    assert len(opened.read(4, 290)) == 10


def test_rows_are_one_compact_sequence(store, make_episode):
    episodes = [make_episode(rows, rows) for rows in (40, 7, 33)]
    for episode in episodes:
        store.append(episode)
    joined = {name: np.concatenate([getattr(e, name) for e in episodes]) for name in ("action", "reward", "time", "source", "terminal")}
    for name, expected in joined.items():
        np.testing.assert_array_equal(store.lowdim(name), expected)
    state = np.concatenate([np.concatenate([e.state["q"], e.state["grip"]], 1) for e in episodes])
    np.testing.assert_array_equal(store.lowdim("state"), state)
    np.testing.assert_array_equal(store.lowdim("state/grip"), state[:, 2:])
    rows = np.array([79, 0, 0, 46, 39, 40])  # unordered, repeated, over episode borders
    frames = np.concatenate([e.images["wrist"] for e in episodes])
    np.testing.assert_array_equal(store.frames("wrist", rows), frames[rows])
    store.hold_frames("wrist")
    np.testing.assert_array_equal(store.frames("wrist", rows), frames[rows])
    more = make_episode(5, 9)
    store.append(more)
    np.testing.assert_array_equal(store.lowdim("action"), np.concatenate([joined["action"], more.action]))
    np.testing.assert_array_equal(store.lowdim("state")[80:, 2:], more.state["grip"])
    np.testing.assert_array_equal(store.frames("wrist", np.array([84])), more.images["wrist"][4:])
    store.hold_frames("wrist")
    np.testing.assert_array_equal(store.frames("wrist", np.arange(85)), np.concatenate([frames, more.images["wrist"]]))


def test_an_empty_store_has_empty_columns(store):
    opened = EpisodeStore.open(store.path)
    assert len(opened) == opened.rows == 0
    assert opened.lowdim("state").shape == (0, 3)
    assert not opened.has_features("k")


def test_unknown_names_list_the_valid_ones(store):
    with pytest.raises(UserError, match=r"no column 'speed'; valid: state, time, .*state/q, state/grip"):
        store.lowdim("speed")
    with pytest.raises(UserError, match=r"no camera 'left'; valid: front, wrist"):
        store.frames("left", np.arange(0))


def test_plain_zarr_reads_it_as_the_format_says(store, make_episode):
    """docs/dataset-format.md, followed with zarr-python and json alone."""
    import zarr

    episodes = [make_episode(rows, rows) for rows in (40, 7)]
    for episode in episodes:
        store.append(episode)
    group = zarr.open_group(str(store.path), mode="r")
    assert group.attrs["format"] == "robolearn" and group.attrs["format_version"] == 2
    lines = [json.loads(line) for line in (store.path / "episodes.jsonl").read_text().splitlines()]
    assert [(line["start"], line["length"]) for line in lines] == [(0, 40), (256, 7)]  # each at a shard's first row
    for line, episode in zip(lines, episodes, strict=True):
        rows = slice(line["start"], line["start"] + line["length"])
        np.testing.assert_array_equal(group["images/front"][rows], episode.images["front"])
        np.testing.assert_array_equal(group["state/q"][rows], episode.state["q"])
        np.testing.assert_array_equal(group["terminal"][rows], episode.terminal)


def test_appending_never_touches_the_files_of_finished_episodes(store, make_episode):
    store.append(make_episode(40))
    before = {path: path.stat().st_mtime_ns for path in store.path.rglob("c.*")}
    store.append(make_episode(3))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list(store.path.rglob("c.*"))) > len(before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: {"action": np.where(np.arange(9)[:, None] == 4, np.nan, e.action).astype(np.float32)}, "action is not finite at row 4"),
        (lambda e: {"state": {**e.state, "q": e.state["q"] * np.inf}}, r"state.q is not finite at row 0"),
        (
            lambda e: {"images": {**e.images, "front": e.images["front"][:, :10]}},
            r"images.front is uint8 \(9, 10, 16, 3\); expected uint8 \(9, 12",
        ),
        (lambda e: {"images": {"front": e.images["front"]}}, r"images has \['front'\]; the spec has \['front', 'wrist'\]"),
        (lambda e: {"reward": e.reward.astype(np.float64)}, "reward is float64"),
        (lambda e: {"time": e.time[::-1].copy()}, r"time does not increase at row 1 \[s\]"),
        (lambda e: {"meta": {"a": object()}}, "not JSON serializable"),
    ],
)
def test_a_wrong_episode_is_refused_in_one_line_and_changes_nothing(store, make_episode, change, message):
    store.append(make_episode(5))
    before = files(store)
    episode = make_episode(9)
    with pytest.raises(UserError, match=message) as caught:
        store.append(replace(episode, **change(episode)))
    assert str(store.path) in str(caught.value) and "\n" not in str(caught.value)
    assert files(store) == before and len(EpisodeStore.open(store.path)) == 1


def test_nan_may_be_asked_for_but_not_executed(store, make_episode, assert_same):
    episode = make_episode(3)
    episode.requested_action[1] = np.nan
    store.append(episode)
    assert_same(store.read(0), episode)


def test_create_leaves_what_exists_alone(store, spec):
    with pytest.raises(UserError, match="exists already; choose another name, or open it"):
        EpisodeStore.create(store.path, spec)
    assert len(list(store.path.parent.iterdir())) == 1  # nothing half-made beside it


def test_open_says_what_is_wrong(store, tmp_path, make_episode):
    with pytest.raises(UserError, match="nowhere: no such store"):
        EpisodeStore.open(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="other: not a robolearn store .*ingest"):
        EpisodeStore.open(tmp_path / "other")
    store.append(make_episode(3))
    path = store.path / "zarr.json"
    whole = path.read_text()
    path.write_text(whole.replace('"format_version": 2', '"format_version": 7'))
    with pytest.raises(UserError, match="format_version 7; this robolearn reads versions 1, 2"):
        EpisodeStore.open(store.path)
    path.write_text(whole.replace('"action_mode"', '"mode"'))
    with pytest.raises(UserError, match="damaged store: no 'action_mode'"):
        EpisodeStore.open(store.path)
    path.write_text(whole)
    journal = store.path / "episodes.jsonl"
    line = journal.read_bytes()
    journal.write_bytes(b"nonsense\n" + line)
    with pytest.raises(UserError, match="damaged store: episodes.jsonl: line 1 is damaged"):
        EpisodeStore.open(store.path)
    journal.write_bytes(line.replace(b'"start": 0', b'"start": 3200'))
    with pytest.raises(UserError, match="has 256 rows, fewer than episodes.jsonl counts"):
        EpisodeStore.open(store.path)


@pytest.mark.parametrize(
    "torn", [b'{"start": 32, "length": 3, "meta"', b'{"start": 32, "length": 3, "meta": {}}', b"\0" * 40, b'{"start": 1}\n']
)
def test_a_torn_last_line_is_no_episode_and_is_written_over(store, make_episode, assert_same, torn):
    first, second = make_episode(5), make_episode(7, 1)
    store.append(first)
    store.close()
    with open(store.path / "episodes.jsonl", "ab") as journal:
        journal.write(torn)
    with EpisodeStore.open(store.path, "a") as again:
        assert len(again) == 1
        again.append(second)
    opened = EpisodeStore.open(store.path)
    assert_same(opened.read(0), first)
    assert_same(opened.read(1), second)


def test_one_writer_many_readers(store, make_episode, assert_same):
    with pytest.raises(UserError, match="another process is writing to this store"):
        EpisodeStore.open(store.path, "a")
    store.append(make_episode(3))
    reader = EpisodeStore.open(store.path)
    store.append(make_episode(4))
    assert len(reader) == 1  # a snapshot
    assert_same(reader.read(0), make_episode(3))
    with pytest.raises(UserError, match="opened for reading; open it with mode 'a'"):
        reader.append(make_episode(3))
    store.close()
    EpisodeStore.open(store.path, "a").close()


def test_a_full_disk_is_seen_before_anything_is_written(store, make_episode, monkeypatch):
    before = files(store)
    usage = type("usage", (), {"free": 1_100_000})
    monkeypatch.setattr("robolearn.data.writing.shutil.disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"disk full: the episode needs up to 1\.4 MB, 1\.1 MB are free"):
        store.append(make_episode(400))
    assert files(store) == before


def test_a_failed_write_leaves_the_store_as_it_was(store, make_episode, assert_same):
    """The kernel refuses to let files grow: what a full disk does once writing has begun."""
    good = make_episode(5)
    store.append(good)
    before = files(store)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))
    try:
        with pytest.raises(UserError, match="the episode was not stored, the others are intact"):
            store.append(make_episode(60, 1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(store) == before
    store.append(make_episode(60, 2))
    opened = EpisodeStore.open(store.path)
    assert_same(opened.read(0), good)
    assert_same(opened.read(1), make_episode(60, 2))


def test_features_are_a_cache_that_grows_with_the_store(store, make_episode):
    store.append(make_episode(40))
    assert not store.has_features("net-1") and store.feature_rows("net-1") == 0
    with pytest.raises(UserError, match="cover 0 of 40 rows"):
        store.features("net-1")
    first = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    store.write_features("net-1", first)
    np.testing.assert_array_equal(store.features("net-1"), first)
    store.append(make_episode(3))
    assert store.feature_rows("net-1") == 40 and not store.has_features("net-1")
    store.write_features("net-1", first[:3])
    reader = EpisodeStore.open(store.path)
    np.testing.assert_array_equal(reader.features("net-1"), np.concatenate([first, first[:3]]))
    with pytest.raises(ValueError, match=r"expected \(43, E\) or \(0, E\)"):
        reader.write_features("net-1", first[:7])
    with pytest.raises(ValueError, match="feature key"):
        reader.write_features("../net", first)
    assert [path.name for path in (store.path / "features").iterdir()] == ["net-1.npy"]


def test_a_damaged_file_is_named_in_one_line(store, make_episode):
    store.append(make_episode(40))
    for name, read in (
        ("action", lambda opened: opened.read(0)),
        ("reward", lambda opened: opened.lowdim("reward")),
        ("images/front", lambda opened: opened.frames("front", np.arange(3))),
    ):
        for path in (store.path / name).glob("c.*"):
            path.write_bytes(path.read_bytes()[:9])
        with pytest.raises(UserError, match=f"d.zarr/{name}: damaged: ") as caught:
            read(EpisodeStore.open(store.path))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    ['{"start": 0, "length": 0, "meta": {}}', '{"start": 0, "length": -4, "meta": {}}', '{"start": 0, "length": 5, "meta": 5}', "[]"],
)
def test_a_journal_line_that_is_no_episode_is_damage(store, make_episode, line):
    store.append(make_episode(5))
    journal = store.path / "episodes.jsonl"
    journal.write_text(f"{line}\n{journal.read_text()}")
    with pytest.raises(UserError, match="episodes.jsonl: line 1 is damaged"):
        EpisodeStore.open(store.path)


def test_arrays_that_contradict_the_spec_are_damage(store, make_episode):
    store.append(make_episode(5))
    meta = store.path / "reward" / "zarr.json"
    meta.write_text(meta.read_text().replace("float32", "float64"))
    with pytest.raises(UserError, match="damaged store: array reward holds float64"):
        EpisodeStore.open(store.path)
