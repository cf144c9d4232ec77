"""How late an arm's loop ticks, and how soon a command becomes motion, through the vendors' own SDKs to doubles.

    python benchmarks/loop.py --arms ur5e fr3 so101 --seconds 60

For each arm, with and without SCHED_FIFO, with and without two busy processes beside it: lateness of ticks in the loop's own process
(p50, p99, p99.9, worst), ticks missed; "sleep": a loop of the same rate that only sleeps, in a process of the same kind. Command to
motion: from `robot.send` of a step to the first measurement that moved. The doubles run on the same machine and take their share of it.
Needs root, or `ulimit -r`, for SCHED_FIFO; without it those rows say so.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from typing import Any

import numpy as np

import hardware
from hardware import RealConfig, RobotConfig
from hardware.doubles import launch
from hardware.process import ArmProcess
from hardware.process_server import PRIORITY
from hardware.robot import SafeRobot
from hardware.types import Command, Source

STEP_RAD = 0.05
MOVED_RAD = 0.002


def burn() -> None:
    while True:
        sum(range(10_000))


def sleeper(rate_hz: float, seconds: float, fifo: bool, pipe: Any) -> None:
    """The least any loop is late by: it does nothing."""
    if fifo:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    late, due = [], time.monotonic()
    for _ in range(round(rate_hz * seconds)):
        due += 1 / rate_hz
        time.sleep(max(0.0, due - time.monotonic()))
        late.append(time.monotonic() - due)
        due = max(due, time.monotonic() - 1 / rate_hz)
    pipe.send(late)


def plain_sleep(rate_hz: float, seconds: float, fifo: bool) -> np.ndarray:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=sleeper, args=(rate_hz, seconds, fifo, theirs))
    process.start()
    late = np.array(ours.recv())
    process.join()
    return late


def lateness(late_s: np.ndarray, rate_hz: float) -> dict[str, float]:
    ms = 1e3 * np.asarray(late_s)
    found = {f"p{p:g}_ms": round(float(np.percentile(ms, p)), 3) for p in (50, 99, 99.9)}
    return found | {"worst_ms": round(float(ms.max()), 2), "ticks": len(ms), "missed": int((ms > 1e3 / rate_hz).sum())}


def fly(robot: SafeRobot, seconds: float) -> np.ndarray:
    """Lateness [s] of every tick while the arm waves gently; commands at the decision rate."""
    loop = robot.loop
    assert isinstance(loop, ArmProcess)
    home, late, ends, seen = loop.governor.arm.home, [], time.monotonic() + seconds, loop.row().time
    k = 0
    while time.monotonic() < ends:
        observation = robot.observe()
        k += 1
        robot.send(Command(observation.time, np.append(home + 0.05 * np.sin(0.2 * k), 0.5).astype(np.float32), Source.SCRIPTED))
        rows = [row for row in loop.history(400) if row.time > seen]
        seen = rows[-1].time if rows else seen
        late += [row.late_s for row in rows]
    if robot.stopped:
        raise SystemExit(f"{robot.spec.name}: stopped: {robot.stopped}")
    return np.array(late)


def to_motion(robot: SafeRobot, times: int) -> dict[str, float]:
    """From sending a step to the first measurement that moved [ms]."""
    loop = robot.loop
    assert isinstance(loop, ArmProcess)
    home, found = loop.governor.arm.home, []
    for _ in range(times):
        for _ in range(12):  # at rest where it is
            robot.send(Command(robot.observe().time, np.append(robot.loop.state.q, 0.5).astype(np.float32), Source.SCRIPTED))
        start = loop.row().state.q
        goal, sent = start + np.where(start < home, STEP_RAD, -STEP_RAD), time.monotonic()  # never where it already is
        robot.send(Command(sent, np.append(goal, 0.5).astype(np.float32), Source.SCRIPTED))
        while np.abs((state := loop.row().state).q - start).max() < MOVED_RAD and time.monotonic() < sent + 2:
            time.sleep(0.0005)
        if robot.stopped:
            raise SystemExit(f"{robot.spec.name}: stopped on the way: {robot.stopped}")
        found.append(1e3 * (state.time - sent))
        robot.observe()
    return {"to_motion_ms": round(float(np.median(found)), 1), "to_motion_p90_ms": round(float(np.percentile(found, 90)), 1)}


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--arms", nargs="+", default=["ur5e", "fr3", "so101"])
    words.add_argument("--seconds", type=float, default=60.0, help="per row")
    words.add_argument("--steps", type=int, default=10, help="commands whose way to motion is timed")
    words.add_argument("--realtime", nargs="+", choices=["yes", "no"], default=["yes", "no"])
    words.add_argument("--burners", nargs="+", type=int, default=[0, 2], help="busy processes beside it")
    asked = words.parse_args()
    for count in asked.burners:
        burners = [multiprocessing.get_context("spawn").Process(target=burn, daemon=True) for _ in range(count)]
        for burner in burners:
            burner.start()
        for name in asked.arms:
            for fifo in [choice == "yes" for choice in asked.realtime]:
                with launch(name) as double:
                    config = RobotConfig(name, arm=RealConfig(address=double.address, table_m=None, realtime=fifo))
                    with hardware.open(config) as robot:
                        assert isinstance(robot.loop, ArmProcess)
                        robot.reset(np.random.default_rng(0))
                        row = {"arm": name, "rate_hz": robot.governor.arm.rate_hz, "realtime": robot.loop.realtime, "busy": count}
                        row |= lateness(fly(robot, asked.seconds), robot.governor.arm.rate_hz)
                        row |= to_motion(robot, asked.steps)
                print(json.dumps(row | {"load": round(os.getloadavg()[0], 1)}), flush=True)
                try:
                    late = plain_sleep(row["rate_hz"], min(asked.seconds, 20.0), fifo)
                    print(json.dumps({"sleep": row["rate_hz"], "fifo": fifo, "busy": count} | lateness(late, row["rate_hz"])), flush=True)
                except EOFError:
                    print(json.dumps({"sleep": row["rate_hz"], "fifo": "refused"}), flush=True)
        for burner in burners:
            burner.kill()
