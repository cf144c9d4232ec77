"""What the governor costs per step, and how soon it stops an arm, beside its bound.

    python benchmarks/governor.py

A UR5e at 500 Hz over a table, as a real one is set up: joint targets, a workspace box for tool and elbow, look-ahead against itself and the
table. "ruckig" is the least any jerk-limited setpoint costs. Stops: the pilot falls silent in the middle of a fuzzed flight; bound =
stale_s + the longest v/a + 2 a/j. Run it with nothing else.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
from ruckig import InputParameter, OutputParameter, Ruckig

from hardware import arms
from hardware.clearance import Inside
from hardware.governor import Governor, Limits
from hardware.kinematics import Box, JointPosition
from hardware.mujoco.apart import Apart, ArmGeometry
from hardware.types import ArmState, ArraySpec, Command, Source

PERIOD_S = 0.1
BOX = Box(np.array([-0.9, -0.9, 0.02]), np.array([0.9, 0.9, 1.2]))


def governor_of(name: str, careful: bool = True) -> Governor:
    """An arm's governor; careful: with everything that looks ahead."""
    model = arms.find(name)[1]
    spec, geometry = model.spec, ArmGeometry(model, table_z=-0.01)
    action = ArraySpec((*spec.joints, "gripper"), (*("rad",) * len(spec.joints), "1"), (*spec.q_min, 0.0), (*spec.q_max, 1.0))
    kinematics = JointPosition(len(spec.joints), gripper=True, position=geometry.tool, reach=geometry.tool_reach)
    limits = Limits(workspace=BOX if careful else None, tracking_error=np.full(len(spec.joints), 0.3))
    keep = [Inside("elbow", BOX, geometry.elbow, 0.01, geometry.elbow_reach), Apart(geometry)] if careful else []
    return Governor(spec, limits, action, kinematics, PERIOD_S, keep)


def fly(governor: Governor, seconds: float, rng: np.random.Generator, wild: float) -> list[float]:
    """CPU time of each step [s] while the pilot wanders; the arm follows at once."""
    spec, now, spent, q = governor.arm, 0.0, [], governor.arm.home.copy()
    governor.reset(now, q, 0.0)
    goal, due = q.copy(), 0.0
    for tick in range(round(seconds / governor.dt)):
        now = tick * governor.dt
        if now >= due:
            goal = np.clip(goal + rng.normal(0, wild, len(q)) * spec.v_max * PERIOD_S, spec.q_min, spec.q_max)
            goal += 0.2 * (spec.home - goal)
            governor.admit(Command(now, np.append(goal, 0.5).astype(np.float32), Source.SCRIPTED), now)
            due += PERIOD_S
        began = time.perf_counter()
        setpoint = governor.step(now, ArmState(now, tick, q, np.zeros_like(q), 0.0))
        spent.append(time.perf_counter() - began)
        q = setpoint.q
    return spent


def stop_seconds(governor: Governor, rng: np.random.Generator) -> float:
    """From the last command to rest."""
    fly(governor, rng.uniform(0.5, 1.5), rng, 1.0)
    silent, tick = governor._admitted_time, 0
    now = governor._now
    while not (governor.stopped and governor.at_rest):
        tick += 1
        now += governor.dt
        governor.step(now, ArmState(now, 10_000_000 + tick, governor.setpoint.q, np.zeros_like(governor.setpoint.q), 0.0))
    return now - silent


def ruckig_alone(governor: Governor, steps: int) -> float:
    spec = governor.arm
    planner, given, out = Ruckig(len(spec.joints), governor.dt), InputParameter(len(spec.joints)), OutputParameter(len(spec.joints))
    given.current_position = spec.home.tolist()
    given.max_velocity, given.max_acceleration, given.max_jerk = spec.v_max.tolist(), spec.a_max.tolist(), spec.j_max.tolist()
    spent = []
    for tick in range(steps):
        given.target_position = (spec.home + 0.3 * np.sin(0.01 * tick)).tolist()
        began = time.perf_counter()
        planner.update(given, out)
        spent.append(time.perf_counter() - began)
        out.pass_to_input(given)
    return 1e6 * float(np.median(spent))


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--arm", default="ur5e")
    words.add_argument("--seconds", type=float, default=20.0, help="of flight")
    words.add_argument("--stops", type=int, default=200)
    asked = words.parse_args()
    rng = np.random.default_rng(0)
    careful = governor_of(asked.arm)
    print(json.dumps({"ruckig_us": round(ruckig_alone(careful, 5000), 1)}))
    for what, governor, wild in (
        ("limits only", governor_of(asked.arm, careful=False), 0.3),
        ("looking ahead, gentle", careful, 0.1),
        ("looking ahead, lively", careful, 0.3),
        ("looking ahead, wild", careful, 1.0),
    ):
        spent = 1e6 * np.array(fly(governor, asked.seconds, rng, wild))
        row = {"flight": what, "step_us": round(float(np.median(spent)), 1), "mean_us": round(float(spent.mean()), 1)}
        print(
            json.dumps(row | {"p99_us": round(float(np.percentile(spent, 99)), 1), "interventions": dict(governor.interventions)}),
            flush=True,
        )
    stops = [stop_seconds(careful, rng) for _ in range(asked.stops)]
    bound = careful.limits.stale_s + careful.brake_s
    print(
        json.dumps(
            {
                "stops": len(stops),
                "median_s": round(float(np.median(stops)), 3),
                "worst_s": round(max(stops), 3),
                "bound_s": round(bound, 3),
            }
        )
    )
