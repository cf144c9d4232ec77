"""What is true of a double, whatever anybody says of it; and what its body, meshes and all, would touch."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import mujoco
import numpy as np

from hardware.arms.model import TOOL, ArmModel
from hardware.doubles.panel import Panel

REST = 0.03  # rad/s: a servo's last tremor
LOOK_S = 0.005


@dataclass
class Truth:
    """Looks at a double's panel: times [s], joints, their speeds, their servos' goals (J,)."""

    times: list[float] = field(default_factory=list)
    q: list[np.ndarray] = field(default_factory=list)
    dq: list[np.ndarray] = field(default_factory=list)
    goal: list[np.ndarray] = field(default_factory=list)

    def look(self, panel: Panel) -> None:
        now, q, dq, goal = time.monotonic(), panel.q, panel.dq, panel.goal
        self.q.append(q)
        self.dq.append(dq)
        self.goal.append(goal)
        self.times.append(now)  # last: who counts times finds the rest

    @property
    def speed(self) -> np.ndarray:
        """Of the fastest joint (T,) [rad/s]."""
        return np.abs(np.array(self.dq[: len(self.times)])).max(1)

    def mean_speeds(self) -> np.ndarray:
        """Of the fastest joint, over a fifth of a second each [rad/s]: a double that other programs kept waiting makes up for it."""
        count = len(self.times)
        times, q = np.array(self.times[:count]), np.array(self.q[:count])
        begins = np.arange(times[0], max(times[-1] - 0.2, times[0] + 1e-9), 0.02)
        ways = [np.interp(begins + 0.2, times, joint) - np.interp(begins, times, joint) for joint in q.T]
        return np.abs(ways).max(0) / 0.2

    def rests_from(self, since: float = 0.0) -> float:
        """When it was last seen moving; `since` where it was not."""
        moving = [t for t, speed in zip(self.times, self.speed, strict=False) if speed > REST and t > since]
        return moving[-1] if moving else since

    def rests(self) -> bool:
        """It has not moved for a tenth of a second."""
        count = len(self.times)
        recent = slice(max(0, count - 20), count)
        return self.times[count - 1] - self.times[recent.start] > 0.09 and bool(np.abs(np.array(self.dq[recent])).max() <= REST)

    def at(self, when: float) -> np.ndarray:
        """Joints (J,) at a time [s]."""
        q = np.array(self.q[: len(self.times)])
        return np.array([np.interp(when, self.times[: len(q)], joint) for joint in q.T])


@contextmanager
def watched(panel: Panel) -> Iterator[Truth]:
    """Look every few milliseconds."""
    truth, ends = Truth(), threading.Event()

    def look() -> None:
        while not ends.wait(LOOK_S):
            truth.look(panel)

    truth.look(panel)
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield truth
    finally:
        ends.set()
        thread.join()


class Body:
    """An arm on a table of height 0, in MuJoCo, with the meshes that no governor looks at."""

    def __init__(self, arm: ArmModel) -> None:
        spec = mujoco.MjSpec.from_string(arm.mjcf())
        spec.worldbody.add_geom(name="table", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1])
        self.arm, self._model = arm, spec.compile()
        self._data = mujoco.MjData(self._model)
        self._table = self._model.geom("table").id
        self._qpos = [self._model.joint(name).qposadr[0] for name in arm.spec.joints]
        self._foot = self._pairs(arm.spec.home)  # stands on it

    def tool(self, q: np.ndarray) -> np.ndarray:
        """(3,) [m]."""
        self._place(q)
        return self._data.site(TOOL).xpos.copy()

    def touches(self, q: np.ndarray) -> str | None:
        """ "table", "itself", or nothing."""
        self._place(q)
        pairs = self._pairs(q) - self._foot
        if not pairs:
            return None
        return "table" if any(self._table in pair for pair in pairs) else "itself"

    def course(self, into: str, sign: float, beside: float) -> np.ndarray:
        """A pose (J,) that touches, the straight way to which touches nothing else before, nor leaves y < beside [m]; a near one.
        sign: of the first joint's turn away from there."""
        spec, rng = self.arm.spec, np.random.default_rng(0)
        found: list[np.ndarray] = []
        for _ in range(4000):
            q = rng.uniform(np.maximum(spec.q_min + 0.05, spec.home - 2.5), np.minimum(spec.q_max - 0.05, spec.home + 2.5))
            q[0] = spec.home[0] + sign * 0.3
            if self.touches(q) == into and self._first(q, beside) == into:
                found.append(q)
            if len(found) == 5:
                break
        return min(found, key=lambda q: float((np.abs(q - spec.home) / spec.v_max).max()))

    def _first(self, q: np.ndarray, beside: float) -> str | None:
        for share in np.linspace(0.0, 1.0, 40):
            way = self.arm.spec.home + share * (q - self.arm.spec.home)
            if self.tool(way)[1] > beside - 0.02:
                return "wall"
            if touched := self.touches(way):
                return touched
        return None

    def _pairs(self, q: np.ndarray) -> set[tuple[int, int]]:
        self._place(q)
        return {(int(c.geom1), int(c.geom2)) for c in self._data.contact if c.dist < 0.0}

    def _place(self, q: np.ndarray) -> None:
        self._data.qpos[self._qpos] = q
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_collision(self._model, self._data)
