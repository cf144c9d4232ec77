"""How a policy holds actions inside, between physical units and the normaliser; docs/policies/action_space.md.

delta: position targets are told from the newest observed state on, the whole chunk from the same one (Chi et al., UMI, RSS 2024, section
IV: a relative trajectory). 6d: rotations become two vectors (Zhou et al., CVPR 2019): the other forms jump somewhere, a network cannot.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hardware.types import ArraySpec, RobotSpec
from robolearn.core.errors import UserError
from robolearn.data.editing.rotations import form as form_of
from robolearn.models.rotations import compose, from_matrix, to_matrix

Actions = Literal["absolute", "delta"]
Rotations = Literal["as stored", "6d"]

_EULER = [f"euler_{''.join(axes)}_extrinsic" for axes in itertools.product("xyz", repeat=3) if axes[0] != axes[1] != axes[2]]
_NAMED = {form_of(name).names: name for name in ("quat_wxyz", "axis_angle", "rot6d", "rot6d_rows", *_EULER)}
_NAMED[("roll", "pitch", "yaw")] = "euler_xyz_extrinsic"
ROTATIONS = "qw qx qy qz, rx ry rz [rad], roll pitch yaw or euler1x euler2y euler3z [rad or deg], r11 r21 r31 r12 r22 r32 or by rows"


@dataclass(frozen=True)
class Part:
    """Elements of a vector that belong together: one number, or the elements of one rotation."""

    name: str  # of the number; of a rotation what its elements' names begin with
    unit: str
    columns: tuple[int, ...]
    form: str | None = None  # of the rotation

    def fits(self, other: Part) -> bool:
        return (self.form is None) == (other.form is None) and (self.form is not None or self.unit == other.unit)


@dataclass(frozen=True)
class Held:
    """A part of the action as it is held inside."""

    part: Part
    form: str | None  # of a rotation, inside
    reference: Part | None  # the part of the state that it is relative to

    @property
    def dim(self) -> int:
        return 6 if self.form == "rot6d" else len(self.part.columns)

    @property
    def loose(self) -> bool:
        """An answer need be no rotation: its two vectors have to be made orthonormal."""
        return self.form in ("rot6d", "rot6d_rows")

    def encode(self, value: Tensor, state: Tensor | None) -> Tensor:
        start = self._start(state)
        if self.part.form is None or self.form is None:
            return value if start is None else value - start
        if start is None:
            return value if self.form == self.part.form else from_matrix(to_matrix(value, self.part.form), self.form)
        return from_matrix(compose(to_matrix(value, self.part.form), start.transpose(-1, -2)), self.form)

    def decode(self, value: Tensor, state: Tensor | None) -> Tensor:
        start = self._start(state)
        if self.part.form is None or self.form is None:
            return value if start is None else value + start
        if start is None:
            again = self.form != self.part.form or self.loose
            return from_matrix(to_matrix(value, self.form), self.part.form) if again else value
        return from_matrix(compose(to_matrix(value, self.form), start), self.part.form)

    def _start(self, state: Tensor | None) -> Tensor | None:
        """(*B, 1, ...): the same for every action of a chunk."""
        if self.reference is None:
            return None
        if state is None:
            raise ValueError("policy: actions relative to the state need the state")
        value = state[..., None, list(self.reference.columns)]
        return value if self.reference.form is None else to_matrix(value, self.reference.form)


class ActionSpace:
    """Invertible. `dim` numbers per action inside; `relative`: some of them to the state. Grippers stay as they are.

    Raises UserError where nothing in `spec` can be held as asked, naming what can.
    """

    def __init__(self, spec: RobotSpec, actions: Actions = "absolute", rotations: Rotations = "as stored", relative_to: Sequence[str] = ()):
        parts = _parts(spec.action, joints="joint" in spec.action_mode)
        self.relative = actions == "delta"
        if relative_to and not self.relative:
            raise UserError(f"policy.relative_to: {', '.join(relative_to)} without policy.actions: delta; leave it out, or ask for delta")
        if rotations == "6d" and not any(part.form for part in parts):
            raise UserError(f"policy.rotations: 6d; the action has no rotation ({_listed(parts)}); known by name and unit: {ROTATIONS}")
        references = _references(spec, parts, relative_to) if self.relative else {}
        forms = {part: part.form and ("rot6d" if rotations == "6d" else part.form) for part in parts}
        self._held = [Held(part, forms[part], references.get(part)) for part in parts]
        self._plain = all(held.reference is None and held.form == held.part.form for held in self._held)
        self._plain_out = self._plain and not any(held.loose for held in self._held)
        self.dim = sum(held.dim for held in self._held)
        self._order = np.argsort([column for part in parts for column in part.columns]).tolist()  # from the parts' to the action's

    def mean(self, action: Float[Tensor, "N A"], weight: Float[Tensor, " N"]) -> Float[Tensor, " A"]:
        """The weighted mean of actions in physical units. Rotations: the one nearest to the mean of their matrices (chordal L2 mean,
        Hartley et al., IJCV 2013, section 5.3), since numbers of angles and quaternions jump."""
        share = weight / weight.sum()
        mean = share @ action
        for held in self._held:
            if held.part.form is not None:
                columns = list(held.part.columns)
                matrix = (share[:, None, None] * to_matrix(action[:, columns], held.part.form)).sum(0)
                left, _, right = torch.linalg.svd(matrix)
                left[:, 2] *= torch.linalg.det(left @ right)  # a rotation, not a reflection
                mean[columns] = from_matrix(left @ right, held.part.form)
        return mean

    def encode(self, action: Float[Tensor, "*B H A"], state: Float[Tensor, "*B S"] | None = None) -> Float[Tensor, "*B H D"]:
        """Chunks in physical units as the policy holds them. state: the newest observed, physical units; needed where `relative`."""
        if self._plain:
            return action
        return torch.cat([held.encode(action[..., list(held.part.columns)], state) for held in self._held], dim=-1)

    def decode(self, inside: Float[Tensor, "*B H D"], state: Float[Tensor, "*B S"] | None = None) -> Float[Tensor, "*B H A"]:
        """The inverse; rotations come back as the same rotation in canonical numbers (see models.rotations)."""
        if self._plain_out:
            return inside
        values = inside.split([held.dim for held in self._held], dim=-1)
        parts = [held.decode(value, state) for held, value in zip(self._held, values, strict=True)]
        return torch.cat(parts, dim=-1)[..., self._order]

    def rows(self, action: np.ndarray, state: np.ndarray) -> np.ndarray:
        """What a normaliser is fitted on, (M, D): encoded actions (N, A), or the chunks (N, H, A) that begin in each row of `state`."""
        if self._plain:
            return action.reshape(-1, action.shape[-1])
        if self.relative and action.ndim != 3:
            raise ValueError(f"policy: actions relative to the state need chunks (N, H, A) to learn their units from; got {action.shape}")
        chunks = torch.from_numpy(action if action.ndim == 3 else action[:, None])
        return self.encode(chunks, torch.from_numpy(state) if self.relative else None).flatten(0, 1).numpy()


def _parts(spec: ArraySpec, first: int = 0, joints: bool = False) -> list[Part]:
    """In the order of the vector; `first`: the column where it begins. joints: a wrist's roll, pitch and yaw are no rotation."""
    rotations: dict[int, Part] = {}  # by their first column
    taken: set[int] = set()
    for names, form in () if joints else _NAMED.items():
        for prefix in dict.fromkeys(name.removesuffix(names[0]) for name in spec.names if name.endswith(names[0])):
            if not {prefix + name for name in names} <= set(spec.names):
                continue
            columns = [spec.names.index(prefix + name) for name in names]
            units = {spec.units[column] for column in columns}
            measured = {"rad": form, "deg": f"{form}_deg"} if form.startswith("euler") else {form_of(form).unit: form}
            if not form.startswith(("euler", "axis")):
                measured[""] = form
            if not taken & set(columns) and len(units) == 1 and (unit := units.pop()) in measured:
                rotations[min(columns)] = Part(prefix, unit, tuple(first + column for column in columns), measured[unit])
                taken |= set(columns)
    singles = {i: Part(spec.names[i], spec.units[i], (first + i,)) for i in range(spec.dim) if i not in taken}
    return [part for _, part in sorted({**rotations, **singles}.items())]


