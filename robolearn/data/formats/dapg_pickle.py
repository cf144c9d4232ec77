"""Adroit demonstrations of DAPG (Rajeswaran et al., RSS 2018): a pickle, a list with one dict per trajectory, simulator states, no images.

The pickle is read without being run (`_pickle`). What the numbers mean is what the tasks' environments document (mj_envs, today
AdroitHand*-v1 of Gymnasium-Robotics): five simulator steps of 2 ms an action, an action in -1..1 as share of each actuator's range.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardware.types import ArraySpec, RobotSpec, Source
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode
from robolearn.data.formats._pickle import numbers, texts, trajectories
from robolearn.data.formats._reader import Options, Reader, chosen_cameras, episode, float32, vector

RATE_HZ = 100.0
KEYS = ("observations", "actions", "rewards", "init_state_dict")
MAX_INITIAL = 1000  # numbers of the initial state that the episode's meta takes
_FINGERS = [
    f"{finger}J{joint}" for finger, last in (("FF", 3), ("MF", 3), ("RF", 3), ("LF", 4), ("TH", 4)) for joint in range(last, -1, -1)
]
_HAND = ["WRJ1", "WRJ0", *_FINGERS]  # 24 joints
_XYZ = ("x", "y", "z")


@dataclass(frozen=True)
class _Task:
    """One environment. arm: the joints before the hand's; rest: (name, unit, elements) after the hand's in an observation."""

    name: str
    arm: tuple[str, ...]
    seen_arm: tuple[str, ...]
    rest: tuple[tuple[str, str, tuple[str, ...]], ...]
    solved_above: float  # a reward that only the environment's own bonus for success reaches

    @property
    def action(self) -> ArraySpec:
        names = tuple(f"A_{joint}" for joint in (*self.arm, *_HAND))
        return ArraySpec(names, ("1",) * len(names), (-1.0,) * len(names), (1.0,) * len(names))

    @property
    def observation(self) -> ArraySpec:
        joints = [*self.seen_arm, *_HAND]
        names, units = list(joints), ["m" if "T" in joint[:3] and joint.startswith("AR") else "rad" for joint in joints]
        for name, unit, elements in self.rest:
            names += [f"{name}_{element}" for element in elements] if elements else [name]
            units += [unit] * max(len(elements), 1)
        return vector(names, units)


# Told by what a task's initial state holds beside qpos and qvel. The bonuses leave wide gaps: door 11 to 20, hammer 27 to 102,
# pen 11 to 61, relocate 1 to 11.
_TASKS = {
    "door_body_pos": _Task(
        "door",
        ("ARTz", "ARRx", "ARRy", "ARRz"),
        ("ARRx", "ARRy", "ARRz"),
        (
            ("latch", "rad", ()),
            ("door_hinge", "rad", ()),
            ("palm", "m", _XYZ),
            ("handle", "m", _XYZ),
            ("palm_from_handle", "m", _XYZ),
            ("door_open", "1", ()),
        ),
        15.0,
    ),
    "board_pos": _Task(
        "hammer",
        ("ARRx", "ARRy"),
        ("ARRx", "ARRy"),
        (
            ("nail", "m", ()),
            ("hammer_velocity", "m/s", _XYZ),
            ("hammer_turning", "rad/s", _XYZ),
            ("palm", "m", _XYZ),
            ("hammer", "m", _XYZ),
            ("hammer_euler", "rad", _XYZ),
            ("nail_target", "m", _XYZ),
            ("nail_impact", "N", ()),
        ),
        50.0,
    ),
    "desired_orien": _Task(
        "pen",
        (),
        (),
        (
            ("pen", "m", _XYZ),
            ("pen_velocity", "m/s", _XYZ),
            ("pen_turning", "rad/s", _XYZ),
            ("pen_direction", "1", _XYZ),
            ("target_direction", "1", _XYZ),
            ("pen_from_target", "m", _XYZ),
            ("direction_from_target", "1", _XYZ),
        ),
        30.0,
    ),
    "obj_pos": _Task(
        "relocate",
        ("ARTx", "ARTy", "ARTz", "ARRx", "ARRy", "ARRz"),
        ("ARTx", "ARTy", "ARTz", "ARRx", "ARRy", "ARRz"),
        (("palm_from_ball", "m", _XYZ), ("palm_from_target", "m", _XYZ), ("ball_from_target", "m", _XYZ)),
        5.0,
    ),
}


def matches(path: Path) -> bool:
    return path.is_file() and path.suffix in (".pickle", ".pkl") and set(KEYS) <= texts(path)


def read(path: Path, options: Options) -> Reader:
    """Human demonstrations in VR (CyberGlove, HTC Vive). UserError: anything but data in the pickle, widths of no known task."""
    return _Dapg(path, options)


class _Dapg:
    def __init__(self, path: Path, options: Options) -> None:
        self.path = path
        self.found = trajectories(path, KEYS)
        if not self.found:
            raise UserError("holds no trajectory")
        chosen_cameras([], options)
        start = self.found[0]["init_state_dict"]
        task = next((_TASKS[key] for key in _TASKS if isinstance(start, dict) and key in start), None)
        if task is None:
            raise UserError(f"trajectory 0: init_state_dict tells no task; one of {', '.join(_TASKS)} would")
        self.task = task
        self.spec = RobotSpec(
            name=f"adroit:{task.name}",
            cameras={},
            state={"observation": task.observation},
            action=task.action,
            action_mode="joint_pos_normalized",
            rate_hz=options.rate_hz or RATE_HZ,
        )
        self.notes: Sequence[str] = (
            *([] if options.rate_hz else [f"rate: not recorded; {RATE_HZ:g} Hz is the environment's (5 simulator steps of 2 ms)"]),
            "action: the recorded one clipped to -1..1, as the environment does; requested_action is as recorded",
            f"success: a reward above {task.solved_above:g}, which only the environment's bonus for success reaches",
        )

    def __len__(self) -> int:
        return len(self.found)

    def close(self) -> None:
        """Nothing is held open."""

    def __getitem__(self, index: int) -> Episode:
        one = self.found[index]
        action, seen = self._matrix(one, "actions", self.spec.action), self._matrix(one, "observations", self.task.observation)
        reward = numbers(one["rewards"], "rewards")
        if reward.shape != (len(action),):
            raise UserError(f"rewards has shape {reward.shape}; expected ({len(action)},), as many as actions")
        meta: dict[str, Any] = {
            "task": self.spec.name,
            "success": bool((reward > self.task.solved_above).any()),
            "operator": "human",
            "origin": {"file": self.path.name, "trajectory": index},
            "initial_state": _initial_state(one["init_state_dict"]),
            "computed": "time from the rate; success from the rewards; action clipped to -1..1",
        }
        if self.task.name == "door":
            meta["max_hinge"] = float(seen[:, self.task.observation.names.index("door_hinge")].max())
        return episode(
            self.spec,
            action=np.clip(action, -1.0, 1.0),
            requested_action=float32("actions", action),
            state={"observation": seen},
            images={},
            reward=reward,
            source=Source.HUMAN,
            meta=meta,
        )

    def _matrix(self, one: dict[Any, Any], key: str, spec: ArraySpec) -> np.ndarray:
        values = numbers(one[key], key)
        if values.ndim != 2 or values.shape[1] != spec.dim or not len(values):
            raise UserError(f"{key} has shape {values.shape}; expected (T, {spec.dim}), adroit:{self.task.name}'s")
        return values


def _initial_state(state: Any) -> dict[str, list[float]]:
    """What the simulator needs to start again: qpos, qvel and where the task's object stands."""
    if not isinstance(state, dict):
        raise UserError(f"init_state_dict is a {type(state).__name__}; expected a dict of arrays")
    found = {str(key)[:40]: numbers(value, f"init_state_dict.{str(key)[:40]}").ravel() for key, value in state.items()}
    if math.fsum(len(value) for value in found.values()) > MAX_INITIAL:
        raise UserError(f"init_state_dict has more than {MAX_INITIAL} numbers")
    return {key: value.tolist() for key, value in found.items()}
