"""Kill a writer before each of its calls to the disk in turn, and in the middle of each write. See test_cut_short.py.

python cut_short.py append|extend|record kill|full STRIDE SCRATCH     prints one JSON line for each call tried: what survived
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path

import numpy as np

from hardware.types import ArraySpec, RobotSpec
from robolearn.core import disk
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode, Stream
from robolearn.data.store import EpisodeStore

CALLS = ("open", "write", "fsync", "ftruncate", "rename", "replace", "link", "unlink", "mkdir", "rmdir")
TWO = ArraySpec(("a", "b"), ("rad", "rad"), (-1.0, -1.0), (1.0, 1.0))
SPEC = RobotSpec("test arm", {"cam": (24, 24), "clip": (16, 16)}, {"q": TWO}, TWO, "joint_pos", 10.0, {"force": TWO})


def episode(seed: int) -> Episode:
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(250, 300))  # two files of each array
    pair = rng.normal(size=(rows, 2)).astype(np.float32)
    return Episode(
        time=np.arange(rows) / 10,
        images={name: rng.integers(0, 256, (rows, *size, 3), dtype=np.uint8) for name, size in SPEC.cameras.items()},
        state={"q": pair},
        action=pair + 1,
        requested_action=pair + 2,
        reward=pair[:, 0],
        terminal=np.zeros(rows, bool),
        source=np.ones(rows, np.uint8),
        meta={"seed": seed},
        streams={"force": Stream(np.arange(3 * rows) / 30, rng.normal(size=(3 * rows, 2)).astype(np.float32))},
    )


def record(store: EpisodeStore, seed: int) -> None:
    e = episode(seed)
    with store.record() as recorder:
        for t in range(len(e)):
            recorder.add(
                time=e.time[t],
                images={name: frames[t] for name, frames in e.images.items()},
                state={"q": e.state["q"][t]},
                action=e.action[t],
                requested_action=e.requested_action[t],
                reward=e.reward[t],
                terminal=e.terminal[t],
                source=e.source[t],
            )
            recorder.sample("force", e.streams["force"].time[3 * t : 3 * t + 3], e.streams["force"].values[3 * t : 3 * t + 3])
        recorder.finish(e.meta)


class Cut:
    """Stands for `os` in robolearn.core.disk: call number `last` is never completed."""

    def __init__(self, last: int, kill: bool) -> None:
        self._left, self._kill = last, kill

    def __getattr__(self, name: str):
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*args, **more):
            self._left -= 1
            if self._left < 0:
                if not self._kill and name in ("write", "mkdir", "link", "rename", "replace", "fsync"):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                if self._kill:
                    if name == "write":
                        real(args[0], bytes(args[1])[: len(args[1]) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **more)

        return call


def attempt(kind: str, path: Path, last: int, kill: bool) -> str:
    """Write in a process of its own. "killed", "refused" (a UserError) or "done"."""
    if (child := os.fork()) == 0:
        code = 3
        try:
            store = EpisodeStore.open(path, "a")
            disk.os = Cut(last, kill)
            try:
                write(kind, store)
                code = 0
            except UserError:
                code = 2
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return "killed"
    return {0: "done", 2: "refused"}.get(os.WEXITSTATUS(status), "crashed")


def calls(kind: str, path: Path) -> int:
    """How many calls to the disk it takes."""
    with EpisodeStore.open(path, "a") as store:
        disk.os = cut = Cut(1 << 30, True)
        write(kind, store)
        disk.os = os
    return (1 << 30) - cut._left


def write(kind: str, store: EpisodeStore) -> None:
    match kind:
        case "append":
            store.append(episode(1))
        case "extend":
            store.extend([episode(1), episode(2)])
        case "record":
            record(store, 1)


def survivors(path: Path) -> list[int]:
    """Seeds of the episodes there, each compared bit for bit with what was written."""
    store, seeds = EpisodeStore.open(path), []
    for index in range(len(store)):
        seed = store.meta(index)["seed"]
        check(store[index], episode(seed))
        seeds.append(seed)
    return seeds


def check(found: Episode, wanted: Episode) -> None:
    """Equal, as far as `found` goes."""
    rows = len(found)
    for name in ("time", "action", "requested_action", "reward"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name)[:rows])
    np.testing.assert_array_equal(found.images["cam"], wanted.images["cam"][:rows])
    assert found.images["clip"].shape == wanted.images["clip"][:rows].shape
    samples = len(found.streams["force"].time)
    np.testing.assert_array_equal(found.streams["force"].values, wanted.streams["force"].values[:samples])


def main(kind: str, how: str, stride: int, scratch: Path) -> None:
    base = scratch / "base.zarr"
    with EpisodeStore.create(base, SPEC, compression={"clip": "h264"}) as store:
        store.append(episode(0))
    counted = scratch / "counted.zarr"
    shutil.copytree(base, counted)
    total = calls(kind, counted)
    for last in [*range(0, total, stride), total]:
        path = scratch / f"{last}.zarr"
        shutil.copytree(base, path)
        ending = attempt(kind, path, last, how == "kill")
        after = survivors(path)
        with EpisodeStore.open(path, "a") as store:  # it goes on, over whatever was left behind
            recovered = []
            for folder in store.unfinished:
                try:
                    index = store.recover(folder, {"seed": 1})
                    recovered.append(store.length(index))
                except UserError:
                    recovered.append(0)
            store.append(episode(9))
        final = survivors(path)
        print(json.dumps({"call": last, "ending": ending, "after": after, "recovered": recovered, "final": final}), flush=True)
        shutil.rmtree(path)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
