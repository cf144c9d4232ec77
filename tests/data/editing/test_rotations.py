"""Every form to every other and back, against values worked out by hand."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from robolearn.data.editing.rotations import accumulate, compose, convert, difference, form

AXES = ["xyz", "zyx", "zxz", "yxz"]
NAMES = ["quat_wxyz", "quat_xyzw", "axis_angle", "rot6d", "rot6d_rows"]
NAMES += [f"euler_{axes}_{kind}{unit}" for axes in AXES for kind in ("extrinsic", "intrinsic") for unit in ("", "_deg")]
names = st.sampled_from(NAMES)
frames = st.sampled_from(["world", "body"])
seeds = st.integers(0, 2**32 - 1)

# A quarter turn about z, then (in the fixed frame) a quarter turn about x.
HALF = np.sqrt(0.5)
TURN = {
    "quat_wxyz": [0.5, 0.5, -0.5, 0.5],
    "quat_xyzw": [0.5, -0.5, 0.5, 0.5],
    "axis_angle": np.array([1, -1, 1]) / np.sqrt(3) * 2 * np.pi / 3,
    "rot6d": [0, 0, 1, -1, 0, 0],
    "rot6d_rows": [0, -1, 0, 0, 0, -1],
    "euler_zyx_extrinsic_deg": [90, 0, 90],
    "euler_xyz_intrinsic": [np.pi / 2, 0, np.pi / 2],
    "euler_xyz_extrinsic_deg": [90, -90, 0],
}


def some(seed: int, rows: int = 6) -> np.ndarray:
    return Rotation.random(rows, rng=np.random.default_rng(seed)).as_matrix()


def matrices(values: np.ndarray, name: str) -> np.ndarray:
    return form(name).decode(np.asarray(values, np.float64)).as_matrix()


def same(one: np.ndarray, other: np.ndarray, what: str, atol: float = 1e-12) -> None:
    np.testing.assert_allclose(matrices(one, what), matrices(other, what), atol=atol)


@pytest.mark.parametrize("name", TURN)
def test_one_turn_by_hand(name: str) -> None:
    matrix = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]])
    np.testing.assert_allclose(matrices([TURN[name]], name)[0], matrix, atol=1e-12)
    for other in TURN:
        np.testing.assert_allclose(matrices(convert(np.array([TURN[name]], float), form(name), form(other)), other)[0], matrix, atol=1e-12)


def test_intrinsic_and_extrinsic_are_each_others_reverse() -> None:
    angles = np.random.default_rng(0).uniform(-1, 1, (5, 3))
    for axes in ("".join(p) for p in permutations("xyz")):
        np.testing.assert_allclose(
            matrices(angles, f"euler_{axes}_intrinsic"), matrices(angles[:, ::-1], f"euler_{axes[::-1]}_extrinsic"), atol=1e-12
        )
    np.testing.assert_allclose(matrices(np.degrees(angles), "euler_xyz_extrinsic_deg"), matrices(angles, "euler_xyz_extrinsic"), atol=1e-12)


def test_6d_is_columns_and_its_rows_are_the_transpose() -> None:
    matrix = some(3, 1)[0]
    np.testing.assert_allclose(form("rot6d").encode(Rotation.from_matrix(matrix[None]))[0], np.concatenate([matrix[:, 0], matrix[:, 1]]))
    np.testing.assert_allclose(form("rot6d_rows").encode(Rotation.from_matrix(matrix[None]))[0], np.concatenate([matrix[0], matrix[1]]))


@given(names, names, seeds)
def test_there_and_back(source, target, seed) -> None:
    source, target = form(source), form(target)
    values = source.encode(Rotation.from_matrix(some(seed)))
    back = convert(convert(values, source, target), target, source)
    same(back, values, source.name)
    single = convert(convert(values, source, target).astype(np.float32), target, source)
    same(single, values, source.name, atol=2e-6)


@given(names, frames, seeds)
def test_a_difference_composed_leads_back(name, frame, seed) -> None:
    turn = form(name)
    target, reference = (turn.encode(Rotation.from_matrix(some(s))) for s in (seed, seed + 1))
    same(compose(difference(target, reference, turn, frame), reference, turn, frame), target, name)
    zero = difference(reference, reference, turn, frame)
    np.testing.assert_allclose(matrices(zero, name), np.broadcast_to(np.eye(3), (6, 3, 3)), atol=1e-12)


@given(names, st.integers(1, 20), frames, seeds)
def test_accumulated_deltas_are_the_product_one_by_one(name, rows, frame, seed) -> None:
    turn = form(name)
    deltas, start = turn.encode(Rotation.from_matrix(some(seed, rows))), turn.encode(Rotation.from_matrix(some(seed + 1, 1)))
    reached = [start]
    for delta in deltas:
        reached.append(compose(delta[None], reached[-1], turn, frame))
    same(accumulate(deltas, start, turn, frame), np.concatenate(reached[1:]), name)


def test_the_frame_is_whose_axes_are_meant() -> None:
    """From a quarter turn about z, a further quarter turn about the world's x, or about the hand's."""
    z = np.array([[0, 0, np.pi / 2]])
    x = np.array([[np.pi / 2, 0, 0]])
    vector = form("axis_angle")
    rz, rx = Rotation.from_rotvec(z), Rotation.from_rotvec(x)
    np.testing.assert_allclose(compose(x, z, vector, "world"), (rx * rz).as_rotvec(), atol=1e-12)
    np.testing.assert_allclose(compose(x, z, vector, "body"), (rz * rx).as_rotvec(), atol=1e-12)


def test_reordering_a_quaternion_keeps_every_bit() -> None:
    values = -np.random.default_rng(0).uniform(size=(4, 4))  # neither unit nor w >= 0
    swapped = convert(values, form("quat_xyzw"), form("quat_wxyz"))
    np.testing.assert_array_equal(swapped, values[:, [3, 0, 1, 2]])
    np.testing.assert_array_equal(convert(swapped, form("quat_wxyz"), form("quat_xyzw")), values)


def test_a_made_quaternion_has_w_at_least_zero() -> None:
    made = convert(np.random.default_rng(0).uniform(-6, 6, (50, 3)), form("axis_angle"), form("quat_wxyz"))
    assert (made[:, 0] >= 0).all()


def test_a_request_of_nan_stays_nan() -> None:
    values = np.array([[0.1, 0.2, 0.3], [np.nan, 0, 0], [0.3, 0.2, 0.1]])
    vector = form("axis_angle")
    for made in (convert(values, vector, form("rot6d")), difference(values, values[::-1], vector, "world")):
        assert np.isnan(made[1]).all() and np.isfinite(made[[0, 2]]).all()
    total = accumulate(values, values[:1], vector, "body")
    assert np.isnan(total[1]).all() and np.isfinite(total[[0, 2]]).all()
    assert np.isnan(convert(np.full((2, 3), np.nan), vector, form("quat_wxyz"))).all()


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("quat_wxyz", [0, 0, 0, 0], "row 1 has norm 0; a quaternion's is 1"),
        ("quat_xyzw", [1, 1, 1, 1], "row 1 has norm 2; a quaternion's is 1"),
        ("rot6d", [0, 0, 0, 1, 0, 0], "row 1 begins with a vector of length 0"),
        ("rot6d_rows", [1, 0, 0, 2, 0, 0], "row 1 has parallel vectors"),
    ],
)
def test_what_is_no_rotation_is_named_by_row(name: str, row: list[float], message: str) -> None:
    good = form(name).encode(Rotation.identity(1))[0]
    with pytest.raises(ValueError, match=message):
        convert(np.array([good, row], float), form(name), form("axis_angle"))


@pytest.mark.parametrize("name", ["quat", "euler_xyz", "euler_xxy_extrinsic", "euler_xyw_intrinsic", "rot6d_deg", ""])
def test_an_unknown_form_lists_the_valid_ones(name: str) -> None:
    with pytest.raises(ValueError, match=f"rotation {name!r} is not valid; expected one of quat_wxyz, quat_xyzw"):
        form(name)
