"""A double behind hardware.open: whoever flies it, whatever breaks, and a judge of what the arm was told.

Run as a program it is a pilot in a process of its own, for tests that take its life:
    python -m tests.hardware.wire NAME ADDRESS END
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import resource_tracker

import mujoco
import numpy as np

import hardware
from hardware import RealConfig, RobotConfig
from hardware.arms.model import TOOL
from hardware.doubles import Double
from hardware.doubles.panel import FAULTS
from hardware.loop import ArmLoop
from hardware.process import ArmProcess
from hardware.process_server import Row
from hardware.ring import Ring
from hardware.robot import SafeRobot
from hardware.types import ArmSpec, Command, HardwareError, Source

SDKS = {"ur5e": "rtde_control", "so101": "scservo_sdk", "fr3": "pylibfranka"}
SPEED = 0.5
SWING = 0.8  # rad of the first joint, to either side of home
ABOVE_M = 0.12  # above the tool at home begins what is not the workspace
ROWS = 4000  # that a ring holds
MOVING = 0.3  # rad/s


def config(name: str, address: str) -> RobotConfig:
    top = float(tool(name, hardware.arms.find(name)[1].spec.home)[2]) + ABOVE_M
    real = RealConfig(address=address, speed=SPEED)
    return RobotConfig(name, arm=real, workspace_low=(-2.0, -2.0, 0.01), workspace_high=(2.0, 2.0, top))


def wait(until: Callable[[], object], seconds: float = 20.0) -> bool:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if until():
            return True
        time.sleep(0.01)
    return False


def steady(double: Double) -> None:
    """An arm does not compete with anybody for this computer's time."""
    for thread in os.listdir(f"/proc/{double.pid}/task"):
        with suppress(OSError):
            os.sched_setscheduler(int(thread), os.SCHED_FIFO, os.sched_param(70))


# The judge ----------------------------------------------------------------------------------------------------------


def violations(rows: Sequence[Row], arm: ArmSpec) -> list[str]:
    """What the limits forbid in what the arm was told, from positions and times alone; as LimitProbe, on rows of a ring.

    Where the loop paused, a servo has come to rest at its last setpoint. The rows have one anchor.
    """
    rows = [row for row in rows if not row.halted]  # of a halted arm they repeat what was told last
    if len(rows) < 2:
        return []
    q, times, dt = np.array([row.setpoint.q for row in rows]), np.array([row.time for row in rows]), 1.0 / arm.rate_hz
    if not (np.isfinite(q).all() and all(0.0 <= row.setpoint.gripper <= 1.0 for row in rows)):
        return ["not finite"]
    outside = np.maximum(0.0, np.maximum(arm.q_min - q, q - arm.q_max))
    v = np.diff(q, axis=0) / dt
    paused = np.diff(times) > 2 * dt
    rest = np.append(False, paused)[:-1] | paused  # a late write shows before the row, a late tick after it
    before = np.vstack([np.zeros_like(v[:1]), v[:-1]])
    a = np.abs(v - before) / dt
    a = np.where(rest[:, None], np.minimum(a, np.abs(v) / dt), a)[1:]
    fine = 1 + 1e-5
    found = {
        "position": np.diff(outside, axis=0) > 1e-6,
        "velocity": np.abs(v) > arm.v_max * fine,
        "acceleration": a > arm.a_max * fine,
    }
    return [f"{name} at {np.argwhere(broken)[0].tolist()} of {len(q)}" for name, broken in found.items() if broken.any()]


def _with_table(name: str) -> tuple[mujoco.MjModel, mujoco.MjData, np.ndarray]:
    arm = hardware.arms.find(name)[1]
    spec = mujoco.MjSpec.from_string(arm.mjcf())
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1])
    model = spec.compile()
    return model, mujoco.MjData(model), np.array([model.joint(joint).qposadr[0] for joint in arm.spec.joints])


def contacts(name: str, poses: Sequence[np.ndarray]) -> int:
    """Of the arm's own meshes with each other and with a table that it stands on, at poses (J,)."""
    model, data, places = _with_table(name)
    count = 0
    for q in poses:
        data.qpos[places] = q
        mujoco.mj_kinematics(model, data)
        mujoco.mj_collision(model, data)
        count += data.ncon
    return count


def tool(name: str, q: np.ndarray) -> np.ndarray:
    model, data, places = _with_table(name)
    data.qpos[places] = q
    mujoco.mj_kinematics(model, data)
    return data.site(TOOL).xpos.copy()


# The body -----------------------------------------------------------------------------------------------------------


