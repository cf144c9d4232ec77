"""Forks one writer for each line of stdin (path, delay [s], seed, fault), kills it, prints what it had stored. See test_store_kill.py."""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np

from robolearn.data import store as module
from robolearn.data.episode import Episode
from robolearn.data.store import EpisodeStore


def episode(seed):
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(1, 60))
    pair = rng.normal(size=(rows, 2)).astype(np.float32)
    return Episode(
        time=np.arange(rows) / 10,
        images={"cam": rng.integers(0, 256, (rows, 24, 24, 3), dtype=np.uint8)},
        state={"q": pair},
        action=pair + 1,
        requested_action=pair + 2,
        reward=pair[:, 0],
        terminal=np.zeros(rows, bool),
        source=np.ones(rows, np.uint8),
        meta={"seed": seed},
    )


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def inject(fault):
    if fault == "rows half written":
        write = EpisodeStore._write_rows
        EpisodeStore._write_rows = lambda self, first, n, parts: (write(self, first, n, dict(list(parts.items())[:3])), die())
    elif fault == "rows written, no journal line":
        EpisodeStore._commit = die
    elif fault.startswith("journal line torn"):

        def torn(self, line):
            with open(self.path / module.JOURNAL, "ab") as journal:
                journal.write(line[: int(fault.split()[-1])])
                journal.flush()
            die()

        EpisodeStore._commit = torn
    elif fault == "before the journal is on the disk":
        os.fsync = die


def main():
    for command in sys.stdin:
        path, delay, seed, fault = command.rstrip("\n").split("\t")
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            with EpisodeStore.open(path, "a") as store:
                os.write(write, b"ready\n")
                if fault:
                    store.append(episode(int(seed)))
                    os.write(write, f"{seed}\n".encode())
                    inject(fault)
                for k in range(1, 10_000):
                    store.append(episode(int(seed) + k))
                    os.write(write, f"{int(seed) + k}\n".encode())
        os.close(write)
        said = b""
        while not said.startswith(b"ready"):
            said += os.read(read, 100)
        if not fault:
            time.sleep(float(delay))
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        while more := os.read(read, 10_000):
            said += more
        os.close(read)
        print(status, *said.decode().split()[1:], flush=True)


if __name__ == "__main__":
    main()
