"""What the contestants of data_loading.py share: asked for one series of batches a line, each answers with one line of JSON.

    PYTHON benchmarks/peers/SCRIPT.py --data FOLDER --variant NAME --prepare                            # its own form of FOLDER/raw
    echo "warm 1.5" | PYTHON benchmarks/peers/SCRIPT.py --data FOLDER --variant NAME --case diffusion --workers 2

"cold": the kernel first forgets the contestant's files (posix_fadvise; what the process has mapped stays), and a series ends after
16 batches, before much of the set has been read again. The clock starts once the batches that were read ahead are used up, and a
series is over only when all processes rest: nobody works in another's time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BATCH, SEED = 64, 0
AHEAD = 2  # batches that each worker keeps ready
COLD_BATCHES = 16


@dataclass(frozen=True)
class Case:
    """What one sample holds: frames of two cameras (states too), and actions."""

    history: int
    horizon: int


CASES = {"diffusion": Case(2, 16), "sequence": Case(16, 16)}


class Contestant(ABC):
    """A way to keep demonstrations and to read training windows from them. Imports what it needs in its constructor."""

    name: str
    versions: dict[str, str]

    def __init__(self, data: Path, variant: str) -> None:
        self.data, self.variant = data, variant

    @property
    def folder(self) -> Path:
        """Everything that this contestant reads from the disk."""
        return self.data / f"{self.name}-{self.variant}"

    @abstractmethod
    def prepare(self) -> dict[str, Any]:
        """Write `folder`; returns what there is to say about it."""

    @abstractmethod
    def batches(self, case: Case, workers: int) -> Iterator[Any]:
        """Endless batches of BATCH samples in random order."""

    def forget(self) -> None:  # noqa: B027 -- most have mapped nothing
        """Let go of mapped files, so that the kernel can forget them."""


def loader(dataset: Any, workers: int, **more: Any) -> Iterator[Any]:
    """torch's DataLoader, in random order without an end."""
    from torch.utils.data import DataLoader, RandomSampler

    order = RandomSampler(dataset, replacement=True, num_samples=BATCH * 10**6)
    ahead = {"prefetch_factor": AHEAD, **more} if workers else {}
    return iter(DataLoader(dataset, BATCH, sampler=order, num_workers=workers, **ahead))


def serve(make: type[Contestant]) -> None:
    """The main function of every contestant's script."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--variant", required=True)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--case", choices=CASES, default="diffusion")
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(**found: Any) -> None:
        print(json.dumps(found), file=answers, flush=True)

    begun = time.perf_counter()
    contestant = make(args.data, args.variant)
    imported = time.perf_counter()
    if args.prepare:
        if contestant.folder.exists():
            raise SystemExit(f"{contestant.folder}: exists already")
        found = contestant.prepare()
        answer(**{"write_s": time.perf_counter() - imported, **found}, bytes=disk_bytes(contestant.folder), versions=contestant.versions)
        return
    batches = contestant.batches(CASES[args.case], args.workers)
    next(batches)
    answer(import_s=imported - begun, first_batch_s=time.perf_counter() - imported, versions=contestant.versions)
    settle()
    for line in sys.stdin:
        kind, seconds = line.split()
        answer(**series(contestant, batches, kind, float(seconds), args.workers))
    answer(peak_mb=sum(status_mb("VmHWM", pid) for pid in tree()), bytes_read_from=disk_bytes(contestant.folder))
    answers.close()


def series(contestant: Contestant, batches: Iterator[Any], kind: str, seconds: float, workers: int) -> dict[str, Any]:
    """Samples per second, and per second of processor time of all of its processes (which other programs do not change)."""
    if kind == "cold":
        contestant.forget()
        drop(contestant.folder)
    used, ready = cpu_seconds(), AHEAD * workers
    for _ in range(ready):
        next(batches)
    start, count, elapsed = time.perf_counter(), 0, 0.0
    while elapsed < seconds and not (kind == "cold" and count >= COLD_BATCHES):
        for _ in range(max(workers, 1)):  # workers finish together: only whole rounds are comparable
            next(batches)
            count += 1
        elapsed = time.perf_counter() - start
    settle()
    used = cpu_seconds() - used
    return {"kind": kind, "samples_per_s": BATCH * count / elapsed, "samples_per_cpu_s": BATCH * (count + ready) / max(used, 1e-3)}


def settle() -> None:
    """Return when no process of this one has used the processor for a moment."""
    before = -1.0
    while (now := cpu_seconds()) - before > 0.02:
        before = now
        time.sleep(0.15)


def drop(folder: Path) -> None:
    """Make the kernel forget the files below; they must be on the disk already."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def tree(root: int | None = None) -> list[int]:
    """This process and everything that it started."""
    root = os.getpid() if root is None else root
    found = [root]
    for task in Path(f"/proc/{root}/task").glob("*"):
        with suppress(OSError):  # threads and processes come and go
            for child in (task / "children").read_text().split():
                found += tree(int(child))
    return found


def cpu_seconds() -> float:
    ticks = 0
    for pid in tree():
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def status_mb(key: str, pid: int) -> float:
    """A line of /proc/PID/status: VmHWM, the most memory it ever had; RssAnon, what it has for itself now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1000
    return 0.0
