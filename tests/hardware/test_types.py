from __future__ import annotations

import json
from dataclasses import replace

import pytest

from hardware.fake import FakeArm
from hardware.types import Arm, ArraySpec, RobotSpec

JOINTS = ArraySpec(("a", "b"), ("rad", "rad"), (-1.0, -2.0), (1.0, 2.0))
SPEC = RobotSpec(
    name="arm",
    cameras={"top": (84, 96)},
    state={"joint_pos": JOINTS, "ee_pos": ArraySpec(("x", "y", "z"), ("m",) * 3, (-1.0,) * 3, (1.0,) * 3)},
    action=JOINTS,
    action_mode="joint_pos",
    rate_hz=10.0,
)


def test_a_spec_survives_json() -> None:
    again = RobotSpec.from_dict(json.loads(json.dumps(SPEC.to_dict())))
    assert again == SPEC
    assert SPEC.diff(again) == []
    assert SPEC.state_dim == 5
    assert list(again.state) == ["joint_pos", "ee_pos"]  # the order forms the state vector


def test_a_diff_names_the_field_and_both_values() -> None:
    other = replace(SPEC, cameras={"top": (84, 84), "wrist": (84, 84)}, rate_hz=20.0)
    assert SPEC.diff(other) == [
        "cameras.top: [84, 96] != [84, 84]",
        "rate_hz: 10.0 != 20.0",
        "cameras.wrist: (absent) != [84, 84]",
    ]


def test_an_array_spec_of_uneven_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        ArraySpec(("a", "b"), ("rad",), (0.0, 0.0), (1.0, 1.0))


def test_a_driver_is_recognised() -> None:
    assert isinstance(FakeArm(), Arm)
