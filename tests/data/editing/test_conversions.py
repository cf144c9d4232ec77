"""One part of a vector at a time: values by hand, limits and units alongside, requests that are NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hardware.types import ArraySpec
from robolearn.data.editing.conversions import Part, Step, factor
from robolearn.data.editing.deltas import Relative

inf = math.inf


def array(names: str, unit: str, low: float = -inf, high: float = inf) -> ArraySpec:
    listed = tuple(names.split())
    return ArraySpec(listed, (unit,) * len(listed), (low,) * len(listed), (high,) * len(listed))


def test_deltas_by_hand() -> None:
    position = array("p", "m")
    state, action, asked = (np.array(v, np.float32)[:, None] for v in ([1, 2, 4], [2, 5, 6], [3, 9, 9]))

    def result(step: Step) -> tuple[list[float], list[float]]:
        convert, _ = Part(steps=(step,)).compile(position, {"q": position}, "action.0")
        executed, requested = convert(action, asked, {"q": state})
        return executed[:, 0].tolist(), requested[:, 0].tolist()

    assert result(Step(delta=Relative("previous", "q"))) == ([1, 3, 1], [2, 7, 4])
    assert result(Step(delta=Relative("state", "q"))) == ([1, 3, 2], [2, 7, 5])
    assert result(Step(absolute=Relative("previous", "q"))) == ([3, 8, 14], [4, 12, 17])
    assert result(Step(absolute=Relative("state", "q"))) == ([3, 7, 10], [4, 11, 13])


def test_elements_of_the_state_are_chosen_and_ordered() -> None:
    state = np.array([[1, 10, 100]], np.float32)
    relative = Relative("state", "q", elements=("c", "a"))
    convert, _ = Part(elements=("y", "x"), steps=(Step(delta=relative),)).compile(array("x y", ""), {"q": array("a b c", "")}, "")
    executed, _ = convert(np.array([[7.0, 9.0]]), np.zeros((1, 2)), {"q": state})
    assert executed.tolist() == [[9 - 100, 7 - 1]]


def test_a_request_of_nan_reaches_no_other_row() -> None:
    turn, rng = array("rx ry rz", "rad"), np.random.default_rng(0)
    state, action, asked = rng.uniform(-1, 1, (3, 4, 3))
    asked[1] = np.nan
    for step in (
        Step(delta=Relative("previous", "q", rotation="axis_angle")),
        Step(absolute=Relative("previous", "q", rotation="axis_angle")),
        Step(absolute=Relative("previous", "q")),
        Step(rotation=("axis_angle", "quat_wxyz")),
    ):
        convert, _ = Part(steps=(step,)).compile(turn, {"q": turn}, "")
        executed, requested = convert(action, asked, {"q": state})
        assert np.isfinite(executed).all() and np.isfinite(requested).all(axis=1).tolist() == [True, False, True, True]


def test_limits_follow_even_when_inverted() -> None:
    part = Part(steps=(Step(units=("mm", "m")), Step(range=((0.08, 0.0), (0.0, 1.0)))), unit="1")
    _, after = part.compile(array("g", "mm", 0, 80), {}, "")
    np.testing.assert_allclose((after.low, after.high), ((0,), (1,)), atol=1e-12)
    assert after.units == ("1",)
    _, after = Part(steps=(Step(range=((0.0, 1.0), (1.0, 0.0))),)).compile(array("g", "", -inf, 4.0), {}, "")
    assert (after.low, after.high, after.units) == ((-3.0,), (inf,), ("",))


def test_a_delta_has_the_unit_but_not_the_limits() -> None:
    joints = array("a b", "rad", -3, 3)
    _, after = Part(steps=(Step(delta=Relative("state", "q")),)).compile(joints, {"q": joints}, "")
    assert after == array("a b", "rad")


def test_units() -> None:
    assert factor("deg", "rad") == math.pi / 180 and factor("mm/s^2", "m/s^2") == 1e-3 and factor("cm", "mm") == 10
    for was, becomes in (("px", "m"), ("deg", "m"), ("deg/s", "rad"), ("N", "m")):
        with pytest.raises(ValueError, match=f"{was!r} to {becomes!r} is no conversion; known: rad, deg"):
            factor(was, becomes)
