"""robosuite's raw demonstrations (Zhu et al. 2020, collect_human_demonstrations): HDF5 with simulator states and actions, no images.

The recorded scene is rebuilt with the installed robosuite and every state put into it by joint name; cameras,
proprioception, reward and success are what the scene then shows. The stored MJCF only tells the order of the joints:
its assets belong to another release, and replaying the actions would drift (the controllers changed).
"""

from __future__ import annotations

import hashlib
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import hardware
from hardware import RobotConfig, spec_of
from hardware.robot import SafeRobot
from hardware.types import ArraySpec, HardwareError, Observation, RobotSpec, Source
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode

RATE_HZ = 20.0  # robosuite's default, and what the states' own clock says
# OSC_POSE (robosuite's operational space controller): shares of its largest step, see env_info's output_max.
ACTION = ArraySpec(("dx", "dy", "dz", "rx", "ry", "rz", "gripper"), ("1",) * 7, (-1.0,) * 7, (1.0,) * 7)
_SIZES = {"free": (7, 6), "ball": (4, 3), "slide": (1, 1), "hinge": (1, 1)}  # of qpos and qvel
# Joint names since robosuite 1.0, in the order the rules are tried.
_RENAMED = (
    (r"gripper0_(finger_joint\d)", r"gripper0_right_\1"),
    (r"(\w+?)_jnt0", r"\1_joint0"),
    (r"(\w+)0_jnt0", r"\1_joint0"),
    (r"door_hinge", "Door_hinge"),
    (r"latch_joint", "Door_latch_joint"),
)


def matches(path: Path) -> bool:
    if not path.is_file() or path.suffix not in (".hdf5", ".h5"):
        return False
    try:
        with h5py.File(path) as file:
            data: Any = file.get("data")
            return data is not None and {"env", "repository_version"} <= set(data.attrs)
    except OSError:
        return False


def read(path: Path) -> tuple[RobotSpec, Iterator[Episode]]:
    """Human demonstrations on a Panda. UserError: damaged, another robot's, or a task that cannot be opened here."""
    demos = _Demonstrations(path)
    return demos.spec, iter(demos)  # type: ignore[call-overload]


