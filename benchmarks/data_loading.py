"""Training windows per second: our store against LeRobot, robomimic and Diffusion Policy, on the same demonstrations, in one run.

    python benchmarks/data_loading.py --out data_loading.json           # everything; --quick: does it run at all
    python benchmarks/data_loading.py --memory --imports                # a store larger than memory; import times; nothing else

Every contestant (benchmarks/peers/) runs in a process of its own, with one torch thread. Rounds alternate between them, so that
whatever else the machine does falls on all; numbers are medians over rounds, ratios the medians of each round's ratio. A sample of the
case "diffusion" holds 2 frames of 2 cameras and 16 actions, of "sequence" 16 frames and 16 actions; batches of 64 in random order.
Images are 84x84 uint8; Diffusion Policy and LeRobot's image store hand out float32, robomimic never fewer frames than actions.

Peers need interpreters of their own, with the packages of a plain `uv pip install`; one that is not named is left out:

    uv venv --python 3.12 lerobot   && uv pip install --python lerobot/bin/python "lerobot[dataset,training,diffusion]>=0.5"
    uv venv --python 3.11 robomimic && uv pip install --python robomimic/bin/python robomimic==0.3.0
    uv venv --python 3.11 dp        && uv pip install --python dp/bin/python "zarr<3" "numcodecs<0.16" imagecodecs numba h5py \\
                                           omegaconf filelock threadpoolctl torch tqdm
    export ROBOLEARN_PEER_LEROBOT=$PWD/lerobot/bin/python ROBOLEARN_PEER_ROBOMIMIC=$PWD/robomimic/bin/python
    export ROBOLEARN_PEER_DP=$PWD/dp/bin/python ROBOLEARN_PEER_DP_SOURCE=...   # a checkout of real-stanford/diffusion_policy

LeRobot decodes video with torchcodec where FFmpeg's libraries are installed (or on LD_LIBRARY_PATH), else, slower, with PyAV.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table

PEERS = Path(__file__).parent / "peers"
sys.path.insert(0, str(PEERS))

import demos  # noqa: E402  # pyright: ignore[reportMissingImports]
import limited  # noqa: E402  # pyright: ignore[reportMissingImports]
from running import DP_SOURCE, Entry, Running  # noqa: E402  # pyright: ignore[reportMissingImports]
from series import disk_bytes  # noqa: E402  # pyright: ignore[reportMissingImports]


@dataclass
class Args:
    data: Path | None = None
    """a folder on the disk to be measured: the demonstrations and every contestant's form of them, used again; None: a temporary one"""
    rounds: int = 5
    """alternating rounds"""
    seconds: float = 1.5
    """of each series [s]"""
    workers: tuple[int, ...] = (0, 2)
    demos: int = 20
    steps: int = 200
    quick: bool = False
    """a small set and short series: whether everything runs, no numbers to quote"""
    memory: bool = False
    """measure a shuffle over a store larger than the memory allowed"""
    memory_mb: int = 300
    """how much is allowed [MB]"""
    cgroup: Path | None = None
    """an empty memory cgroup (v1 or v2) that may get a child; None: one is tried below this process's own"""
    imports: bool = False
    """measure the time to import robolearn.data"""
    out: Path | None = None
    """where the numbers go, JSON"""


FLOOR = Entry("memory map (floor)", "memory_map", "uint8")
OURS = Entry("ours, zstd", "ours", "zstd")
CACHED = [Entry("ours, zstd, mapped cache", "ours", "zstd+mapped"), Entry("ours, zstd, RAM cache", "ours", "zstd+ram")]
CODECS = [OURS, *(Entry(f"ours, {codec}", "ours", codec) for codec in ("jpegxl", "jpeg:95", "h264"))]
LEROBOT = {kind: Entry(f"LeRobot, {kind}", "lerobot_dataset", kind, "ROBOLEARN_PEER_LEROBOT") for kind in ("video", "image")}
ROBOMIMIC = {kind: Entry(f"robomimic, cache {kind}", "robomimic_dataset", kind, "ROBOLEARN_PEER_ROBOMIMIC") for kind in ("none", "low_dim")}
DP = {
    kind: Entry(f"Diffusion Policy, {kind}", "diffusion_policy_dataset", kind, "ROBOLEARN_PEER_DP", DP_SOURCE)
    for kind in ("jpeg2k", "numpy")
}
GROUPS = {
    "diffusion": [OURS, FLOOR, *CACHED, *LEROBOT.values(), *DP.values(), ROBOMIMIC["low_dim"]],
    "sequence": [OURS, FLOOR, *CACHED, *ROBOMIMIC.values(), LEROBOT["video"], *DP.values()],
}
GOALS = [  # case, theirs, how many times as fast
    ("diffusion", LEROBOT["video"], 10.0),
    ("diffusion", LEROBOT["image"], 10.0),
    ("diffusion", DP["jpeg2k"], 10.0),
    ("sequence", ROBOMIMIC["none"], 3.0),
    ("diffusion", FLOOR, 0.5),
    ("sequence", FLOOR, 0.5),
]


