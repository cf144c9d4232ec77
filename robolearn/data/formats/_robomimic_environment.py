"""robomimic's env_args: what it says about a dataset's numbers, and what to say there about ours."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardware.mujoco.robosuite import WRIST
from hardware.types import ArraySpec, RobotSpec
from robolearn.core.errors import UserError
from robolearn.data.formats._reader import vector
from robolearn.data.formats.robosuite_hdf5 import ACTION

ROBOSUITE, GYM = 1, 2  # robomimic.envs.env_base.EnvType
# What robosuite calls its observations, by the ends of their names.
_ROBOSUITE_STATE = {
    "_joint_pos": (None, "rad"),
    "_joint_vel": (None, "rad/s"),
    "_eef_pos": (("x", "y", "z"), "m"),
    "_gripper_qpos": (None, "m"),
    "_gripper_qvel": (None, "m/s"),
}


@dataclass(frozen=True)
class Environment:
    """What env_args says: the task, its rate, what its numbers mean."""

    name: str
    type: int
    kwargs: dict[str, Any]

    @staticmethod
    def of(attributes: dict[str, Any]) -> Environment:
        try:
            args = json.loads(attributes.get("env_args", "{}"))
            kwargs = args.get("env_kwargs") or {}
            return Environment(str(args.get("env_name") or "unknown"), int(args.get("type", args.get("env_type", 0))), dict(kwargs))
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(f"data's attribute env_args is damaged ({error})") from error

    @property
    def rate_hz(self) -> float | None:
        rate = self.kwargs.get("control_freq")
        return float(rate) if isinstance(rate, int | float) and rate > 0 else None

    def action_spec(self, width: int) -> tuple[ArraySpec, str]:
        """OSC_POSE deltas are shares of the controller's largest step, 7 for each arm; nobody says what the others are."""
        controller = json.dumps(self.kwargs.get("controller_configs") or {})
        delta = '"control_delta": true' in controller or '"input_type": "delta"' in controller
        arms, rest = divmod(width, ACTION.dim)
        if self.type != ROBOSUITE or '"OSC_POSE"' not in controller or not delta or rest or not arms:
            return vector(width, prefix="action"), "unknown"
        names = ACTION.names if arms == 1 else tuple(f"robot{arm}_{name}" for arm in range(arms) for name in ACTION.names)
        return ArraySpec(names, ACTION.units * arms, ACTION.low * arms, ACTION.high * arms), "osc_pose_delta"

    def is_quaternion(self, name: str, width: int) -> bool:
        return self.type == ROBOSUITE and width == 4 and name.endswith(("_quat", "_quat_site"))

    def state_spec(self, name: str, width: int) -> ArraySpec:
        if self.is_quaternion(name, width):
            return vector(("qw", "qx", "qy", "qz"), "1")
        for end, (names, unit) in _ROBOSUITE_STATE.items():
            if self.type == ROBOSUITE and name.endswith(end) and (names is None or len(names) == width):
                return vector(names, unit) if names else vector(width, unit, prefix=f"{name}_")
        return vector(width, prefix=f"{name}_")

    def success(self, reward: np.ndarray | None) -> bool | None:
        """robosuite's tasks earn 1 where they succeed, and less before; elsewhere only a 1 among zeros says as much."""
        if reward is None or not len(reward):
            return None
        if self.type == ROBOSUITE:
            return bool((reward >= 1).any())
        return True if np.isin(reward, (0, 1)).all() and (reward == 1).any() else None


def env_args(spec: RobotSpec) -> dict[str, Any]:
    """robosuite's bodies by what is known of them; everything else as a gym environment of the body's name."""
    body, _, task = spec.name.partition(":")
    if body != "robosuite":
        return {"env_name": spec.name, "type": GYM, "env_kwargs": {}}
    sizes = list(spec.cameras.values())
    return {
        "env_name": task,
        "type": ROBOSUITE,
        "env_kwargs": {
            "robots": ["Panda"],
            "control_freq": spec.rate_hz,
            "has_renderer": False,
            "has_offscreen_renderer": bool(sizes),
            "use_camera_obs": bool(sizes),
            "camera_names": [WRIST if name == "wrist" else name.removesuffix("_image") for name in spec.cameras],
            "camera_heights": [height for height, _ in sizes],
            "camera_widths": [width for _, width in sizes],
            "use_object_obs": True,
            "reward_shaping": False,
            "ignore_done": True,
        },
    }
