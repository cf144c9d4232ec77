"""Pilots gone wild on real arms' governors, as they are set up for deployment: every limit on every setpoint, and every stop in time.

    python benchmarks/fuzz.py --episodes 10000

Each episode: a UR5e, an FR3 or an SO-101 over a table from a random pose with room around it; for one to two and a half seconds commands
of every kind (near, far, NaN, infinite, 1e300, of another shape, late, early, none), jitter, pauses, lost and noisy measurements, a servo
that lags; then silence. Judged from the setpoints alone: finite; position, velocity, acceleration and jerk within the limits; no two
parts, and nothing and the table, overlap as capsules; tool and elbow above the table's margin but for the tolerance; at rest within
stale_s + the longest v/a + 2 a/j + two ticks of the last command. Prints what broke, which should be nothing. Episode i is always the same.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections import Counter
from functools import cache

import numpy as np

from hardware import RealConfig, RobotConfig, arms
from hardware.arms.model import ArmModel
from hardware.governor import Governor
from hardware.mujoco.apart import ArmGeometry
from hardware.real import governor_of, spec
from hardware.types import ArmState, Command, Source

ARMS = ("ur5e", "fr3", "so101")
TABLE_M = -0.02
PERIOD = 0.1


@cache
def setup(name: str) -> tuple[ArmModel, RobotConfig, ArmGeometry]:
    return (
        arms.find(name)[1],
        RobotConfig(name, stale_s=0.25, arm=RealConfig(speed=0.5, table_m=TABLE_M)),
        ArmGeometry(arms.find(name)[1], TABLE_M),
    )


def start_of(model: ArmModel, geometry: ArmGeometry, rng: np.random.Generator) -> np.ndarray:
    while True:
        q = model.spec.home + rng.normal(0, 0.5, len(model.spec.joints))
        inside = (q > model.spec.q_min + 0.05).all() and (q < model.spec.q_max - 0.05).all()
        if inside and geometry.rooms(q).min() > 0.03 and geometry.tool(q)[2] > TABLE_M + 0.03:
            return q


def episode(index: int) -> tuple[Counter[str], Counter[str], int, float]:
    """(what broke, what the governor did, setpoints, share of the bound that the stop took)."""
    rng = np.random.default_rng([31, index])
    model, config, geometry = setup(ARMS[index % len(ARMS)])
    governor = governor_of(model, config, spec(config))
    arm, dt, n = governor.arm, governor.dt, len(model.spec.joints)
    q = measured = start_of(model, geometry, rng)
    governor.reset(0.0, q, 0.0)
    rows, times, now, last, tick = [(q, np.zeros(n), np.zeros(n))], [0.0], 0.0, 0.0, 0
    quiet, due, aim = rng.uniform(1.0, 2.5), 0.0, q.copy()
    while now < quiet or not (governor.stopped and governor.at_rest):
        if now > quiet + 5:
            break
        if now >= due and now < quiet:
            due, alive = now + PERIOD * rng.uniform(0.5, 1.5), governor._alive_until
            aim = wander(aim, arm.q_min, arm.q_max, rng)
            action, time, pause = wild(aim, now, rng)
            now += pause
            governor.admit(Command(time, action, Source.POLICY), now)
            if governor._alive_until != alive:
                last = now
        late, lost = 0.9 * dt * rng.random() * (rng.random() < 0.2), rng.random() < 0.05
        state = None if lost else ArmState(now + late, tick + 1, measured + rng.normal(0, 1e-4, n), np.zeros(n), 0.0)
        setpoint = governor.step(now + late, state)
        rows.append((setpoint.q, setpoint.v, setpoint.a))
        times.append(now + late)
        measured = measured + 0.4 * (setpoint.q - measured)
        now, tick = now + dt, tick + 1
    broken = judge(governor, geometry, rows, times)
    moving = [t for t, (_, v, _) in zip(times, rows, strict=True) if np.abs(v).max() > 1e-6]
    took = (moving[-1] if moving else last) - last
    bound = governor.limits.stale_s + governor.brake_s + 2 * dt
    broken["stop"] += took > bound or not governor.at_rest
    return broken, governor.interventions, len(rows) - 1, took / bound


def wander(aim: np.ndarray, low: np.ndarray, high: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip(aim + rng.normal(0, 0.15, len(aim)), low, high)


def wild(aim: np.ndarray, now: float, rng: np.random.Generator) -> tuple[np.ndarray, float, float]:
    """(action, time, a pause before it)."""
    action, time, pause, kind = np.append(aim, rng.random()), now, 0.0, int(rng.integers(9))
    if kind == 1:
        action[:-1] += rng.normal(0, 2.0, len(aim))
    elif kind == 2:
        action[rng.integers(len(action))] = rng.choice([np.nan, np.inf, -np.inf])
    elif kind == 3:
        action = action * rng.choice([1e6, -1e6, 1e300])
    elif kind == 4:
        action = action[: rng.integers(len(action))]
    elif kind == 5:
        time -= rng.uniform(0.0, 1.0)
    elif kind == 6:
        time += rng.uniform(0.0, 1.0)
    elif kind == 7 and rng.random() < 0.3:
        pause = rng.uniform(0.04, 0.2)
        time = now + pause
    return action, time, pause


def judge(governor: Governor, geometry: ArmGeometry, rows: list, times: list[float]) -> Counter[str]:
    arm, dt = governor.arm, governor.dt
    told, planned_v, a = (np.array([row[i] for row in rows]) for i in range(3))
    v, near = np.diff(told, axis=0) / dt, 1 + 1e-6
    unbroken = np.diff(times)[1:] <= 3 * dt  # where nobody wrote for longer, the arm stood still in between
    jerk, acceleration = np.abs(np.diff(a, axis=0))[1:][unbroken] / dt, np.abs(np.diff(v, axis=0))[unbroken] / dt
    limits = governor.limits
    assert limits.workspace is not None
    floor = limits.workspace.low[2] - limits.workspace_tolerance
    heights = np.array([min(geometry.tool(q)[2], *geometry.elbow(q)[:, 2]) for q in told])
    wrong = {
        "finite": not np.isfinite(told).all(),
        "position": bool((told < arm.q_min - 1e-6).any() or (told > arm.q_max + 1e-6).any()),
        "velocity": bool((np.abs(v) > arm.v_max * near).any() or (np.abs(planned_v) > arm.v_max * near).any()),
        "acceleration": bool((np.abs(a) > arm.a_max * near).any() or (acceleration > arm.a_max * near).any()),
        "jerk": bool((jerk > arm.j_max * near).any()),
        "collision": min(geometry.rooms(q).min() for q in told) < 0.0,
        "height": bool((heights < floor).any()),
    }
    return Counter(name for name, is_so in wrong.items() if is_so)


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--episodes", type=int, default=10_000)
    words.add_argument("--first", type=int, default=0)
    words.add_argument("--processes", type=int, default=2)
    asked = words.parse_args()
    broken, did, setpoints, worst, bad = Counter[str](), Counter[str](), 0, 0.0, list[int]()
    with multiprocessing.get_context("spawn").Pool(asked.processes) as pool:
        indices = range(asked.first, asked.first + asked.episodes)
        for index, (wrong, interventions, count, share) in zip(indices, pool.imap(episode, indices, 20), strict=True):
            broken, did, setpoints, worst = broken + wrong, did + interventions, setpoints + count, max(worst, share)
            if wrong.total():
                bad.append(index)
    print(json.dumps({"episodes": asked.episodes, "setpoints": setpoints, "broken": dict(broken), "in episodes": bad[:20]}))
    print(json.dumps({"slowest stop, share of its bound": round(worst, 3), "interventions": dict(did.most_common())}))