class _Demonstrations:
    """Indexable and of known length, so that Python's own iterator over it can tell how many are left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._robot: SafeRobot | None = None
        try:
            with h5py.File(path) as file:
                data: Any = file["data"]
                self.attrs = {key: str(value) for key, value in data.attrs.items()}
                self.names = sorted(data, key=lambda name: (len(name), name))  # demo_2 before demo_10
            self._config = RobotConfig(f"robosuite:{self.attrs['env']}", rate_hz=RATE_HZ)
            live = spec_of(self._config)
            robots = json.loads(self.attrs.get("env_info", "{}")).get("robots", "Panda")
        except (OSError, KeyError, ValueError) as error:
            raise UserError(f"{path}: damaged or not robosuite's raw HDF5: {error}") from error
        except HardwareError as error:
            raise UserError(f"{path}: {error}") from error
        if robots not in ("Panda", ["Panda"]):
            raise UserError(f"{path}: env_info.robots {robots!r}; only Panda can be replayed")
        self.spec = replace(live, action=ACTION, action_mode="osc_pose_delta")
        self._sha256 = hashlib.sha256(path.read_bytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Episode:
        if index >= len(self):
            self._close()
            raise IndexError(index)
        where = f"{self.path}: {self.names[index]}"
        states, actions, joints = self._load(self.names[index], where)
        if self._robot is None:
            self._robot = hardware.open(self._config)
            self._robot.connect()
        try:
            qpos, qvel = _by_joint_name(self._robot.world.scene.model, joints, states, where)  # type: ignore[union-attr]
            return self._replay(self._robot, index, states[:, 0], qpos, qvel, actions)
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        if self._robot is not None:
            self._robot.close()
            self._robot = None

    def _load(self, name: str, where: str) -> tuple[np.ndarray, np.ndarray, list[tuple[str, str]]]:
        """states float64 (T, 1 + nq + nv), actions float64 (T, 7), and the joints (name, type) in the states' order."""
        try:
            with h5py.File(self.path) as file:
                demo: Any = file[f"data/{name}"]
                states, actions, model = demo["states"][:], demo["actions"][:], str(demo.attrs["model_file"])
        except (OSError, KeyError) as error:
            raise UserError(f"{where}: damaged: {error}") from error
        if actions.ndim != 2 or actions.shape[1] != ACTION.dim or len(states) != len(actions) or not len(actions):
            raise UserError(f"{where}: states {states.shape}, actions {actions.shape}; expected as many of each, actions (T, {ACTION.dim})")
        if not (np.isfinite(states).all() and np.isfinite(actions).all()):
            raise UserError(f"{where}: states or actions hold NaN or inf")
        try:
            text = model if model.lstrip().startswith("<") else (self.path.parent / "models" / model).read_text()
            bodies = ET.fromstring(text).find("worldbody")
        except (OSError, ET.ParseError) as error:
            raise UserError(f"{where}: its model_file cannot be read: {error}") from error
        found = () if bodies is None else bodies.iter()
        joints = [
            (j.get("name", ""), "free" if j.tag == "freejoint" else j.get("type", "hinge"))
            for j in found
            if j.tag in ("joint", "freejoint")
        ]
        width = 1 + sum(sum(_SIZES[kind]) for _, kind in joints)
        if states.shape[1] != width:
            raise UserError(f"{where}: states have {states.shape[1]} columns; its model's joints make {width} (time, qpos, qvel)")
        return states, actions, joints

    def _replay(self, robot: SafeRobot, index: int, time: np.ndarray, qpos: np.ndarray, qvel: np.ndarray, actions: np.ndarray) -> Episode:
        world: Any = robot.world
        seen: list[Observation] = []
        earned, succeeded = [], []
        for position, velocity in zip(qpos, qvel, strict=True):
            world.restore(position, velocity)
            robot.anchor()
            seen.append(robot.observe())
            earned.append(world.reward())
            succeeded.append(world.success())
        terminal = np.zeros(len(seen), bool)
        terminal[-1] = succeeded[-1]
        return Episode(
            time=time.astype(np.float64),
            images={name: np.stack([o.images[name] for o in seen]) for name in self.spec.cameras},
            state={name: np.stack([o.state[name] for o in seen]) for name in self.spec.state},
            action=np.clip(actions, -1.0, 1.0).astype(np.float32),  # as robosuite's controller does
            requested_action=actions.astype(np.float32),
            reward=np.array([*earned[1:], earned[-1]], np.float32),  # what row t's action led to is seen at row t + 1
            terminal=terminal,
            source=np.full(len(seen), Source.HUMAN, np.uint8),
            meta={
                "task": re.sub(r"(?<!^)(?=[A-Z])", "_", self.attrs["env"]).lower(),
                "success": bool(any(succeeded)),
                "operator": "human",
                "origin": {
                    "file": "/".join(self.path.parts[-2:]),
                    "sha256": self._sha256,
                    "demo": self.names[index],
                    "recorded": {
                        key: self.attrs[key] for key in ("date", "time", "repository_version", "env", "env_info") if key in self.attrs
                    },
                },
                "computed": "images, state, reward, terminal and success: recorded states shown in the installed simulator",
                "simulator": {package: version(package) for package in ("robosuite", "mujoco")},
            },
        )


def _by_joint_name(model: Any, joints: list[tuple[str, str]], states: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    """qpos (T, nq) and qvel (T, nv) in the installed model's order. UserError: a joint that it does not have, or has alone."""
    known = {model.joint(i).name: i for i in range(model.njnt)}
    qpos, qvel = np.zeros((len(states), model.nq)), np.zeros((len(states), model.nv))
    q, v = 1, 1 + sum(_SIZES[kind][0] for _, kind in joints)
    for name, kind in joints:
        nq, nv = _SIZES[kind]
        new = next((n for n in _candidates(name) if n in known), None)
        if new is None or nq != len(model.joint(new).qpos0):
            raise UserError(f"{where}: joint {name!r} ({kind}) has no counterpart; the installed scene has {', '.join(known)}")
        index = known.pop(new)
        qpos[:, model.jnt_qposadr[index] :][:, :nq] = states[:, q : q + nq]
        qvel[:, model.jnt_dofadr[index] :][:, :nv] = states[:, v : v + nv]
        q, v = q + nq, v + nv
    if known:
        raise UserError(f"{where}: the installed scene's joints {', '.join(known)} were not recorded")
    return qpos, qvel


def _candidates(name: str) -> Iterator[str]:
    yield name
    for old, new in _RENAMED:
        if re.fullmatch(old, name):
            yield re.sub(old, new, name)
