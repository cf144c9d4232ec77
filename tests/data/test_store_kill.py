"""kill -9 while appending: whatever `append` returned is there afterwards, and the store goes on.

A server process with the libraries loaded forks one writer for each round and kills it; what survives is read here.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import robolearn
from robolearn.data.store import EpisodeStore

SERVER = Path(__file__).with_name("killed_writer.py")


@pytest.fixture(scope="module")
def server():
    environment = os.environ | {"PYTHONPATH": str(Path(robolearn.__path__[0]).parent)}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, SERVER], stdin=pipe, stdout=pipe, text=True, env=environment) as process:

        def round(path: Path, delay: float, seed: int, fault: str = "") -> list[int]:
            """Kill one writer; the seeds of the episodes it had stored."""
            process.stdin.write(f"{path}\t{delay}\t{seed}\t{fault}\n")
            process.stdin.flush()
            status, *stored = process.stdout.readline().split()
            assert int(status) == 9, "the writer ended by itself"
            return [int(seed) for seed in stored]

        yield round
        process.stdin.close()


@pytest.fixture
def path(tmp_path, spec):
    two = spec.state["q"]
    EpisodeStore.create(tmp_path / "d.zarr", replace(spec, cameras={"cam": (24, 24)}, state={"q": two}, action=two), shard_rows=32).close()
    return tmp_path / "d.zarr"


@pytest.fixture(scope="module")
def expected():
    """expected(seed): the episode the writer makes of it."""
    return runpy.run_path(str(SERVER))["episode"]


def seeds(path: Path) -> list[int]:
    store = EpisodeStore.open(path)
    return [store.meta(i)["seed"] for i in range(len(store))]


def test_killed_at_random_instants(server, path, expected, assert_same):
    rng = np.random.default_rng(0)
    survived: list[int] = []
    for turn in range(24):
        reported = [*survived, *server(path, rng.uniform(0, 0.12), 1000 * turn)]
        survived = seeds(path)
        assert survived[: len(reported)] == reported  # each one whose append returned, in order
        assert len(survived) - len(reported) <= 1  # and perhaps one whose append was about to return
    assert len(survived) > 24
    store = EpisodeStore.open(path)
    for i, seed in enumerate(survived):
        assert_same(store.read(i), expected(seed))


@pytest.mark.parametrize(
    ("fault", "survivors"),
    [
        ("rows half written", 1),
        ("rows written, no journal line", 1),
        ("journal line torn after byte 1", 1),
        ("journal line torn after byte 20", 1),
        ("journal line torn after byte 45", 1),
        ("before the journal is on the disk", 2),  # the kernel has the whole line: only a power cut could lose it
    ],
)
def test_killed_at_each_step_of_an_append(server, path, expected, assert_same, fault, survivors):
    assert server(path, 0, 1, fault) == [1]
    assert seeds(path) == [1, 2][:survivors]
    with EpisodeStore.open(path, "a") as store:  # it goes on, over whatever was left behind
        assert store.append(expected(99)) == survivors
    store = EpisodeStore.open(path)
    for i, seed in enumerate([1, 2, 99] if survivors == 2 else [1, 99]):
        assert_same(store.read(i), expected(seed))
