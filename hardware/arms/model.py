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

TOOL = "tool"
OWN = Path(__file__).parents[1] / "models"  # MJCF of our own, from published dimensions


@dataclass(frozen=True)
class ArmModel:
    """An arm as `ArmSpec` limits it and `mjcf` builds it; joints have the names of spec.joints, the end effector is the site TOOL."""

    spec: ArmSpec
    mjcf: Callable[[], str]
    """The arm alone, standing on z = 0, as MJCF; compiled when first asked for."""
    elbow: tuple[str, ...] = ()
    """Bodies that have to stay inside the workspace, too."""
    torque_max: tuple[float, ...] = ()
    """Of the doubles' servos (J,) [N m]; empty: 100 each."""
    gripper_max_m: float = 0.08
    """Opening at gripper = 1."""
    zero: str = ""
    """How the arm stands at q = 0, in words, for a person who calibrates it; empty: its own controller knows where its joints are."""

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
def with_hand(mjcf: Callable[[], str], length_m: float, radius_m: float) -> Callable[[], str]:
    """An arm whose flange is the body right_hand, with a gripper on it: its shape, and the site TOOL between its fingertips."""

    def handed() -> str:
        root = ET.fromstring(mjcf())
        hand = next(body for body in root.iter("body") if body.get("name") == "right_hand")
        ET.SubElement(hand, "site", name=TOOL, pos=f"0 0 {length_m}")
        shape = {"type": "capsule", "size": f"{radius_m}", "fromto": f"0 0 0 0 0 {length_m - radius_m}", "mass": "0"}
        ET.SubElement(hand, "geom", shape)
        contact = root.find("contact")
        contact = ET.SubElement(root, "contact") if contact is None else contact
        carriers = [body.get("name", "") for body in root.iter("body") if hand in body.iter("body")]  # hand last, its flange before it
        for carrier in carriers[-4:-1]:
            ET.SubElement(contact, "exclude", body1=carrier, body2="right_hand")
        return ET.tostring(root, encoding="unicode")

    return handed


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
        for joint in root.iter("joint"):  # dry friction is its own servos' to overcome, and a double's have no integral part
            joint.attrib.pop("frictionloss", None)
            joint.set("armature", "0.05")
        return ET.tostring(root, encoding="unicode")

    return mjcf
