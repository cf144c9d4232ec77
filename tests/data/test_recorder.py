from __future__ import annotations

import os
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from robolearn.core.errors import UserError
from robolearn.data import disk
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
