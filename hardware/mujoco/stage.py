"""One scene for every arm: it stands on a table, a green ball hangs in the air for its tool to reach, two cameras look on."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import mujoco
import numpy as np

from hardware import arms
from hardware.arms.model import TOOL, ArmModel
from hardware.kinematics import Box
from hardware.mujoco.apart import ArmGeometry
from hardware.mujoco.kinematics import EeDelta
from hardware.mujoco.render import VISUAL_GROUP
from hardware.types import HardwareError

CAMERAS = ("front", "wrist")  # one that stands before the arm, and one on its hand
BALL = "ball"
GREEN, WOOD, GREY, DARK = "0.1 0.8 0.2 1", "0.62 0.52 0.42 1", "0.72 0.74 0.78 1", "0.2 0.22 0.28 1"
MOST, LEAST = 0.15, 0.05  # m: half a side of the goals' box, at most, and of the longest at least
WAY = 10 / 3  # as far from home is a goal at least, as near it has to be come: 10 cm and 3 cm
FLOOR = 0.03  # m above the table
ROOM = 0.03  # m between any two parts on the way to a goal: the governor brakes below 0.02
MARGIN = 0.05  # rad inside the joints' limits: more than the governor's
STEP = 0.015  # m along the way to a goal


@dataclass(frozen=True)
class Stage:
    """The arm with the scene around it, and what is to be reached. Lengths in metres, in the frame of the arm's base."""

    arm: ArmModel
    kinematics: EeDelta
    goals: Box
    """where goals are: the arm gets anywhere in it from home, straight ahead, by `ee_delta`"""
    near: float
    """the tool this near to the goal has reached it"""
    least: float
    """of way from home to a goal"""

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A goal (3,), no nearer to the tool at home than `least`."""
        goal = home = self.tool(self.arm.spec.home)
        while np.linalg.norm(goal - home) < self.least:
            goal = rng.uniform(self.goals.low, self.goals.high)
        return goal

    def tool(self, q: np.ndarray) -> np.ndarray:
        """(3,) with joints at q (J,) [rad]."""
        return self.kinematics.position(q)

    def way(self, q: np.ndarray, goal: np.ndarray) -> float:
        """Still to go."""
        return float(np.linalg.norm(self.tool(q) - goal))

    def reached(self, q: np.ndarray, goal: np.ndarray) -> bool:
        return self.way(q, goal) < self.near

    def reward(self, q: np.ndarray, goal: np.ndarray) -> float:
        """1 where it is reached; before, 0.76 at 5 cm of the largest arms' way, 0.24 at 20 cm, and in proportion."""
        return 1.0 if self.reached(q, goal) else 1.0 - float(np.tanh(0.15 * self.way(q, goal) / self.near))


@cache
def staged(name: str) -> Stage:
    """The scene of an arm by its name. Raises HardwareError: no such arm, or one that gets nowhere by steps of its tool."""
    arm = arms.find(name)[1]
    model, usable = arm.compile(), (arm.spec.q_min + MARGIN, arm.spec.q_max - MARGIN)
    joints = np.array([model.joint(joint).id for joint in arm.spec.joints])
    kinematics = EeDelta(model, joints, TOOL, arm.spec.home, usable)
    goals = _goals(arm, kinematics)
    near = 0.1 * float((goals.high - goals.low).max())  # 3 cm for an arm with all the room it may want
    mjcf = _mjcf(arm, kinematics, goals, near)
    return Stage(dressed(arm, mjcf), kinematics, goals, near, WAY * near)


def dressed(arm: ArmModel, mjcf: str) -> ArmModel:
    """The arm with a scene around it, as another process may say it in words."""
    return replace(arm, mjcf=lambda: mjcf)


def _goals(arm: ArmModel, kinematics: EeDelta) -> Box:
    """As far from the tool at home as it gets along each axis, all shrunk by one share until it gets to the corners, too."""
    geometry, home = ArmGeometry(arm, table_z=0.0), kinematics.position(arm.spec.home)
    down, up = np.minimum(MOST, [MOST, MOST, home[2] - FLOOR]), np.array([MOST, MOST, MOST / 5])  # beside the hand no camera sees it

    def gets(offset: np.ndarray) -> float:
        return _gets(offset, arm, kinematics, geometry)

    low = np.array([-way * gets(-way * unit) for way, unit in zip(down, np.eye(3), strict=True)])
    high = np.array([way * gets(way * unit) for way, unit in zip(up, np.eye(3), strict=True)])
    for share in np.arange(1.0, 0.0, -0.1):
        if share * (high - low).max() < 2 * LEAST:
            break
        if all(gets(share * np.choose(at, (low, np.zeros(3), high))) == 1.0 for at in product((0, 1, 2), repeat=3)):
            return Box(home + share * low, home + share * high)
    raise HardwareError(f"reach:{arm.spec.name}: from its home the arm gets {LEAST:g} m in no direction; it has no such scene")