def _references(spec: RobotSpec, parts: Sequence[Part], relative_to: Sequence[str]) -> dict[Part, Part]:
    """What each part is relative to: the state's part of the same name and unit; where none has its name, of the states in
    `relative_to` the one at the same place. Parts without one stay absolute."""
    if spec.incremental:
        raise UserError(f"policy.actions: delta; actions of mode {spec.action_mode} are differences already; valid: absolute")
    states, wanted = _states(spec, joints="joint" in spec.action_mode), [part for part in parts if "grip" not in part.name]
    for name in relative_to:
        if name not in states:
            raise UserError(f"policy.relative_to: {name!r} is not a state the policy sees; valid: {', '.join(states) or '(none)'}")
    searched = {name: states[name] for name in relative_to or states}
    found: dict[Part, Part] = {}
    for part in wanted:
        alike = {name: other for name, offered in searched.items() for other in offered if other.name == part.name and other.fits(part)}
        if len(alike) > 1:
            several = f"{_listed([part])} is in several states; pick by policy.relative_to: {', '.join(alike)}"
            raise UserError(f"policy.actions: delta; {several}")
        if alike:
            (found[part],) = alike.values()
    in_order = [other for name in relative_to for other in states[name]]
    if not found and _aligned(wanted, in_order):
        found = dict(zip(wanted, in_order, strict=True))
    if not found:
        where, valid = (
            f" in {', '.join(relative_to)}" if relative_to else "",
            [n for n, offered in states.items() if _aligned(wanted, offered)],
        )
        raise UserError(
            f"policy.actions: delta; no state fits the action ({_listed(wanted)}) by name and unit{where}; "
            f"fitting by unit, in this order, so to be named in policy.relative_to: {', '.join(valid) or '(none)'}"
        )
    return found


def _states(spec: RobotSpec, joints: bool) -> Mapping[str, list[Part]]:
    """The parts of every state but for grippers, their columns counted through the whole state vector."""
    states, first = {}, 0
    for name, vector in spec.state.items():
        states[name] = [part for part in _parts(vector, first, joints) if "grip" not in part.name]
        first += vector.dim
    return states


def _aligned(wanted: Sequence[Part], offered: Sequence[Part]) -> bool:
    return len(wanted) == len(offered) > 0 and all(other.fits(part) for part, other in zip(wanted, offered, strict=True))


def _listed(parts: Sequence[Part]) -> str:
    return ", ".join(f"{part.name}rotation" if part.form else f"{part.name} [{part.unit}]" for part in parts)
