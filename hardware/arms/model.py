"""What an arm is: its limits, and its body as MuJoCo knows it. Kinematics, collisions and the doubles' physics are all made of it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hardware.types import ArmSpec

if TYPE_CHECKING:
    import mujoco

OWN = Path(__file__).parents[1] / "models"  # MJCF of our own, from published dimensions


@dataclass(frozen=True)
class ArmModel:
    """An arm as `ArmSpec` limits it and `mjcf` builds it; joints have the names of spec.joints."""

    spec: ArmSpec
    mjcf: Callable[[], str]
    """The arm alone, standing on z = 0, as MJCF; compiled when first asked for."""
    tool: str
    """Body or site whose position is the end effector's."""
    elbow: tuple[str, ...] = ()
    """Bodies that have to stay inside the workspace, too."""
    torque_max: tuple[float, ...] = ()
    """Of the doubles' servos (J,) [N m]; empty: 100 each."""
    gripper_max_m: float = 0.08
    """Opening at gripper = 1."""

    def compile(self) -> mujoco.MjModel:
        return _compiled(self.mjcf)


@cache
def _compiled(mjcf: Callable[[], str]) -> mujoco.MjModel:
    import mujoco

    return mujoco.MjModel.from_xml_string(mjcf())


def limits(**values: object) -> dict[str, np.ndarray]:
    """The arrays of an ArmSpec, written as plain sequences."""
    return {name: np.array(value, dtype=np.float64) for name, value in values.items()}


def own(name: str) -> Callable[[], str]:
    """hardware/models/NAME.xml."""
    return _reader(OWN / f"{name}.xml")


@cache
def _reader(path: Path) -> Callable[[], str]:
    return lambda: path.read_text(encoding="utf-8")


@cache
def robosuite(robot: str) -> Callable[[], str]:
    """The arm that robosuite ships under this name: its collision shapes and inertias, without what is only there to be seen."""

    def mjcf() -> str:
        from importlib.util import find_spec

        found = find_spec("robosuite")
        assert found is not None
        assert found.origin is not None
        folder = Path(found.origin).parent / "models/assets/robots" / robot
        root = ET.parse(folder / "robot.xml").getroot()
        compiler = root.find("compiler")
        assert compiler is not None
        compiler.set("autolimits", "true")
        for parent in list(root.iter()):
            for child in list(parent):
                seen_only = child.tag == "geom" and child.get("contype") == "0"
                if seen_only or child.tag in ("camera", "light", "material", "texture", "actuator", "sensor"):
                    parent.remove(child)
        used = {geom.get("mesh") for geom in root.iter("geom")}
        for asset in root.iter("asset"):
            for mesh in list(asset):
                if mesh.get("name") not in used:
                    asset.remove(mesh)
                else:
                    mesh.set("file", str(folder / str(mesh.get("file"))))
        for geom in root.iter("geom"):
            geom.attrib.pop("material", None)
        return ET.tostring(root, encoding="unicode")

    return mjcf
