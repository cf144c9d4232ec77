from __future__ import annotations

import os
import threading
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from robolearn.core import disk
from robolearn.core.errors import UserError
from robolearn.data.store import EpisodeStore


@pytest.fixture
def store(tmp_path, spec):
    with EpisodeStore.create(tmp_path / "d.zarr", replace(spec, streams={"force": spec.action})) as store:
        yield store


def row(episode, t: int) -> dict:
    return {
        "time": float(episode.time[t]),
        "images": {name: frames[t] for name, frames in episode.images.items()},
        "state": {name: values[t] for name, values in episode.state.items()},
        "action": episode.action[t],
        "requested_action": episode.requested_action[t],
        "reward": float(episode.reward[t]),
        "terminal": bool(episode.terminal[t]),
        "source": int(episode.source[t]),
    }


@pytest.mark.parametrize("rows", [1, 255, 256, 530])
def test_row_by_row_is_the_same_as_at_once(store, make_episode, assert_same, rows):
    episode = make_episode(rows, success=True)
    with store.record() as recording:
        for t in range(rows):
            recording.add(**row(episode, t), image_time={name: float(episode.time[t]) - 0.01 for name in episode.images})
            recording.sample("force", episode.time[t] + np.array([0.0, 0.01]), np.full((2, 3), t, np.float32))
        assert recording.finish(episode.meta) == 0
    found = EpisodeStore.open(store.path)[0]
    assert_same(found, episode)
    np.testing.assert_array_equal(found.image_time["wrist"], episode.time - 0.01)
    np.testing.assert_array_equal(found.streams["force"].values[:, 1], np.repeat(np.arange(rows), 2))
    assert not (store.path / "recording").exists() and store.unfinished == []


def test_recordings_follow_one_another_and_whole_episodes(store, make_episode, assert_same):
    from robolearn.data.episode import Stream

    episodes = [make_episode(20), make_episode(300, 1), make_episode(5, 2)]
    none = {"force": Stream(np.zeros(0), np.zeros((0, 3), np.float32))}
    for number, episode in enumerate(episodes):
        if number == 1:
            store.append(replace(episode, streams=none))
            continue
        with store.record() as recording:
            with pytest.raises(UserError, match="an episode is being recorded already"):
                store.record()
            for t in range(len(episode)):
                recording.add(**row(episode, t))
            recording.finish(episode.meta)
    for index, episode in enumerate(episodes):
        assert_same(EpisodeStore.open(store.path)[index], episode)