def prepare(entry: Entry, data: Path) -> dict[str, Any]:
    """What it says of its form of the demonstrations, which is made where it is missing."""
    told = data / f"{entry.script}-{entry.variant}.json"
    if not told.exists():
        print(f"writing: {entry.label}", flush=True)
        told.write_text(json.dumps(Running(entry, data, "--prepare").answer()))
        os.sync()  # the kernel forgets clean pages only
    return json.loads(told.read_text())


def turns(entry: Entry, case: str, workers: int, data: Path, args: Args, found: dict[str, Any]) -> Iterator[None]:
    """A contestant's whole run, which stops after every series: the others have their turn. `found` gets what it says."""
    one = Running(entry, data, "--case", case, "--workers", str(workers))
    found |= one.answer() | {"cold": [], "warm": []}
    yield
    for _ in range(args.rounds):
        for kind in ("cold", "warm"):
            found[kind].append(one.series(kind, args.seconds))
            yield
    found |= one.close()


def race(entries: Sequence[Entry], case: str, workers: int, data: Path, args: Args) -> dict[str, Any]:
    """label -> its rates by kind and round, and what it said before and after. A peer that fails is named and left out."""
    print(f"{case}, {workers} workers: {', '.join(entry.label for entry in entries)}", flush=True)
    found: dict[str, dict[str, Any]] = {entry.label: {} for entry in entries}
    waiting = {entry.label: turns(entry, case, workers, data, args, found[entry.label]) for entry in entries}
    while waiting:
        for label in list(waiting):
            try:
                next(waiting[label])
            except StopIteration:
                del waiting[label]
            except ChildProcessError as error:
                if label == OURS.label:
                    raise
                print(f"{label} failed: {error}", flush=True)
                del waiting[label], found[label]
    return found


def rates(found: Mapping[str, Any], kind: str = "warm", what: str = "samples_per_s") -> np.ndarray:
    return np.array([series[what] for series in found[kind]])


def goals(races: Mapping[str, Any], prepared: Mapping[str, Any], png: int) -> list[dict[str, Any]]:
    """A line for each goal: what, the value, the bound, met or not."""
    lines = []
    for case, theirs, times in GOALS:
        for name, race_found in races.items():
            if not name.startswith(f"{case},"):
                continue
            for mine in [OURS, *CACHED] if theirs is FLOOR else [OURS]:
                if theirs.label in race_found:
                    ratio = float(np.median(rates(race_found[mine.label]) / rates(race_found[theirs.label])))
                    lines.append({"goal": f"{name}: {mine.label} / {theirs.label}", "value": ratio, "at_least": times})
    lines.append({"goal": "bytes on disk: ours, zstd / PNG", "value": prepared[OURS.label]["bytes"] / png, "at_most": 2.0})
    return lines


def met(goal: Mapping[str, Any]) -> bool:
    return goal["value"] >= goal["at_least"] if "at_least" in goal else goal["value"] <= goal["at_most"]


def png_bytes(data: Path) -> int:
    """Of all frames, as Pillow writes them by default."""
    whole = 0
    for name in demos.CAMERAS:
        for frame in demos.raw(data, name):
            Image.fromarray(frame).save(file := BytesIO(), "PNG")
            whole += len(file.getvalue())
    return whole


