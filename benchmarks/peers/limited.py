"""A shuffle over a store ten times larger than the memory that its reader may use, against a reader that may use all and finds it cached.

The limit is a cgroup's where one can be made: it counts the page cache, which no resource limit of a process does (RLIMIT_AS, RLIMIT_DATA).
Elsewhere the kernel is made to forget the store before each series, and what the reader then used is added up: the memory of its own
and every byte that it had read from the disk since. Both must fit into the limit together, else the number does not count.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import demos
import numpy as np
from running import Entry, Running
from series import disk_bytes, drop, status_mb

TIMES, WORKERS = 10, 2
LIMITS = ("memory.max", "memory.limit_in_bytes")  # of a cgroup: version 2, version 1


def measure(data: Path, memory_mb: int, rounds: int, seconds: float, parent: Path | None) -> dict[str, Any]:
    """Rates by round [samples/s], and what the limited reader used [MB]. parent: a cgroup that may get a child."""
    data = data / f"memory-{memory_mb}"
    store = data / "ours-zstd" / "demos.zarr"
    if not store.exists():
        build(store, TIMES * memory_mb)
    how = ("--case", "diffusion", "--workers", str(WORKERS))
    found: dict[str, Any] = {"store_mb": disk_bytes(store) / 1e6, "memory_mb": memory_mb, "cache_mb": memory_mb // 6}
    found |= {"free": [], "limited": [], "own_mb": [], "read_mb": []}
    with cgroup(memory_mb, parent) as enter:
        found["limit"] = "cgroup" if enter else "none here: added up"
        free = Running(Entry("free", "ours", "zstd+numpy"), data, *how)
        free.answer()
        drop(store)
        small = Entry("limited", "ours", f"zstd+numpy+ram={found['cache_mb']}")
        limited = Running(small, data, *how, first=(lambda: enter.write_text(str(os.getpid()))) if enter else None)
        limited.answer()
        for _ in range(rounds):
            before = read_mb(limited.pid)
            found["limited"].append(limited.series("warm" if enter else "cold", seconds)["samples_per_s"])
            found["read_mb"].append(read_mb(limited.pid) - before)
            found["own_mb"].append(status_mb("RssAnon", limited.pid))
            for path in store.rglob("*"):  # into the page cache
                if path.is_file():
                    path.read_bytes()
            found["free"].append(free.series("warm", seconds)["samples_per_s"])
            drop(store)
        free.close()
        limited.close()
    used = max(own + read for own, read in zip(found["own_mb"], found["read_mb"], strict=True))
    ratio = float(np.median(np.divide(found["limited"], found["free"])))
    return found | {"ratio": ratio, "used_mb": used, "inside": bool(enter) or used <= memory_mb}


def goal(found: dict[str, Any]) -> dict[str, Any]:
    within = "in a cgroup" if found["limit"] == "cgroup" else f"used {found['used_mb']:.0f} MB"
    name = f"shuffle over {found['store_mb']:.0f} MB with {found['memory_mb']} MB ({within}) / without a limit or cache"
    return {"goal": name, "value": found["ratio"], "at_least": 0.7, "counts": found["inside"]}


def build(store: Path, megabytes: float) -> None:
    """Until the store is that large on the disk: the same few demonstrations over and over, each compressed anew."""
    import ours

    from robolearn.data.store import EpisodeStore

    print(f"building a store of {megabytes:.0f} MB", flush=True)
    store.parent.mkdir(parents=True, exist_ok=True)
    some = [ours.as_episode(demos.demo(i, 200)) for i in range(4)]
    with EpisodeStore.create(store, ours.spec()) as growing:
        growing.extend(some)
        for _ in range(int(megabytes * 1e6 / disk_bytes(store))):
            growing.extend(some)
    os.sync()


def read_mb(pid: int) -> float:
    """What a process had read from the disk itself, read-ahead included, not from the page cache."""
    fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(fields["read_bytes"]) / 1e6


@contextmanager
def cgroup(memory_mb: int, parent: Path | None) -> Iterator[Path | None]:
    """The file into which a process writes its id to be limited; None where no cgroup can be made. It is removed again."""
    parent = own_cgroup() if parent is None else parent
    child = None if parent is None else parent / f"robolearn_{os.getpid()}"
    try:
        limit = None
        if child is not None:
            child.mkdir()
            limit = next((child / name for name in LIMITS if (child / name).exists()), None)
        if limit is not None:
            limit.write_text(str(memory_mb * 10**6))
    except OSError as error:
        print(f"no cgroup: {error}", flush=True)
        limit = None
    try:
        yield None if limit is None or child is None else child / "cgroup.procs"
    finally:
        if child is not None and child.exists():
            child.rmdir()


def own_cgroup() -> Path | None:
    """This process's cgroup, version 2, where that one governs memory."""
    root = Path("/sys/fs/cgroup")
    own = [line.partition("::")[2] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    controllers = root / "cgroup.controllers"
    if not own or not controllers.exists() or "memory" not in controllers.read_text().split():
        return None
    return root / own[0].lstrip("/")
