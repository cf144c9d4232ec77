"""The torch rotations say what the numpy ones of the importers say, in every form."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from robolearn.data.editing import rotations
from robolearn.models.rotations import compose, from_matrix, to_matrix

AXES = ["".join(axes) for axes in itertools.product("xyz", repeat=3) if axes[0] != axes[1] != axes[2]]
FORMS = [
    "quat_wxyz",
    "quat_xyzw",
    "axis_angle",
    "rot6d",
    "rot6d_rows",
    *(f"euler_{a}_{k}" for a in AXES for k in ("extrinsic", "intrinsic")),
]
EDGES = Rotation.from_euler("xyz", [[0.3, np.pi / 2, 0.2], [0.3, -np.pi / 2, 0.2], [0, 0, 0], [np.pi, 0, 0], [0, 0, np.pi], [1e-5, 0, 0]])
RANDOM = Rotation.random(200, random_state=0)


@pytest.mark.parametrize("form", [*FORMS, "euler_xyz_extrinsic_deg"])
def test_every_form_is_what_the_importers_mean_by_it(form):
    known, all_of_them = rotations.form(form), Rotation.concatenate([RANDOM, EDGES])
    matrix = to_matrix(torch.from_numpy(known.encode(all_of_them)).float(), form)
    assert np.abs(matrix.numpy() - all_of_them.as_matrix()).max() < 2e-6
    back = from_matrix(torch.from_numpy(all_of_them.as_matrix()).float(), form).double().numpy()
    assert (known.decode(back) * all_of_them.inv()).magnitude().max() < 2e-6, "the same rotation, at the poles too"
    scale = 180 / np.pi if form.endswith("deg") else 1
    assert np.abs(back[:200] - known.encode(RANDOM)).max() < 2e-6 * scale, "and in the same numbers, where they are unique"


@given(st.lists(st.floats(-3, 3, width=32), min_size=6, max_size=6), st.sampled_from(FORMS))
def test_whatever_a_network_says_is_a_rotation(numbers, form):
    value = torch.tensor(numbers[: len(rotations.form(form).names)])
    matrix = to_matrix(value, form)
    first = value[:3].norm() > 1e-2 and torch.linalg.cross(value[:3], value[3:]).norm() > 1e-2 if len(value) == 6 else value.norm() > 1e-2
    if first:
        assert torch.allclose(compose(matrix, matrix.T), torch.eye(3), atol=1e-4) and torch.det(matrix) > 0
    assert torch.isfinite(matrix).all() and torch.isfinite(from_matrix(matrix, form)).all()


def test_autocast_does_not_touch_them():
    first, second = (torch.from_numpy(Rotation.random(50, random_state=seed).as_matrix()).float() for seed in (1, 2))
    with torch.autocast("cpu", torch.bfloat16):
        product = compose(first, to_matrix(from_matrix(second, "rot6d"), "rot6d"))
    assert product.dtype == torch.float32
    assert torch.allclose(product, first @ second, atol=1e-6)


def test_an_unknown_form_is_named():
    with pytest.raises(ValueError, match="rotation 'euler_xxy_extrinsi'"):
        to_matrix(torch.zeros(3), "euler_xxy_extrinsi")
