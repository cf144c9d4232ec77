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
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import hardware
from hardware import RobotConfig, spec_of
from hardware.robot import SafeRobot
from hardware.types import ArraySpec, HardwareError, Observation, Source
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode
from robolearn.data.formats._hdf5 import Group, open_hdf5, root_has
from robolearn.data.formats._reader import Options, Reader, chosen_cameras, float32, inside

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
    return root_has(path, lambda root: "data" in root and is_raw(root.group("data")))


def is_raw(data: Group) -> bool:
    """Whether the group `data` is as robosuite itself leaves it; robomimic adds observations, and its files look alike otherwise."""
    names = data.names()
    return {"env", "repository_version"} <= set(data.attributes()) and not (names and f"{names[0]}/obs" in data)


def read(path: Path, options: Options) -> Reader:
    """Human demonstrations on a Panda. UserError: damaged, another robot's, or a task that cannot be opened here.

    The cameras are those of the body, agentview and wrist; the files hold none.
    """
    return _Demonstrations(path, options)


class _Demonstrations:
    notes: Sequence[str]

    def __init__(self, path: Path, options: Options) -> None:
        self.path = path
        self._robot: SafeRobot | None = None
        with open_hdf5(path) as root:
            data = root.group("data")
            self.attrs = {key: str(value) for key, value in data.attributes().items()}
            self.names = data.names()
        if "env" not in self.attrs:
            raise UserError("data has no attribute env; not robosuite's raw HDF5")
        body = RobotConfig(f"robosuite:{self.attrs['env']}", rate_hz=RATE_HZ)
        try:
            self._config = replace(body, cameras=tuple(chosen_cameras(list(spec_of(body).cameras), options)))
            live = spec_of(self._config)
            robots = json.loads(self.attrs.get("env_info", "{}")).get("robots", "Panda")
        except (AttributeError, ValueError) as error:
            raise UserError(f"env_info is damaged: {error}") from error
        except HardwareError as error:
            raise UserError(str(error)) from error
        if robots not in ("Panda", ["Panda"]):
            raise UserError(f"env_info.robots {robots!r}; only Panda can be replayed")
        self.spec = replace(live, action=ACTION, action_mode="osc_pose_delta", rate_hz=options.rate_hz or RATE_HZ)
        notes = [
            f"images, state, reward and success: the recorded states as shown by robosuite {version('robosuite')}, installed here",
            "actions beyond -1..1 are clipped, as robosuite's controller does; requested_action keeps them",
        ]
        if options.rate_hz not in (None, RATE_HZ):
            notes.append(f"{options.rate_hz:g} Hz as asked for; robosuite records at {RATE_HZ:g} Hz, and time is the recorded one")
        self.notes = notes
        with path.open("rb") as file:
            self._sha256 = hashlib.file_digest(file, "sha256").hexdigest()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Episode:
        where = self.names[index]
        states, actions, joints = self._load(self.names[index], where)
        if self._robot is None:
            self._robot = hardware.open(self._config)
            self._robot.connect()
        try:
            qpos, qvel = _by_joint_name(self._robot.world.scene.model, joints, states, where)  # type: ignore[union-attr]
            return self._replay(self._robot, index, states[:, 0], qpos, qvel, actions)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._robot is not None:
            self._robot.close()
            self._robot = None

    def _load(self, name: str, where: str) -> tuple[np.ndarray, np.ndarray, list[tuple[str, str]]]:
        """states float64 (T, 1 + nq + nv), actions float64 (T, 7), and the joints (name, type) in the states' order."""
        with open_hdf5(self.path) as root:
            demo = root.group(f"data/{name}")
            states, actions = demo.array("states", ndim=2), demo.array("actions", ndim=2)
            model = str(demo.attributes().get("model_file", ""))
        if actions.shape[1] != ACTION.dim or len(states) != len(actions) or not len(actions):
            raise UserError(f"{where}: states {states.shape}, actions {actions.shape}; expected as many of each, actions (T, {ACTION.dim})")
        if not (np.isfinite(states).all() and np.isfinite(actions).all()):
            raise UserError(f"{where}: states or actions hold NaN or inf")
        float32("states", states)  # a simulator told of larger numbers shows nothing
        try:
            text = model if model.lstrip().startswith("<") else inside(self.path.parent / "models", model).read_text()
            bodies = ET.fromstring(text).find("worldbody")
        except (OSError, ValueError, ET.ParseError) as error:
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
            requested_action=float32("actions", actions),
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
