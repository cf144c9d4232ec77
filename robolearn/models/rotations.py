"""Rotations as torch tensors: from the forms in which actions are stored to matrices and back.

The forms are those of robolearn.data.editing.rotations, by the same names; a test holds the two to the same numbers. Everything is
element by element: autocast would turn a matrix product into bfloat16, which knows an angle to half a degree.
"""

from __future__ import annotations

import math
import re

import torch
from jaxtyping import Float
from torch import Tensor

_TINY = 1e-12


def to_matrix(values: Float[Tensor, "*B D"], form: str) -> Float[Tensor, "*B 3 3"]:
    """Rotation matrices of `values` in `form`. Quaternions need not be of unit length, nor 6-D vectors orthonormal."""
    match form:
        case "quat_wxyz":
            return _of_quaternion(values)
        case "quat_xyzw":
            return _of_quaternion(values.roll(1, -1))
        case "axis_angle":
            angle = values.norm(dim=-1, keepdim=True)
            half = 0.5 * torch.sinc(angle / (2 * math.pi))  # sin(angle / 2) / angle, smooth at 0
            return _of_quaternion(torch.cat([(angle / 2).cos(), half * values], dim=-1))
        case "rot6d":
            return _of_6d(values).transpose(-1, -2)
        case "rot6d_rows":
            return _of_6d(values)
    axes, order, scale = _euler(form)
    first, second, third = (_about(axis, scale * angle) for axis, angle in zip(axes, values[..., order].unbind(-1), strict=True))
    return compose(third, compose(second, first))


def from_matrix(matrix: Float[Tensor, "*B 3 3"], form: str) -> Float[Tensor, "*B D"]:
    """The inverse: quaternions with w >= 0, angles of at most pi, Euler angles whose second is the small one of the two possible."""
    match form:
        case "quat_wxyz":
            return _quaternion(matrix)
        case "quat_xyzw":
            return _quaternion(matrix).roll(-1, -1)
        case "axis_angle":
            quaternion = _quaternion(matrix)
            length = quaternion[..., 1:].norm(dim=-1, keepdim=True)
            half = torch.atan2(length, quaternion[..., :1])
            return quaternion[..., 1:] * torch.where(length > 1e-6, 2 * half / length.clamp(min=_TINY), 2.0)
        case "rot6d":
            return matrix[..., :2].transpose(-1, -2).flatten(-2)
        case "rot6d_rows":
            return matrix[..., :2, :].flatten(-2)
    axes, order, scale = _euler(form)
    return _angles(matrix, axes)[..., order] / scale


def compose(first: Float[Tensor, "*#B 3 3"], second: Float[Tensor, "*#B 3 3"]) -> Float[Tensor, "*#B 3 3"]:
    """The matrix product first @ second, in the precision of its factors."""
    return (first.unsqueeze(-1) * second.unsqueeze(-3)).sum(-2)


def _euler(form: str) -> tuple[list[int], list[int], float]:
    """(fixed axes, the order of the angles about them, radians per unit): about moving axes is about fixed ones the other way round."""
    found = re.fullmatch(r"euler_([xyz]{3})_(extrinsic|intrinsic)(_deg)?", form)
    if found is None:
        raise ValueError(f"rotation {form!r} is not one of the forms of robolearn.data.editing.rotations")
    order = [0, 1, 2] if found[2] == "extrinsic" else [2, 1, 0]
    return ["xyz".index(found[1][i]) for i in order], order, math.pi / 180 if found[3] else 1.0


def _about(axis: int, angle: Tensor) -> Tensor:
    quaternion = [(angle / 2).cos(), *(torch.zeros_like(angle) for _ in range(3))]
    quaternion[1 + axis] = (angle / 2).sin()
    return _of_quaternion(torch.stack(quaternion, dim=-1))


def _of_quaternion(quaternion: Tensor) -> Tensor:
    w, x, y, z = (quaternion / quaternion.norm(dim=-1, keepdim=True).clamp(min=_TINY)).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _quaternion(m: Tensor) -> Tensor:
    """Of the four ways to read it off (Shepperd, 1978), the one that divides by the largest number."""
    a, b, c = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    d, e, f = m[..., 1, 0] + m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0], m[..., 2, 1] + m[..., 1, 2]
    x, y, z = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    squares = torch.stack([1 + x + y + z, 1 + x - y - z, 1 - x + y - z, 1 - x - y + z], dim=-1)  # 4 w^2, 4 x^2, ...
    rows = torch.stack([squares[..., 0], a, b, c, a, squares[..., 1], d, e, b, d, squares[..., 2], f, c, e, f, squares[..., 3]], dim=-1)
    largest = squares.argmax(-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    quaternion = rows.unflatten(-1, (4, 4)).gather(-2, largest).squeeze(-2)
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True).clamp(min=_TINY)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def _of_6d(values: Tensor) -> Tensor:
    """Gram-Schmidt (Zhou et al., CVPR 2019, section 4.2); the two vectors and their product, as rows. Anything but zeros is a rotation."""
    first, second = values[..., :3], values[..., 3:]
    first = first / first.norm(dim=-1, keepdim=True).clamp(min=_TINY)
    second = second - (first * second).sum(-1, keepdim=True) * first
    second = second / second.norm(dim=-1, keepdim=True).clamp(min=_TINY)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=-2)


def _angles(m: Tensor, axes: list[int]) -> Tensor:
    """Fixed axes i, j, k, one after the other; at the poles, where only a sum is known, the third is 0."""
    i, j, last = axes
    k = 3 - i - j
    even = 1 if (j - i) % 3 == 1 else -1
    if last == i:  # proper: the matrix's element (i, i) is cos b
        sine = torch.hypot(m[..., i, j], m[..., i, k])
        b = torch.atan2(sine, m[..., i, i])
        a, c = torch.atan2(m[..., i, j], even * m[..., i, k]), torch.atan2(m[..., j, i], -even * m[..., k, i])
    else:  # Tait-Bryan: the element (k, i) is -sin b
        sine = torch.hypot(m[..., i, i], m[..., j, i])
        b = torch.atan2(-even * m[..., k, i], sine)
        a, c = torch.atan2(even * m[..., k, j], m[..., k, k]), torch.atan2(even * m[..., j, i], m[..., i, i])
    pole = sine < 1e-6
    alone = torch.atan2(-even * m[..., j, k], m[..., j, j])
    return torch.stack([torch.where(pole, alone, a), b, torch.where(pole, 0.0, c)], dim=-1)