def measure(data: Path, args: Args) -> dict[str, Any]:
    demos.write(data, args.demos, args.steps)
    wanted = {entry.label: entry for group in (*GROUPS.values(), CODECS) for entry in group}
    here = {label: entry for label, entry in wanted.items() if entry.missing is None}
    # A cache is made from the store, when that is opened.
    prepared = {label: prepare(entry, data) for label, entry in here.items() if entry not in CACHED}
    races = {
        f"{case}, {workers} workers": race([entry for entry in group if entry.label in here], case, workers, data, args)
        for case, group in GROUPS.items()
        for workers in args.workers
    }
    races["codecs"] = race(CODECS, "diffusion", max(args.workers), data, args)
    png = png_bytes(data)
    return {
        "goals": goals(races, prepared, png),
        "races": races,
        "prepared": prepared,
        "png_bytes": png,
        "raw_bytes": disk_bytes(data / "raw"),
        "left_out": {label: entry.missing for label, entry in wanted.items() if label not in here},
    }


def show(result: Mapping[str, Any], console: Console) -> None:
    prepared = result["prepared"]
    for name, found in result["races"].items():
        table = Table("", "warm /s", "per CPU s", "cold /s", "ours / it", "first batch s", "import s", "peak MB", title=f"{name}: samples")
        for label, one in found.items():
            ratio = np.median(rates(found[OURS.label]) / rates(one))
            cells = [np.median(rates(one)), np.median(rates(one, "warm", "samples_per_cpu_s")), np.median(rates(one, "cold"))]
            times = [f"{one['first_batch_s']:.1f}", f"{one['import_s']:.1f}", f"{one['peak_mb']:.0f}"]
            table.add_row(label, *(f"{cell:,.0f}" for cell in cells), f"{ratio:.2f}x", *times)
        console.print(table)
    table = Table("", "MB", "/ PNG", "write s", "encode ms", "decode ms", "PSNR dB", title="on disk; a frame on one thread")
    png = result["png_bytes"]
    rows: dict[str, Mapping[str, Any]] = {"raw": {"bytes": result["raw_bytes"]}, "PNG": {"bytes": png}, **prepared}
    for label, one in rows.items():
        cells = [f"{one[key]:.{digits}f}" if key in one else "" for key, digits in (("write_s", 1), ("encode_ms", 3), ("decode_ms", 3))]
        psnr = "lossless" if one.get("lossless") else f"{one['psnr_db']:.1f}" if one.get("psnr_db") else ""
        table.add_row(label, f"{one['bytes'] / 1e6:.1f}", f"{one['bytes'] / png:.2f}", *cells, psnr)
    console.print(table)
    for label, variable in result["left_out"].items():
        console.print(f"left out: {label}: {variable} is not set")


def import_times(runs: int = 5) -> dict[str, Any]:
    """Seconds that `import robolearn.data` takes in a fresh interpreter, and whether it brought torch."""
    code = "import sys, time; t = time.perf_counter(); import robolearn.data; print(time.perf_counter() - t, 'torch' in sys.modules)"
    told = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() for _ in range(runs)]
    return {"seconds": float(np.median([float(seconds) for seconds, _ in told])), "torch": any(found == "True" for _, found in told)}


def main(args: Args) -> None:
    if args.quick:
        args.demos, args.steps, args.rounds, args.seconds, args.workers = 3, 60, 2, 0.2, (2,)
        args.memory_mb = min(args.memory_mb, 250)
    console = Console(width=None if sys.stdout.isatty() else 140)
    result: dict[str, Any] = {"goals": []}
    if args.data is not None:
        args.data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="data_loading_") as temporary:
        data = args.data or Path(temporary)
        if args.imports:
            result["imports"] = import_times()
            console.print("import robolearn.data: {seconds:.2f} s, torch loaded: {torch}".format(**result["imports"]))
        if args.memory:
            result["memory"] = limited.measure(data, args.memory_mb, args.rounds, args.seconds, args.cgroup)
            result["goals"].append(limited.goal(result["memory"]))
            console.print_json(data=result["memory"])
        if not (args.imports or args.memory):
            result |= measure(data, args)
            show(result, console)
    for goal in result["goals"]:
        bound = f">= {goal['at_least']:g}" if "at_least" in goal else f"<= {goal['at_most']:g}"
        word = "no count" if not goal.get("counts", True) else "met     " if met(goal) else "NOT MET "
        console.print(f"{word} {goal['goal']}: {goal['value']:.2f} (goal {bound})", highlight=False, soft_wrap=True)
    if args.out is not None:
        machine = {"cpus": os.cpu_count(), "load": os.getloadavg(), "platform": platform.platform(), "python": platform.python_version()}
        args.out.write_text(json.dumps(result | {"machine": machine}, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Args))
