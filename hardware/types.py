"""The words every body, pilot and learner shares. numpy only: a robot computer installs no model stack.

Conventions: SI units (rad, m, s, N), float32 state, float64 monotonic seconds, images uint8 RGB (height, width, 3),
quaternions wxyz, gripper 0 closed to 1 open. A body that is not in SI (Push-T lives in pixels) says so in its units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any, Protocol, runtime_checkable

import numpy as np


class HardwareError(Exception):
    """A body cannot do what was asked. The message is one line: field, value, unit, valid choices."""


class NoDecision(Exception):
    """A pilot has none in time. Nothing is sent then, and the governor counts the silence."""


class Source(IntEnum):
    """Who acted. Stored for every row of every episode."""

    NONE = 0  # nobody: the governor held the arm
    SCRIPTED = 1  # a program that sees the simulator's state; never called a human
    HUMAN = 2
    POLICY = 3
    PLANNER = 4
    REPLAY = 5


@dataclass(frozen=True)
class ArraySpec:
    """A named vector: what each element is called, its unit, its range (inclusive)."""

    names: tuple[str, ...]
    units: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        lengths = {len(self.names), len(self.units), len(self.low), len(self.high)}
        if len(lengths) != 1:
            raise ValueError(f"ArraySpec {self.names}: names, units, low and high differ in length: {sorted(lengths)}")

    @property
    def dim(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class RobotSpec:
    """What a robot shows and takes, known before it is connected. Travels in every dataset and every checkpoint."""

    name: str
    cameras: Mapping[str, tuple[int, int]]  # camera -> (height_px, width_px)
    state: Mapping[str, ArraySpec]  # in this order they form the state vector
    action: ArraySpec
    action_mode: str  # "joint_pos" absolute joints; "ee_delta" metres relative to the commanded pose; ...
    rate_hz: float  # decisions per second
    streams: Mapping[str, ArraySpec] = field(default_factory=dict)  # measured at a rate of their own, beside the rows

    @property
    def state_dim(self) -> int:
        return sum(s.dim for s in self.state.values())

    @property
    def incremental(self) -> bool:
        """Actions say how far or how fast to go, not where: repeated they go on, and zeros hold."""
        return "delta" in self.action_mode or "velocity" in self.action_mode

    @property
    def steps(self) -> np.ndarray:
        """Which numbers of an action (A,) are steps or speeds, of which 0 means to stay; grippers are told where to be."""
        return np.array([self.incremental and "grip" not in name for name in self.action.names], dtype=bool)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self) | {
            "cameras": {k: list(v) for k, v in self.cameras.items()},
            "state": {k: _plain(v) for k, v in self.state.items()},
            "action": _plain(self.action),
            "streams": {k: _plain(v) for k, v in self.streams.items()},
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> RobotSpec:
        return RobotSpec(
            name=data["name"],
            cameras={k: (int(v[0]), int(v[1])) for k, v in data["cameras"].items()},
            state={k: _array_spec(v) for k, v in data["state"].items()},
            action=_array_spec(data["action"]),
            action_mode=data["action_mode"],
            rate_hz=float(data["rate_hz"]),
            streams={k: _array_spec(v) for k, v in data.get("streams", {}).items()},
        )

    def diff(self, other: RobotSpec) -> list[str]:
        """One line for each field that differs, `field: mine != theirs`; empty where the two fit."""
        mine, theirs = _flatten(self.to_dict()), _flatten(other.to_dict())
        return [
            f"{key}: {mine.get(key, '(absent)')} != {theirs.get(key, '(absent)')}"
            for key in dict.fromkeys([*mine, *theirs])
            if mine.get(key) != theirs.get(key)
        ]


def _plain(spec: ArraySpec) -> dict[str, list]:
    return {k: list(v) for k, v in asdict(spec).items()}


def _array_spec(data: Mapping[str, Any]) -> ArraySpec:
    return ArraySpec(**{k: tuple(data[k]) for k in ("names", "units", "low", "high")})


def _flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        path = f"{prefix}{key}"
        flat |= _flatten(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return flat


@dataclass(frozen=True)
class Observation:
    """What the robot saw at `time` [s, monotonic]."""

    time: float
    images: Mapping[str, np.ndarray]  # camera -> uint8 (H, W, 3) RGB
    state: Mapping[str, np.ndarray]  # name -> float32 (D,)


@dataclass(frozen=True)
class Command:
    """One decision: do `action` from `time` [s] on. `notes` are scalars about the decision worth logging."""

    time: float
    action: np.ndarray  # float32 (A,), units of RobotSpec.action
    source: Source
    notes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ArmSpec:
    """A driver's joints and the limits that no setpoint may leave. Arrays are (J,)."""

    name: str
    joints: tuple[str, ...]
    units: str  # of one joint: "rad" for real arms
    q_min: np.ndarray
    q_max: np.ndarray
    v_max: np.ndarray
    a_max: np.ndarray
    j_max: np.ndarray
    home: np.ndarray
    rate_hz: float  # setpoints per second

    def check(self, q: np.ndarray, gripper: float) -> None:
        """HardwareError for a setpoint that is none. Some vendors' SDKs send NaN to the motors; a driver asks this first."""
        if np.shape(q) != self.home.shape or not np.isfinite(q).all() or not 0.0 <= gripper <= 1.0:
            expected = f"{len(self.joints)} finite joints and 0..1"
            raise HardwareError(f"{self.name}: setpoint {np.asarray(q).tolist()} {self.units}, gripper {gripper}; expected {expected}")


@dataclass(frozen=True)
class ArmState:
    """What an arm measured at `time` [s]. `fault` names the vendor's error, None while healthy."""

    time: float
    seq: int  # grows by one with each fresh measurement: the same seq twice is stale
    q: np.ndarray  # float64 (J,)
    dq: np.ndarray  # float64 (J,)
    gripper: float  # 0 closed .. 1 open
    fault: str | None = None


@runtime_checkable
class Arm(Protocol):
    """A driver: one device, one thread, no policy and no limits. Raises, never clips. connect again clears a halt."""

    spec: ArmSpec

    def connect(self) -> None: ...
    def close(self) -> None: ...
    def read(self) -> ArmState: ...
    def write(self, q: np.ndarray, gripper: float) -> None: ...
    def halt(self) -> None: ...


@runtime_checkable
class Camera(Protocol):
    """One camera. `read` returns the newest frame, uint8 (H, W, 3) RGB, or raises HardwareError: there is none new enough."""

    size: tuple[int, int]

    def open(self) -> None: ...
    def close(self) -> None: ...
    def read(self) -> np.ndarray: ...


@runtime_checkable
class Clock(Protocol):
    """Where time comes from [s, monotonic]: the wall, or a simulator whose physics runs while one sleeps."""

    def now(self) -> float: ...
    def sleep_until(self, time: float) -> None: ...


@runtime_checkable
class Pilot(Protocol):
    """Whoever decides: a human, a script, a policy, a planner, a replay. `decide` may raise NoDecision."""

    def reset(self) -> None: ...
    def decide(self, observation: Observation) -> Command: ...
