"""What recording costs the control loop: two 640x480 cameras at 30 Hz and a 500 Hz state, against the same loop without recording.

    python benchmarks/recording.py [--seconds 20] [--compression zstd] [--out recording.json]

A 500 Hz loop in Python sleeps to each tick, as a control loop does; every tick samples the state, 30 times a second comes
a row with both frames. Rounds with and without recording alternate. Cost: processor time of the whole process beyond
that of the bare loop, in cores. Lateness: how long after its time a tick began.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from hardware.types import ArraySpec, RobotSpec
from robolearn.data.store import EpisodeStore

RATE_HZ, STATE_HZ, SIZE = 30.0, 500.0, (480, 640)
JOINTS = ArraySpec(tuple(f"joint{i}" for i in range(7)), ("rad",) * 7, (-3.0,) * 7, (3.0,) * 7)
SPEC = RobotSpec("bench", {"front": SIZE, "wrist": SIZE}, {"joint_pos": JOINTS}, JOINTS, "joint_pos", RATE_HZ, {"joints": JOINTS})


@dataclass(frozen=True)
class Config:
    """Measure the recorder beside a control loop."""

    seconds: float = 20.0
    """of each round"""
    rounds: int = 3
    """with and without recording, alternating"""
    compression: str = "zstd"
    """of both cameras"""
    folder: Path | None = None
    """where to record; None: a temporary folder"""
    out: Path | None = None
    """where the numbers go, JSON"""


def scenes(count: int = 45) -> list[np.ndarray]:
    """Frames as a camera makes them: a lit scene, something that moves, noise of two grey levels."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]].astype(np.float32)
    base = np.stack([90 + 60 * np.sin(x / 97 + c) * np.cos(y / 71 - c) + 20 * np.sin((x + y) / 23) for c in range(3)], -1)
    found = []
    for t in range(count):
        frame = base.copy()
        left = int(40 + 400 * (0.5 + 0.5 * np.sin(t / 7)))
        frame[200:300, left : left + 90] = (190, 70, 40)
        found.append(np.clip(frame + rng.normal(0, 2, frame.shape), 0, 255).astype(np.uint8))
    return found


def run_loop(seconds: float, frames: list[np.ndarray], recording: Any) -> tuple[np.ndarray, float]:
    """(lateness of every tick [s], processor time used [s])."""
    ticks, per_row = int(seconds * STATE_HZ), STATE_HZ / RATE_HZ
    late, due_row, q = np.zeros(ticks), 0.0, np.zeros(7, np.float32)
    used, start = _cpu(), time.monotonic()
    for tick in range(ticks):
        due = start + tick / STATE_HZ
        while (left := due - time.monotonic()) > 0:
            time.sleep(left)
        now = time.monotonic()
        late[tick] = now - due
        q = np.sin(np.arange(7, dtype=np.float32) + np.float32(now - start))
        if recording is not None:
            recording.sample("joints", now, q)
        if tick >= due_row:
            due_row += per_row
            pair = {"front": frames[tick % len(frames)], "wrist": frames[(tick * 7 + 3) % len(frames)]}
            if recording is not None:
                recording.add(
                    time=now,
                    images=pair,
                    state={"joint_pos": q},
                    action=q,
                    requested_action=q,
                    reward=0.0,
                    terminal=False,
                    source=2,
                    image_time=dict.fromkeys(pair, now),
                )
    return late, _cpu() - used


def main(config: Config) -> None:
    frames, console = scenes(), Console()
    folder = Path(tempfile.mkdtemp(prefix="recording.", dir=config.folder))
    rounds: list[dict[str, Any]] = []
    try:
        for number in range(2 * config.rounds):
            recorded = bool(number % 2)
            path = folder / f"{number}.zarr"
            finish, dropped = 0.0, 0
            store = EpisodeStore.create(path, SPEC, compression=config.compression)
            with store, store.record() if recorded else nullcontext() as recording:
                late, cpu = run_loop(config.seconds, frames, recording)
                if recording is not None:
                    begun = time.monotonic()
                    recording.finish({})
                    finish = time.monotonic() - begun
                    dropped = recording.dropped
            size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
            rounds.append(
                {
                    "recorded": recorded,
                    "cores": cpu / config.seconds,
                    "late_ms": {q: 1e3 * float(np.quantile(late, float(q))) for q in ("0.5", "0.99", "0.999", "1")},
                    "missed": float((late > 1 / STATE_HZ).mean()),
                    "mb_per_s": size / 1e6 / config.seconds,
                    "finish_s": finish,
                    "dropped": dropped,
                }
            )
            shutil.rmtree(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(config, rounds, console)


def show(config: Config, rounds: list[dict[str, Any]], console: Console) -> None:
    def median(recorded: bool, *keys: str) -> float:
        found = []
        for line in rounds:
            if line["recorded"] == recorded:
                value: Any = line
                for key in keys:
                    value = value[key]
                found.append(value)
        return float(np.median(found))

    table = Table("", "loop alone", "recording", title=f"two 640x480 cameras at 30 Hz, 500 Hz state, {config.compression}")
    rows = [("cores", "cores"), *((f"tick late by, quantile {q}, ms", "late_ms", q) for q in ("0.5", "0.99", "0.999", "1"))]
    rows += [
        ("ticks late by a whole period", "missed"),
        ("written, MB/s", "mb_per_s"),
        ("finish, s", "finish_s"),
        ("rows dropped", "dropped"),
    ]
    for name, *keys in rows:
        table.add_row(name, *(f"{median(recorded, *keys):.4g}" for recorded in (False, True)))
    console.print(table)
    cost = median(True, "cores") - median(False, "cores")
    console.print(f"recording costs {cost:.2f} cores (goal: below 0.5); load average {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores")
    if config.out is not None:
        settings = {k: str(v) for k, v in vars(config).items()}
        config.out.write_text(json.dumps({"config": settings, "cost_cores": cost, "rounds": rounds}, indent=1))


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main(tyro.cli(Config, config=(tyro.conf.AvoidSubcommands,)))
