"""kill -9 at random instants of recording: finished episodes lost, stores that do not open, rows of the unfinished one lost.

    python benchmarks/kill_recorder.py [--runs 1000] [--seed 0]

A server process with the libraries loaded forks one writer for each run. The writer says when `finish` or `append` has
returned; then it is killed, and the store is opened, compared bit for bit with what was written, and recovered.
"""

from __future__ import annotations

import os
import shutil
import signal
import struct
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.progress import track

from hardware.types import ArraySpec, RobotSpec
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode
from robolearn.data.store import EpisodeStore

RATE_HZ = 500.0  # rows a second while recording: a second of a real robot in a few milliseconds
RUNS_PER_STORE = 50
TWO = ArraySpec(("a", "b"), ("rad", "rad"), (-9.0, -9.0), (9.0, 9.0))
SPEC = RobotSpec("test arm", {"cam": (48, 64)}, {"q": TWO}, TWO, "joint_pos", 30.0)


@dataclass(frozen=True)
class Config:
    """Kill a recorder over and over."""

    runs: int = 1000
    """Writers to kill."""
    seed: int = 0
    """Draws when each is killed, and what it writes."""


def episode(seed: int) -> Episode:
    """5 to 60 rows that `seed` alone decides."""
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(5, 60))
    pair = rng.normal(size=(rows, 2)).astype(np.float32)
    return Episode(
        time=np.arange(rows) / 30.0,
        images={"cam": rng.integers(0, 256, (rows, 48, 64, 3), dtype=np.uint8)},
        state={"q": pair},
        action=pair + 1,
        requested_action=pair + 2,
        reward=pair[:, 0],
        terminal=np.zeros(rows, bool),
        source=np.ones(rows, np.uint8),
        meta={"seed": seed},
    )


def write(path: Path, first: int, said: int) -> None:
    """Record and append in turn for ever. Each report is (seed, rows so far); rows -1: the episode is finished."""

    def report(seed: int, rows: int) -> None:
        os.write(said, struct.pack("<qq", seed, rows))

    with EpisodeStore.open(path, "a") as store:
        for seed in range(first, first + 10_000):
            e = episode(seed)
            if seed % 4 == 0:
                store.append(e)
            else:
                with store.record() as recording:
                    for t in range(len(e)):
                        recording.add(
                            time=float(e.time[t]),
                            images={"cam": e.images["cam"][t]},
                            state={"q": e.state["q"][t]},
                            action=e.action[t],
                            requested_action=e.requested_action[t],
                            reward=float(e.reward[t]),
                            terminal=False,
                            source=1,
                        )
                        report(seed, t + 1)
                        time.sleep(1 / RATE_HZ)
                    recording.finish(e.meta)
            report(seed, -1)


def killed(path: Path, first: int, delay: float) -> list[tuple[int, int]]:
    """Let a writer work for `delay` seconds, kill it; what it had reported."""
    read, said = os.pipe()
    if (child := os.fork()) == 0:
        os.close(read)
        write(path, first, said)
        os._exit(1)  # never reached: the writer does not stop by itself
    os.close(said)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    with os.fdopen(read, "rb") as pipe:
        content = pipe.read()
    if not os.WIFSIGNALED(status):
        raise SystemExit("the writer failed by itself")
    return [struct.unpack_from("<qq", content, i) for i in range(0, len(content) - len(content) % 16, 16)]  # pyright: ignore[reportReturnType]


def survived(path: Path) -> list[int]:
    """Seeds of the episodes there. AssertionError: one is not what was written."""
    store, seeds = EpisodeStore.open(path), []
    for index in range(len(store)):
        found, seed = store[index], store.meta(index)["seed"]
        wanted = episode(seed)
        rows = len(found)
        assert rows == len(wanted) or store.meta(index).get("interrupted"), f"episode {index} has {rows} of {len(wanted)} rows"
        np.testing.assert_array_equal(found.images["cam"], wanted.images["cam"][:rows])
        np.testing.assert_array_equal(found.action, wanted.action[:rows])
        seeds.append(seed)
    return seeds


def main(config: Config) -> None:
    rng, scratch = np.random.default_rng(config.seed), Path(tempfile.mkdtemp(prefix="kill_recorder."))
    lost = unopened = finished = recovered = 0
    missing: list[int] = []  # rows reported as added and not recovered
    path, kept = scratch / "none", []
    try:
        for run in track(range(config.runs), "killing"):
            if run % RUNS_PER_STORE == 0:
                shutil.rmtree(path, ignore_errors=True)
                path, kept = scratch / f"{run}.zarr", []
                EpisodeStore.create(path, SPEC).close()
            reports = killed(path, 100_000 * (run + 1), rng.uniform(0, 0.4))
            kept += [seed for seed, rows in reports if rows == -1]
            try:
                there = survived(path)
            except (UserError, AssertionError) as error:
                unopened += 1
                print(f"run {run}: {error}")
                continue
            lost += len(set(kept) - set(there))
            open_rows = reports[-1][1] if reports and reports[-1][1] > 0 and reports[-1][0] not in there else 0
            with EpisodeStore.open(path, "a") as store:
                rows = 0
                for left in store.unfinished:
                    try:
                        rows = store.length(store.recover(left, {"seed": reports[-1][0]}))
                        recovered += 1
                    except UserError:
                        rows = 0
                if open_rows:
                    missing.append(max(open_rows - rows, 0))
            kept = survived(path)
            finished += sum(rows == -1 for _, rows in reports)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    worst = max(missing, default=0)
    print(f"{config.runs} writers killed; {finished} episodes had been finished: {lost} lost; {unopened} stores that did not open")
    short = f"at most {worst} rows short (at {SPEC.rate_hz:g} Hz: {worst / SPEC.rate_hz:.2f} s)"
    print(f"{len(missing)} were killed while recording: {recovered} recovered, {short}")
    if lost or unopened:
        raise SystemExit(1)


if __name__ == "__main__":
    main(tyro.cli(Config, config=(tyro.conf.AvoidSubcommands,)))
