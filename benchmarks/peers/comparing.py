"""Two policies in turns: what inference.py and training.py do with the contestants of policy_speed."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from policy_speed import Setup  # pyright: ignore[reportMissingImports]
from rich.console import Console
from rich.table import Table
from running import Entry, Running  # pyright: ignore[reportMissingImports]


@dataclass
class Args:
    out: Path | None = None
    """folder for results.json; None: printed only"""
    rounds: int = 7
    """alternating rounds"""
    calls: int = 3
    """timed calls of each round"""
    device: str = "cpu"
    threads: int = 2
    precisions: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    only: str = ""
    """measure only the sizes whose name holds this"""


def compare(kind: Literal["plan", "update"], unit: str, sizes: Mapping[str, Setup], args: Args) -> None:
    """Measure every size in every precision, print a table, write OUT/results.json."""
    rows: list[dict[str, Any]] = []
    for name, size in sizes.items():
        for precision in args.precisions:
            if args.only in name:
                setup = replace(size, precision=precision, device=args.device, threads=args.threads)
                rows.append({"size": name, "precision": precision} | measure(kind, setup, args))
                show(rows, unit)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        machine = {"machine": platform.platform(), "cpus": len(os.sched_getaffinity(0))}
        (args.out / "results.json").write_text(json.dumps({**machine, "kind": kind, "rows": rows}, indent=2))


def measure(kind: str, setup: Setup, args: Args) -> dict[str, Any]:
    entries = [Entry("ours", "our_diffusion", setup.dump()), Entry("lerobot", "lerobot_diffusion", setup.dump(), "ROBOLEARN_PEER_LEROBOT")]
    entries = [entry for entry in entries if not entry.missing]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        running = {entry.label: Running(entry, Path(folder), name=entry.label) for entry in entries}
        for label, process in running.items():
            found[label] = process.answer() | {"seconds": []}
        for process in running.values():
            process.series(kind, 2)  # warm-up
        for _ in range(args.rounds):
            for label, process in running.items():
                found[label]["seconds"].append(process.series(kind, args.calls)["seconds"])
        for label, process in running.items():
            found[label] |= process.close()
    return found


def show(rows: list[dict[str, Any]], unit: str) -> None:
    table = Table(
        "size",
        "precision",
        "parameters (network + encoder)",
        f"ours: median {unit}",
        "p99",
        "LeRobot: parameters",
        "median",
        "p99",
        "ratio",
    )
    for row in rows:
        ours, theirs = row["ours"], row.get("lerobot")
        cells = [row["size"], row["precision"], _parameters(ours), *_times(ours)]
        if theirs:
            ratio = np.median(np.median(theirs["seconds"], axis=1) / np.median(ours["seconds"], axis=1))
            cells += [_parameters(theirs), *_times(theirs), f"{ratio:.2f}"]
        table.add_row(*cells)
    Console(width=180).print(table)


def _parameters(found: Mapping[str, Any]) -> str:
    return " + ".join(f"{count / 1e6:.1f} M" for count in found["parameters"].values())


def _times(found: Mapping[str, Any]) -> tuple[str, str]:
    ms = 1e3 * np.array(found["seconds"]).ravel()
    return f"{np.median(ms):.1f}", f"{np.percentile(ms, 99):.1f}"