class Rig:
    """One double, and the robot that a pilot has of it."""

    def __init__(self, name: str, double: Double) -> None:
        self.name, self.double, self.panel = name, double, double.panel
        self.robot: SafeRobot = hardware.open(config(name, double.address))
        self.arm = self.robot.governor.arm
        self._since, self._contacts = 0.0, 0.0

    @property
    def loop(self) -> ArmProcess:
        assert not isinstance(self.robot.loop, ArmLoop)
        return self.robot.loop

    @property
    def pid(self) -> int:
        """Of the loop's process."""
        return next(p.pid or 0 for p in multiprocessing.active_children() if p.name == f"loop of {self.name}")

    # A test's beginning and end ---------------------------------------------------------------------------------------

    def heal(self) -> None:
        """No fault, no stop, holding where it is; cameras, pilots and what was sent are forgotten."""
        self.clear_faults()
        self.robot.connect()
        assert wait(self._cleared)
        self.begin()

    def clear_faults(self) -> None:
        was_off = bool(self.panel.estop)
        for fault in FAULTS:
            setattr(self.panel, fault, 0)
        if was_off and self.name == "ur5e":
            self._power_on()
        elif was_off and self.name == "so101":  # it fell
            self.double.place(self.arm.home)

    def _power_on(self) -> None:
        from dashboard_client import DashboardClient

        dashboard = DashboardClient(self.double.address)
        dashboard.connect(2000)
        assert wait(lambda: (dashboard.powerOn(), dashboard.brakeRelease(), "RUNNING" in dashboard.robotmode())[-1])
        dashboard.disconnect()

    def _cleared(self) -> bool:
        with suppress(HardwareError):
            self.loop.clear()
            self.robot.observe()
            return self.robot.stopped is None
        return False

    def begin(self) -> None:
        """From here on it is judged: the arm was just anchored."""
        self._since, self._contacts = self.loop.row().time, self.panel.contacts

    def rows(self) -> list[Row]:
        return [row for row in self.loop.history(ROWS) if row.time >= self._since]

    def judge(self) -> None:
        assert not violations(self.rows(), self.arm)
        assert self.panel.contacts == self._contacts

    # What pilots do ---------------------------------------------------------------------------------------------------

    def away(self) -> np.ndarray:
        """On the other side of home, (J,)."""
        goal = self.arm.home.copy()
        goal[0] += SWING if self.panel.q[0] < goal[0] else -SWING
        return goal

    def action(self, q: np.ndarray, gripper: float = 0.5) -> np.ndarray:
        return np.append(q, gripper).astype(np.float32)

    def send(self, q: np.ndarray, time: float | None = None, gripper: float = 0.5) -> np.ndarray:
        now = self.robot.clock.now()
        return self.robot.send(Command(now if time is None else time, self.action(q, gripper), Source.POLICY))

    def fly(self, q: np.ndarray, seconds: float, until: Callable[[], object] = lambda: False) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and not until():
            self.send(q)
            self.robot.observe()

    def move(self) -> np.ndarray:
        """Now it moves, to the pose returned."""
        goal = self.away()
        self.fly(goal, 20.0, lambda: self.speed > MOVING)
        assert self.speed > MOVING, self.robot.stopped
        return goal

    @property
    def speed(self) -> float:
        return float(np.abs(self.loop.row().setpoint.v).max())

    def stands(self) -> bool:
        """The double's joints do, for a while."""
        ends = time.monotonic() + 0.05
        while time.monotonic() < ends:
            if np.abs(self.panel.dq).max() > 0.02:
                return False
            time.sleep(0.005)
        return True

    def stopped(self, *causes: str) -> None:
        """It is, for one of these causes, it stands, and nothing but a reset changes that."""
        assert wait(lambda: self.robot.stopped)
        why = self.robot.stopped or ""
        assert why.startswith(causes), why
        assert wait(self.stands)
        events = [reason for _, reason in self.loop.governor.events]
        assert any(why.startswith(reason) for reason in events), (why, events)
        before = self.panel.q
        self.send(self.away())
        self.robot.observe()
        assert self.robot.stopped == why
        assert np.abs(self.panel.q - before).max() < 0.02


# A pilot of its own ---------------------------------------------------------------------------------------------------


def watch(ring: str, joints: int) -> Ring:
    """Another program's rows."""
    seen = Ring(Row.width(joints), name=ring)
    resource_tracker.unregister(f"/{ring}", "shared_memory")  # it is not ours to remove
    return seen


def main(name: str, address: str, end: str) -> None:
    robot = hardware.open(config(name, address))
    robot.connect()
    home = robot.governor.arm.home
    print(robot.loop._ring.name, flush=True)  # pyright: ignore[reportAttributeAccessIssue]
    for k in range(10**6):
        goal = home + np.where(np.arange(len(home)) == 0, SWING if k % 20 < 10 else -SWING, 0.0)
        robot.send(Command(robot.clock.now(), np.append(goal, 0.5).astype(np.float32), Source.POLICY))
        robot.observe()
        if k == 3:
            print("moving", flush=True)
            if end == "bug":
                raise RuntimeError("a bug in the pilot")


if __name__ == "__main__":
    main(*sys.argv[1:])
