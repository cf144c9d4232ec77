"""Driving with a leader arm: a limp SO-101 whose end effector the robot's follows.

The leader's joints become a position by forward kinematics; the robot repeats the leader's displacement since it was
engaged, times `scale`. Relative, so engaging never jumps, and the two arms need not be alike. Orientation is not followed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from hardware.teleop.keys import NoKeys, TerminalKeys
from hardware.teleop.operator import EPISODE_KEYS, Operator
from hardware.teleop.sts_bus import TICKS_PER_TURN, ServoBus
from hardware.types import HardwareError, Observation, RobotSpec

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex")  # wrist_roll (id 5) moves no position
_LOST_DECISIONS = 3  # without a reply: hold; then it is an error
_LAG_STEPS = 10.0  # the robot may trail the leader by this many of its largest steps; what is beyond is forgotten


@dataclass(frozen=True)
class Calibration:
    """One leader arm. The zero pose: upper arm upright, forearm and gripper level and straight ahead.

    zero: raw positions there; sign: +1 where raw grows as the arm pans left, leans forward, folds down (elbow, wrist).
    """

    ids: tuple[int, ...] = (1, 2, 3, 4)
    zero: tuple[int, ...] = (2048, 2048, 2048, 2048)
    sign: tuple[int, ...] = (1, 1, 1, 1)
    gripper_id: int = 6
    gripper_closed: int = 2048
    gripper_open: int = 3000
    links_m: tuple[float, ...] = (0.113, 0.135, 0.16)  # upper arm, forearm, wrist to fingertips: an SO-101, roughly
    base_m: float = 0.03  # from the pan axis forward to the lift axis

    def __post_init__(self) -> None:
        for name, length in (("ids", 4), ("zero", 4), ("sign", 4), ("links_m", 3)):
            if len(getattr(self, name)) != length:
                raise HardwareError(f"calibration: {name} has {len(getattr(self, name))} values; expected {length}")
        if self.gripper_closed == self.gripper_open:
            raise HardwareError(f"calibration: gripper_closed and gripper_open are both {self.gripper_open}; expected two positions")

    @staticmethod
    def load(path: Path) -> Calibration:
        """Raises HardwareError naming file and field."""
        try:
            data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}
            return Calibration(**fields)
        except OSError as error:
            raise HardwareError(f"{path}: {error.strerror}; make one with: python -m hardware.teleop.leader PORT {path}") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise HardwareError(f"{path}: not a leader calibration: {error}; fields: {', '.join(asdict(Calibration()))}") from error

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def angles(self, raw: Sequence[int]) -> np.ndarray:
        """Joint angles [rad] (4,) from raw positions, the short way round."""
        ticks = np.asarray(raw) - np.asarray(self.zero)
        wrapped = (ticks + TICKS_PER_TURN // 2) % TICKS_PER_TURN - TICKS_PER_TURN // 2
        return np.asarray(self.sign) * wrapped * (2 * math.pi / TICKS_PER_TURN)

    def position(self, q: np.ndarray) -> np.ndarray:
        """Forward kinematics: fingertips [m] (3,), x ahead, y left, z up, from angles [rad] (4,)."""
        pan, lift, elbow, wrist = q
        elevations = math.pi / 2 - lift - np.cumsum([0.0, math.pi / 2 + elbow, wrist])
        reach = self.base_m + float(np.dot(self.links_m, np.cos(elevations)))
        return np.array([reach * math.cos(pan), reach * math.sin(pan), float(np.dot(self.links_m, np.sin(elevations)))])

    def openness(self, raw: int) -> float:
        return float(np.clip((raw - self.gripper_closed) / (self.gripper_open - self.gripper_closed), 0.0, 1.0))


class LeaderArm(Operator):
    """The robot follows while engaged. c engages and releases; the leader may be moved back while released.

    Without a terminal (keys None) it is engaged from the start of each episode.
    """

    help = f"c engage/release · move the leader arm, its gripper too · {EPISODE_KEYS}"

    def __init__(
        self, spec: RobotSpec, port: str, calibration: Calibration, keys: TerminalKeys | NoKeys | None = None, scale: float = 1.0
    ) -> None:
        super().__init__(spec, NoKeys() if keys is None else keys)
        self.calibration, self.scale, self.engaged = calibration, scale, False
        self._bus = ServoBus(port, [*calibration.ids, calibration.gripper_id])
        self._last: np.ndarray | None = None
        self._owed, self._lost = np.zeros(3), 0

    def __enter__(self) -> LeaderArm:
        self._bus.open()
        try:
            super().__enter__()
        except BaseException:
            self._bus.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        super().__exit__(kind, error, trace)
        self._bus.close()

    def reset(self) -> None:
        super().reset()
        self.engaged = isinstance(self.keys, NoKeys)
        self._last, self._owed, self._lost = None, np.zeros(3), 0

    def step_m(self, observation: Observation, pressed: list[str]) -> np.ndarray:
        if "c" in pressed:
            self.engaged, self._last, self._owed = not self.engaged, None, np.zeros(3)
        try:
            *raw, gripper = self._bus.positions()
        except HardwareError:
            self._lost += 1
            if self._lost > _LOST_DECISIONS:
                raise
            return np.zeros(3)
        self._lost = 0
        if not self.engaged:
            return np.zeros(3)
        self.openness = self.calibration.openness(gripper)
        here, limit = self.calibration.position(self.calibration.angles(raw)), self.jog.limit_m()
        if self._last is not None:
            self._owed = np.clip(self._owed + self.scale * (here - self._last), -_LAG_STEPS * limit, _LAG_STEPS * limit)
        self._last = here
        step = np.clip(self._owed, -limit, limit)
        self._owed = self._owed - step
        return step


def calibrate(positions: Callable[[], Sequence[int]], ask: Callable[[str], object]) -> Calibration:
    """Ask for the poses one by one. positions: raw, four joints then the gripper. Raises HardwareError for a joint that hardly moved."""
    ask("Zero pose: upper arm upright, forearm and gripper level, straight ahead. Enter")
    zero = positions()[:4]
    signs = []
    for index, motion in enumerate(("pan the arm left", "lean the upper arm forward", "fold the forearm down", "bend the wrist down")):
        ask(f"From the zero pose, {motion} by about 30 degrees and hold it there. Enter")
        moved = Calibration(zero=tuple(zero)).angles(positions()[:4])[index]
        if abs(moved) < math.radians(10):
            raise HardwareError(f"calibration: {JOINTS[index]} moved {math.degrees(moved):.0f} degrees; expected 10 or more")
        signs.append(1 if moved > 0 else -1)
    ask("Close the gripper. Enter")
    closed = positions()[4]
    ask("Open the gripper. Enter")
    return Calibration(zero=tuple(zero), sign=tuple(signs), gripper_closed=closed, gripper_open=positions()[4])


def _main(port: str, path: str) -> None:
    bus = ServoBus(port, [*Calibration().ids, Calibration().gripper_id])
    bus.open()
    try:
        calibrate(bus.positions, input).save(Path(path))
    finally:
        bus.close()


if __name__ == "__main__":
    import sys

    if len(sys.argv) != 3:
        sys.exit("usage: python -m hardware.teleop.leader PORT CALIBRATION.json")
    try:
        _main(*sys.argv[1:])
    except HardwareError as problem:
        sys.exit(str(problem))