def _gets(offset: np.ndarray, arm: ArmModel, kinematics: EeDelta, geometry: ArmGeometry) -> float:
    """The share of a way straight ahead from home, (3,) [m], that the arm gets along, in steps, no part near another nor the table."""
    q, steps = arm.spec.home, max(1, int(np.ceil(np.linalg.norm(offset) / STEP)))
    for step in range(steps):
        try:
            q, _ = kinematics.target(np.append(offset / steps, 0.0), q, 0.0)
        except HardwareError:
            return step / steps
        if geometry.rooms(q).min(initial=np.inf) < ROOM:
            return step / steps
    return 1.0


def _mjcf(arm: ArmModel, kinematics: EeDelta, goals: Box, near: float) -> str:
    """The arm's own, and what is around it: nothing of that but the table can be touched."""
    root = ET.fromstring(arm.mjcf())
    world = root.find("worldbody")
    assert world is not None
    for body in world.iter("body"):
        holds_tool = any(site.get("name") == TOOL for site in body.findall("site"))
        for geom in body.findall("geom"):
            geom.set("rgba", DARK if holds_tool else GREY)
            geom.set("group", str(VISUAL_GROUP))
    middle, size = 0.5 * (goals.low + goals.high), float((goals.high - goals.low).max())
    seen, table = {"group": str(VISUAL_GROUP)}, float(np.linalg.norm(middle[:2])) + 2 * size
    ET.SubElement(world, "geom", seen, name="table", type="box", size=f"{table} {table} 0.02", pos="0 0 -0.02", rgba=WOOD)
    ball = ET.SubElement(world, "body", name=BALL, mocap="true", pos=_text(middle))
    ET.SubElement(ball, "geom", seen, type="sphere", size=f"{near}", rgba=GREEN, contype="0", conaffinity="0", mass="0")
    ET.SubElement(world, "light", pos=_text(middle + [0, 0, 5 * size]), dir="0 0 -1", directional="true", diffuse="0.5 0.5 0.5")
    outward = np.append(middle[:2], 0.0) / np.linalg.norm(middle[:2])
    side, up = np.cross([0.0, 0.0, 1.0], outward), np.array([0.0, 0.0, 1.0])
    eye = middle + size * (2.2 * outward + 1.5 * side + 1.0 * up)
    ET.SubElement(world, "camera", _camera("front", eye, middle + 0.2 * size * up, up), fovy="45")  # the hand is above most goals
    _add_wrist(root, arm, kinematics, outward + up)
    return ET.tostring(root, encoding="unicode")


def _add_wrist(root: ET.Element, arm: ArmModel, kinematics: EeDelta, away: np.ndarray) -> None:
    """A camera beside the hand that looks past the tool; away: to which side of the hand, at home, in the world."""
    model = arm.compile()
    data = mujoco.MjData(model)
    data.qpos[[model.joint(joint).qposadr[0] for joint in arm.spec.joints]] = arm.spec.home
    mujoco.mj_kinematics(model, data)
    carrier, tool = int(model.site(TOOL).bodyid[0]), model.site(TOOL).pos
    hand = next(body for body in root.iter("body") if body.get("name") == model.body(carrier).name)
    length = float(np.linalg.norm(tool))
    ahead, side = tool / length, data.xmat[carrier].reshape(3, 3).T @ away
    side -= (side @ ahead) * ahead
    side /= np.linalg.norm(side)
    eye = length * (1.0 * side - 0.4 * ahead)
    ET.SubElement(hand, "camera", _camera("wrist", eye, tool + 0.5 * length * ahead, side), fovy="80")


def _camera(name: str, eye: np.ndarray, at: np.ndarray, up: np.ndarray) -> dict[str, str]:
    """Attributes of a camera at `eye` that looks `at` a point, its picture's upper edge towards `up`."""
    back = (eye - at) / np.linalg.norm(eye - at)
    right = np.cross(up, back)
    return {"name": name, "pos": _text(eye), "xyaxes": f"{_text(right)} {_text(np.cross(back, right))}"}


def _text(numbers: np.ndarray) -> str:
    return " ".join(f"{number:.6g}" for number in numbers)
