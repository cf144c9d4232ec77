from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest
import torch

from robolearn.data.loader import Batches
from robolearn.data.sampling import Sampler
from robolearn.data.store import EpisodeStore
from robolearn.data.windows import Windows


@pytest.fixture
def windows(tmp_path, spec, make_episode):
    with EpisodeStore.create(tmp_path / "d.zarr", spec) as store:
        for rows in (9, 4, 10):
            store.append(make_episode(rows, rows))
    return Windows(store, 2, 2, cameras=("wrist",))


def batches(windows, size, seed, **more) -> Batches:
    return Batches(windows, Sampler(len(windows), size, np.random.default_rng(seed)), **more)


@pytest.mark.parametrize("weights", [None, np.full(23, 1 / 23)])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_resumed_stream_goes_on_with_the_next_sample(windows, weights, workers):
    def fresh(seed: int) -> Batches:
        return Batches(windows, Sampler(23, 5, np.random.default_rng(seed), weights), workers=workers)

    with fresh(0) as whole:
        actions = [next(whole).action for _ in range(12)]
    assert not torch.equal(actions[0], actions[1])
    with fresh(0) as first:
        for _ in range(7):
            next(first)
        state = first.state_dict()
    with fresh(99) as second:
        next(second)
        second.load_state_dict(state)
        for expected in actions[7:]:
            assert torch.equal(next(second).action, expected)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_reading_ahead_changes_nothing_and_ends(windows, workers):
    with batches(windows, 6, 1, workers=0) as plain, batches(windows, 6, 1, workers=workers) as ahead:
        for _ in range(8):
            one, other = next(plain), next(ahead)
            assert torch.equal(one.action, other.action) and torch.equal(one.obs.images["wrist"], other.obs.images["wrist"])
        ahead.close()
        assert torch.equal(next(plain).action, next(ahead).action)  # closed, and taken up again where it was
    assert len([t for t in threading.enumerate() if t.name.startswith("batches")]) == 0


def test_the_order_is_not_disturbed_by_who_else_draws(windows):
    rng = np.random.default_rng(5)
    with Batches(windows, Sampler(23, 6, rng)) as stream:
        rng.random(100)
        got = [next(stream).action for _ in range(3)]
    with batches(windows, 6, 5, workers=0) as stream:
        assert all(torch.equal(action, next(stream).action) for action in got)


def test_an_error_in_the_thread_reaches_the_reader(windows, monkeypatch):
    monkeypatch.setattr(windows, "read", lambda *given: 1 / 0)
    with batches(windows, 6, 5) as stream, pytest.raises(ZeroDivisionError):
        next(stream)


def test_a_fork_while_indices_are_read_does_not_hang(windows):
    """A lock that another thread held at the fork stays locked in the child."""
    frames = windows.stores[0]._frames["wrist"]
    frames._known[:] = False
    held, go = threading.Event(), threading.Event()
    real = frames._files

    class Held:
        def read_ends(self, keys, size):
            held.set()
            go.wait(5)
            return real.read_ends(keys, size)

    frames._files = Held()
    reader = threading.Thread(target=frames._learn, args=(np.array([0]),))
    reader.start()
    held.wait(5)
    if (child := os.fork()) == 0:
        frames._files = real
        signal.alarm(3)
        frames.read(np.array([0]))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    go.set()
    reader.join()


def test_many_threads_may_ask_for_the_first_pool(monkeypatch):
    from robolearn.data import frames

    errors = []

    def ask() -> None:
        try:
            frames._threads()
        except BaseException as error:
            errors.append(error)

    class Forgetful(dict):  # each thread sees no pool, as when they come at the same time
        def __contains__(self, key) -> bool:
            return False

        def clear(self) -> None:
            super().clear()
            barrier.wait(2)

    barrier = threading.Barrier(2)
    monkeypatch.setattr(frames, "_pool", Forgetful())
    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
