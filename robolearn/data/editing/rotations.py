"""Rotations between the forms in which datasets keep them, by scipy.spatial.transform.

    quat_wxyz, quat_xyzw                       unit quaternions; made with w >= 0, reordered as they are
    axis_angle                                 the unit axis times the angle [rad]
    rot6d                                      the matrix's first two columns, one after the other (Zhou et al. 2019, section 4.2)
    rot6d_rows                                 its first two rows instead (pytorch3d, and with it Diffusion Policy and UMI)
    euler_<axes>_extrinsic, _intrinsic [_deg]  three angles in the order of <axes>, about fixed or moving axes [rad or deg]

Rows with NaN stay NaN: a request may hold them.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.spatial.transform import Rotation

FORMS = "quat_wxyz, quat_xyzw, axis_angle, rot6d, rot6d_rows, euler_<axes>_extrinsic, euler_<axes>_intrinsic, euler_..._deg"
Frame = Literal["world", "body"]  # whose axes a delta turns about: it is multiplied on the left, or on the right
UNIT = 0.1  # how far a quaternion's norm may be from 1; beyond it, something else was called a quaternion
PARALLEL = 1e-6  # below this a vector has no direction in float32


@dataclass(frozen=True)
class Form:
    """One way to write N rotations as an array (N, len(names))."""

    name: str
    names: tuple[str, ...]
    unit: str
    decode: Callable[[np.ndarray], Rotation]
    encode: Callable[[Rotation], np.ndarray]


def form(name: str) -> Form:
    """The form called `name`. ValueError lists the valid ones."""
    euler = re.fullmatch(r"euler_([xyz]{3})_(extrinsic|intrinsic)(_deg)?", name)
    if euler and all(a != b for a, b in zip(euler[1], euler[1][1:], strict=False)):
        axes, degrees = euler[1] if euler[2] == "extrinsic" else euler[1].upper(), bool(euler[3])
        names = tuple(f"euler{i}{axis}" for i, axis in enumerate(euler[1], start=1))
        return Form(name, names, "deg" if degrees else "rad", lambda v: Rotation.from_euler(axes, v, degrees), _to_euler(axes, degrees))
    match name:
        case "quat_wxyz":
            order = [1, 2, 3, 0]
            return Form(
                name, ("qw", "qx", "qy", "qz"), "1", lambda v: _from_quaternion(v[:, order]), lambda r: _quaternion(r)[:, [3, 0, 1, 2]]
            )
        case "quat_xyzw":
            return Form(name, ("qx", "qy", "qz", "qw"), "1", _from_quaternion, _quaternion)
        case "axis_angle":
            return Form(name, ("rx", "ry", "rz"), "rad", Rotation.from_rotvec, Rotation.as_rotvec)
        case "rot6d":
            names = tuple(f"r{row}{column}" for column in (1, 2) for row in (1, 2, 3))
            return Form(name, names, "1", lambda v: _from_6d(v, -1), lambda r: r.as_matrix()[:, :, :2].swapaxes(1, 2).reshape(-1, 6))
        case "rot6d_rows":
            names = tuple(f"r{row}{column}" for row in (1, 2) for column in (1, 2, 3))
            return Form(name, names, "1", lambda v: _from_6d(v, -2), lambda r: r.as_matrix()[:, :2].reshape(-1, 6))
    raise ValueError(f"rotation {name!r} is not valid; expected one of {FORMS}")


def convert(values: np.ndarray, source: Form, target: Form) -> np.ndarray:
    """float64 (N, target) of (N, source). Reordering a quaternion is exact. ValueError names the row that is no rotation."""
    if sorted(source.names) == sorted(target.names) and source.unit == target.unit == "1" and len(source.names) == 4:
        return np.asarray(values, np.float64)[:, [source.names.index(name) for name in target.names]]
    return _finite_rows(lambda v: target.encode(source.decode(v)), len(target.names), values)


def difference(target: np.ndarray, reference: np.ndarray, form: Form, frame: Frame) -> np.ndarray:
    """The rotations that lead from `reference` to `target`, row by row; all (N, form)."""

    def between(t: np.ndarray, r: np.ndarray) -> np.ndarray:
        to, inverse = form.decode(t), form.decode(r).inv()
        return form.encode(to * inverse if frame == "world" else inverse * to)

    return _finite_rows(between, len(form.names), target, reference)


def compose(delta: np.ndarray, reference: np.ndarray, form: Form, frame: Frame) -> np.ndarray:
    """The inverse of `difference`: where `delta` leads from `reference`."""

    def after(d: np.ndarray, r: np.ndarray) -> np.ndarray:
        by, start = form.decode(d), form.decode(r)
        return form.encode(by * start if frame == "world" else start * by)

    return _finite_rows(after, len(form.names), delta, reference)


def accumulate(deltas: np.ndarray, start: np.ndarray, form: Form, frame: Frame) -> np.ndarray:
    """Where each of `deltas` leads, the first from `start` (1, form), each other one from where the one before led."""

    def chained(d: np.ndarray) -> np.ndarray:
        total, step = form.decode(np.concatenate([start, d])), 1
        while step < len(total):  # all prefix products in log2(N) turns
            earlier, later = total[:-step], total[step:]
            total, step = Rotation.concatenate([total[:step], later * earlier if frame == "world" else earlier * later]), 2 * step
        return form.encode(total)[1:]

    return _finite_rows(chained, len(form.names), deltas)


def _finite_rows(function: Callable[..., np.ndarray], width: int, *arrays: np.ndarray) -> np.ndarray:
    rows = np.all([np.isfinite(array).all(axis=1) for array in arrays], axis=0)
    result = np.full((len(rows), width), np.nan)
    if rows.any():
        result[rows] = function(*(np.asarray(array, np.float64)[rows] for array in arrays))
    return result


def _from_quaternion(values: np.ndarray) -> Rotation:
    norm = np.linalg.norm(values, axis=1)
    _require(np.abs(norm - 1) < UNIT, norm, "has norm {:.3g}; a quaternion's is 1")
    return Rotation.from_quat(values)


def _quaternion(rotation: Rotation) -> np.ndarray:
    return rotation.as_quat(canonical=True)


def _from_6d(values: np.ndarray, axis: int) -> Rotation:
    """Gram-Schmidt, as Zhou et al. 2019, section 4.2. axis: where the matrix holds the two vectors, -1 columns, -2 rows."""
    first, second = values[:, :3], values[:, 3:]
    length = np.linalg.norm(first, axis=1)
    _require(length > PARALLEL, length, "begins with a vector of length {:.3g}; it has no direction")
    first = first / length[:, None]
    second = second - (first * second).sum(axis=1, keepdims=True) * first
    length = np.linalg.norm(second, axis=1)
    _require(length > PARALLEL, length, "has parallel vectors ({:.3g} apart); they span no rotation")
    second = second / length[:, None]
    return Rotation.from_matrix(np.stack([first, second, np.cross(first, second)], axis=axis))


def _to_euler(axes: str, degrees: bool) -> Callable[[Rotation], np.ndarray]:
    def encode(rotation: Rotation) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # gimbal lock: scipy sets one angle to 0, which is the same rotation
            return rotation.as_euler(axes, degrees)

    return encode


def _require(holds: np.ndarray, value: np.ndarray, problem: str) -> None:
    if not holds.all():
        row = int(np.argmin(holds))
        raise ValueError(f"row {row} {problem.format(value[row])}")
