"""Every arm by its name; and one more, which no existing file knows of."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import hardware
from hardware import RobotConfig, arms
from hardware.arms.model import TOOL
from hardware.mujoco.apart import ArmGeometry
from hardware.types import HardwareError

NAMES = pytest.mark.parametrize("name", arms.names())
ROOT = Path(__file__).parents[3]


@NAMES
def test_its_limits_are_its_bodys(name: str) -> None:
    _, model = arms.find(name)
    spec, body = model.spec, model.compile()
    assert spec.name == name
    for j, joint in enumerate(spec.joints):
        low, high = body.joint(joint).range
        assert low - 0.02 <= spec.q_min[j] < spec.home[j] < spec.q_max[j] <= high + 0.02, joint
    assert body.site(TOOL).id >= 0
    assert all(body.body(part).id for part in model.elbow)
    assert model.torque_max == () or len(model.torque_max) == len(spec.joints)
    assert all((getattr(spec, limit) > 0).all() for limit in ("v_max", "a_max", "j_max"))


@NAMES
def test_at_home_it_has_room_above_a_table(name: str) -> None:
    _, model = arms.find(name)
    geometry = ArmGeometry(model, table_z=0.0)
    assert geometry.rooms(model.spec.home).min() > 0.035
    assert geometry.tool(model.spec.home)[2] > 0.05
    rng = np.random.default_rng(0)
    for q in rng.uniform(model.spec.q_min, model.spec.q_max, (300, len(model.spec.joints))):
        step = rng.normal(0, 0.02, len(q))
        before, after = geometry.rooms(q), geometry.rooms(q + step)
        assert (before - after <= geometry.pair_reach @ np.abs(step) + 1e-9)[before > 0].all()


@NAMES
def test_as_a_body_it_is_known_without_being_there(name: str) -> None:
    spec = hardware.spec_of(RobotConfig(name))
    assert spec.action.names[-1] == "gripper"
    assert spec.state["joint_pos"].dim == len(arms.find(name)[1].spec.joints)


def test_an_unknown_arm_and_one_without_address() -> None:
    with pytest.raises(HardwareError, match="arm: 'r2d2'; valid: .*so101.*ur5e"):
        arms.find("r2d2")
    with pytest.raises(HardwareError, match="arm ur5e: no address; one looks like 192.168"):
        arms.drive("ur5e", "")
    with pytest.raises(HardwareError, match="real arms: .*xarm7"):
        hardware.open(RobotConfig("r2d2"))
    with pytest.raises(HardwareError, match="RobotConfig.arm: given, but fake is no real arm"):
        hardware.open(RobotConfig("fake", arm=hardware.RealConfig()))


@pytest.fixture
def seventh(tmp_path: Path) -> Iterator[None]:
    """A file in the folder of the arms, so to speak."""
    (tmp_path / "seventh.py").write_text(
        "from hardware.arms import Family\n"
        "from hardware.arms.feetech import FAMILY as FEETECH\n"
        "from dataclasses import replace\n"
        "old = FEETECH.models['so101']\n"
        "FAMILY = Family({'mine': replace(old, spec=replace(old.spec, name='mine'))}, FEETECH.drive, FEETECH.double, '/dev/mine')\n"
    )
    arms.__path__.append(str(tmp_path))
    arms.families.cache_clear()
    yield
    arms.__path__.remove(str(tmp_path))
    arms.families.cache_clear()
    sys.modules.pop("hardware.arms.seventh", None)


@pytest.mark.usefixtures("seventh")
def test_a_seventh_family_is_one_more_file() -> None:
    assert arms.find("mine")[0].address == "/dev/mine"
    assert hardware.spec_of(RobotConfig("mine")).name == "mine"
    assert "mine" in arms.names()


def test_names_need_neither_an_sdk_nor_mujoco() -> None:
    script = (
        "import sys; from hardware import arms; arms.names()\n"
        "assert not {'mujoco', 'scservo_sdk', 'dynamixel_sdk', 'rtde_control', 'pylibfranka', 'xarm', 'can'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