def test_a_recording_without_an_end_is_discarded_and_one_that_failed_is_kept(store, make_episode):
    episode = make_episode(10)
    with store.record() as recording:
        recording.add(**row(episode, 0))
    assert len(store) == 0 and store.unfinished == []
    with pytest.raises(KeyboardInterrupt), store.record() as recording:
        for t in range(7):
            recording.add(**row(episode, t))
        raise KeyboardInterrupt
    (left,) = store.unfinished
    assert store.recover(left, {"task": "lift"}) == 0
    assert store.unfinished == []
    found = EpisodeStore.open(store.path)
    assert found.length(0) == 7 and found.meta(0) == {"success": None, "interrupted": True, "task": "lift"}
    np.testing.assert_array_equal(found[0].action, episode.action[:7])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": np.zeros(2, np.float32)}, r"action is \[0.0, 0.0\]; expected 3 finite numbers"),
        ({"action": np.full(3, np.nan, np.float32)}, "action is .*expected 3 finite"),
        ({"reward": np.nan}, "a finite reward"),
        ({"time": 0.0}, r"time is 0.0 s.*expected a time after"),
        ({"images": {"front": np.zeros((12, 16, 3)), "wrist": np.zeros((8, 8, 3), np.uint8)}}, "images.front is float64"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_at_once(store, make_episode, change, message):
    episode = make_episode(3)
    with pytest.raises(ValueError, match=message), store.record() as recording:
        recording.add(**row(episode, 0))
        recording.add(**{**row(episode, 1), **change})


class Slow:
    """Stands for `os`: writes hang until `go` is set."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def __getattr__(self, name: str):
        if name == "write":
            self.go.wait(10)
        return getattr(os, name)


def test_a_disk_that_hangs_does_not_make_the_loop_wait(store, make_episode, monkeypatch):
    episode, slow = make_episode(60), Slow()
    per_row = sum(frames[0].nbytes for frames in episode.images.values())
    with store.record(buffer_mb=40.5 * (per_row + 120) / 1e6) as recording:
        monkeypatch.setattr(disk, "os", slow)
        started = time.monotonic()
        for t in range(60):
            recording.add(**row(episode, t))
        assert time.monotonic() - started < 5  # the disk would have taken ten seconds for the first row
        assert recording.dropped > 0 and recording.rows + recording.dropped == 60
        slow.go.set()
        recording.finish({})
    kept = recording.rows
    found = EpisodeStore.open(store.path)
    assert found.length(0) == kept and found.meta(0)["dropped_rows"] == 60 - kept
    np.testing.assert_array_equal(found[0].action, episode.action[:kept])


def test_a_full_disk_is_told_and_what_is_there_is_kept(store, make_episode, monkeypatch):
    episode = make_episode(50)

    class Full:
        written = 0

        def __getattr__(self, name: str):
            if name == "write":
                self.written += 1
                if self.written > 60:
                    return lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
            return getattr(os, name)

    with store.record() as recording:
        monkeypatch.setattr(disk, "os", Full())
        for t in range(50):
            recording.add(**row(episode, t))
        with pytest.raises(UserError, match="No space left on device: the recording stopped there; what it has is kept"):
            recording.finish({})
        assert recording.trouble == "No space left on device"
    monkeypatch.undo()
    (left,) = store.unfinished
    store.recover(left)
    assert 10 < store.length(0) < 50
    np.testing.assert_array_equal(store[0].action, episode.action[: store.length(0)])


def test_a_recording_killed_before_its_commit_outlives_the_next_episode(store, make_episode, monkeypatch):
    """Its frames have their names in the store by then; what is written under those names must not be written into them."""
    from robolearn.data.writing import Writer

    episode = make_episode(20)
    with monkeypatch.context() as patch:
        patch.setattr(Writer, "commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt), store.record() as recording:
            for t in range(20):
                recording.add(**row(episode, t))
            recording.finish({})
    with store.record() as recording:
        recording.add(**row(make_episode(1, 7), 0))
        recording.finish({})
    (left,) = store.unfinished
    assert store.recover(left) == 1
    np.testing.assert_array_equal(store[1].images["front"], episode.images["front"])
    np.testing.assert_array_equal(store[0].images["front"], make_episode(1, 7).images["front"])


def test_whole_episodes_do_not_overwrite_an_unfinished_recording_either(tmp_path, spec, make_episode):
    with EpisodeStore.create(tmp_path / "e.zarr", spec) as store:
        part, target = tmp_path / "part", store.path / "images" / "front" / "c.0.0.0.0"
        part.write_bytes(b"frames")
        disk.link(part, target)
        store.append(make_episode(3))
        assert part.read_bytes() == b"frames"


def test_a_full_disk_while_finishing_keeps_the_recording_and_the_next_one_can_begin(store, make_episode, monkeypatch):
    episode = make_episode(8)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "link", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(UserError, match="disk full"), store.record() as recording:
            for t in range(8):
                recording.add(**row(episode, t))
            recording.finish({})
    (left,) = store.unfinished
    with store.record() as recording:
        recording.discard()
    assert store.recover(left) == 0 and store.length(0) == 8


def test_a_frame_that_cannot_be_compressed_is_not_lost_in_silence(store, make_episode, monkeypatch):
    episode = make_episode(3)
    monkeypatch.setattr("robolearn.data.recorder.encode_frames", lambda *_: 1 / 0)
    with store.record() as recording:
        recording.add(**row(episode, 0))
        with pytest.raises(UserError, match="division by zero: the recording stopped there"):
            recording.finish({})
    assert len(store) == 0


def test_an_ended_recording_touches_nothing_of_the_next(store, make_episode):
    episode = make_episode(3)
    with store.record() as first:
        first.add(**row(episode, 0))
        first.finish({})
        with store.record() as second:
            second.add(**row(episode, 0))
            for misuse in (lambda: first.add(**row(episode, 1)), lambda: first.finish({}), first.discard):
                with pytest.raises(RuntimeError, match="this recording has ended"):
                    misuse()
            with pytest.raises(RuntimeError, match="this recording has ended"):
                first.sample("force", 0.0, np.zeros(3))
            second.finish({})
    assert [store.length(i) for i in range(len(store))] == [1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": {"q": np.zeros(2, np.float32)}}, r"state has \['q'\]; the spec has \['grip', 'q'\]"),
        ({"images": {"front": np.zeros((12, 16, 3), np.uint8)}}, r"images has \['front'\]; the spec has"),
        ({"time": np.inf}, "time is inf s"),
        ({"action": np.full(3, 1e39)}, "expected 3 finite numbers"),
        ({"reward": 1e39}, "a finite reward"),
        ({"source": 300}, "source is 300; expected 0 to 255"),
        ({"image_time": {"front": 0.0}}, "image_time has"),
        ({"image_time": {"front": np.inf, "wrist": 0.0}}, "image_time.front is inf s"),
    ],
)
def test_more_rows_that_do_not_fit(store, make_episode, change, message):
    episode = make_episode(3)
    with store.record() as recording:
        recording.add(**row(episode, 0))
        with pytest.raises(ValueError, match=message):
            recording.add(**{**row(episode, 1), **change})
        recording.add(**row(episode, 1))  # what was refused left no trace
        recording.finish({})
    assert store.length(0) == 2


def test_a_stream_holds_what_whole_episodes_may_hold(store, make_episode):
    with store.record() as recording:
        recording.add(**row(make_episode(1), 0))
        recording.sample("force", 1.0, np.zeros(3))
        for time_s, values, message in (
            (1.0, np.zeros(3), "streams.force.time does not increase after 1.0 s"),
            (np.array([3.0, 2.0]), np.zeros((2, 3)), "streams.force.time does not increase"),
            (2.0, np.full(3, np.nan), "streams.force is not finite"),
            (2.0, np.zeros(2), r"streams.force is \(2,\) at \(1,\)"),
        ):
            with pytest.raises(ValueError, match=message):
                recording.sample("force", time_s, values)
        with pytest.raises(ValueError, match="no stream 'torque'; valid: force"):
            recording.sample("torque", 2.0, np.zeros(3))
        recording.finish({})
    assert store[0].streams["force"].time.tolist() == [1.0]


def test_the_ceiling_holds_for_streams_too(store, make_episode, monkeypatch):
    slow = Slow()
    with store.record(buffer_mb=0.01) as recording:
        recording.add(**row(make_episode(1), 0))
        monkeypatch.setattr(disk, "os", slow)
        for t in range(100):
            recording.sample("force", t + np.linspace(0.1, 0.9, 50), np.zeros((50, 3)))
        assert recording.dropped_samples >= 80 * 50
        slow.go.set()
        recording.finish({})
    assert store.meta(0)["dropped_samples"] == 5000 - len(store[0].streams["force"].time)


def test_recover_takes_nothing_but_an_unfinished_recording(store, tmp_path):
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter").write_text("years")
    for folder in (precious, tmp_path / "nowhere", store.path / "unfinished"):
        with pytest.raises(UserError, match=r"no unfinished recording; valid: \(none\)"):
            store.recover(folder)
    assert (precious / "chapter").read_text() == "years"


def test_a_torn_record_does_not_say_how_much_to_read(tmp_path):
    from robolearn.data.recovery import RECORD, _records

    (tmp_path / "log").write_bytes(RECORD.pack(2**32 - 1, 0) + b"R")
    tracemalloc.start()
    assert list(_records(tmp_path / "log")) == []
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
