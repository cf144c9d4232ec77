"""How one part of a state or an action vector is read, step by step: units, ranges, rotations, deltas.

A step is one operation and has its inverse, the same operation with its two ends exchanged. Everything is computed in
float64; names, units and limits are converted alongside. docs/ingest-map.md shows each step in a config.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from hardware.types import ArraySpec
from robolearn.core.errors import UserError
from robolearn.data.editing import rotations
from robolearn.data.editing.deltas import Conversion, Pair, Relative
from robolearn.data.formats._reader import vector

Bound = float | tuple[float, ...]  # one for all elements, or one for each

UNITS = {  # unit -> (what it measures, how much of the SI unit)
    "rad": ("angle", 1.0),
    "deg": ("angle", math.pi / 180),
    "rev": ("angle", 2 * math.pi),
    "m": ("length", 1.0),
    "cm": ("length", 1e-2),
    "mm": ("length", 1e-3),
    "s": ("time", 1.0),
    "ms": ("time", 1e-3),
    "1": ("share", 1.0),
    "%": ("share", 1e-2),
}


@dataclass(frozen=True)
class Step:
    """Exactly one of these."""

    units: tuple[str, str] | None = None
    """[was, becomes], e.g. [deg, rad], [mm/s, m/s]."""
    range: tuple[tuple[Bound, Bound], tuple[Bound, Bound]] | None = None
    """[[a, b], [c, d]]: a becomes c, b becomes d, the rest in proportion, beyond the ends too."""
    rotation: tuple[str, str] | None = None
    """[was, becomes]: forms of robolearn.data.editing.rotations."""
    delta: Relative | None = None
    """Absolute targets become differences."""
    absolute: Relative | None = None
    """Differences become absolute targets."""

    def __post_init__(self) -> None:
        names = [f.name for f in fields(self)]
        if sum(getattr(self, name) is not None for name in names) != 1:
            raise ValueError(f"a step is exactly one of: {', '.join(names)}")


@dataclass(frozen=True)
class Part:
    """Some elements of a vector, what is done to them, and what they are called from then on."""

    source: str | None = None
    """The state they come from. null: the one of the same name; an action's parts have none."""
    elements: tuple[str, ...] = ()
    """Which of its elements, in this order. Empty: all."""
    steps: tuple[Step, ...] = ()
    """Done in this order."""
    names: tuple[str, ...] = ()
    """Empty: as they were, or as the form of the rotation has them."""
    unit: str | None = None
    """null: as the steps leave it; "" where nobody knows."""
    low: Bound | None = None
    """null: as the steps leave it."""
    high: Bound | None = None

    def compile(self, spec: ArraySpec, states: Mapping[str, ArraySpec], where: str) -> tuple[Conversion, ArraySpec]:
        """The conversion of these elements of `spec`, and what they are afterwards. UserError begins with `where`."""
        for name in self.elements:
            if spec.names.count(name) != 1:
                raise UserError(f"{where}.elements: {name!r} is {'twice' if name in spec.names else 'not'} in: {', '.join(spec.names)}")
        columns = [spec.names.index(name) for name in self.elements] or list(range(spec.dim))
        spec = ArraySpec(*(tuple(getattr(spec, f.name)[i] for i in columns) for f in fields(ArraySpec)))
        done: list[Conversion] = []
        for number, step in enumerate(self.steps):
            try:
                conversion, spec = _compiled(step, spec, states)
            except ValueError as error:
                raise UserError(f"{where}.steps.{number}: {error}") from error
            done.append(conversion)
        try:
            spec = self._named(spec)
        except ValueError as error:
            raise UserError(f"{where}.{error}") from error

        def convert(executed: np.ndarray, requested: np.ndarray, state: Mapping[str, np.ndarray]) -> Pair:
            executed, requested = executed[:, columns], requested[:, columns]
            for number, conversion in enumerate(done):
                try:
                    executed, requested = conversion(executed, requested, state)
                except ValueError as error:
                    raise UserError(f"{where}.steps.{number}: {error}") from error
            return executed, requested

        return convert, spec

    def _named(self, spec: ArraySpec) -> ArraySpec:
        names = self.names or spec.names
        if len(names) != spec.dim:
            raise ValueError(f"names: {len(names)} for {spec.dim} elements: {', '.join(spec.names)}")
        units = spec.units if self.unit is None else (self.unit,) * spec.dim
        low = spec.low if self.low is None else tuple(_each("low", self.low, spec.dim).tolist())
        high = spec.high if self.high is None else tuple(_each("high", self.high, spec.dim).tolist())
        if not all(a <= b for a, b in zip(low, high, strict=True)):
            raise ValueError(f"low: {list(low)} is above high {list(high)}")
        return ArraySpec(names, units, low, high)


def factor(was: str, becomes: str) -> float:
    """What a number in `was` is multiplied with to be in `becomes`. ValueError lists the units known."""
    (one, per), (other, per_other) = (unit.partition("/")[::2] for unit in (was, becomes))
    if per == per_other and one in UNITS and other in UNITS and UNITS[one][0] == UNITS[other][0]:
        return UNITS[one][1] / UNITS[other][1]
    raise ValueError(f"units: {was!r} to {becomes!r} is no conversion; known: {', '.join(UNITS)}, each also per s, s^2, ...")


def _compiled(step: Step, spec: ArraySpec, states: Mapping[str, ArraySpec]) -> tuple[Conversion, ArraySpec]:
    if step.units is not None:
        was, becomes = step.units
        if wrong := [f"{name} [{unit}]" for name, unit in zip(spec.names, spec.units, strict=True) if unit not in ("", was)]:
            raise ValueError(f"units: {was!r} is not the unit of {', '.join(wrong)}")
        return _linear(spec, np.full(spec.dim, factor(was, becomes)), np.zeros(spec.dim), becomes)
    if step.range is not None:
        (a, b), (c, d) = ([_each("range", bound, spec.dim) for bound in ends] for ends in step.range)
        if (a == b).any() or (c == d).any() or not np.isfinite([a, b, c, d]).all():
            raise ValueError(f"range: {step.range}; both ends of each range must be finite and differ")
        scale = (d - c) / (b - a)
        return _linear(spec, scale, c - a * scale, "")
    if step.rotation is not None:
        was, becomes = (rotations.form(name) for name in step.rotation)
        if len(was.names) != spec.dim:
            raise ValueError(f"rotation: {was.name} has {len(was.names)} elements, not the {spec.dim} here: {', '.join(spec.names)}")
        both = lambda x, r, _: (rotations.convert(x, was, becomes), rotations.convert(r, was, becomes))  # noqa: E731
        return both, vector(becomes.names, becomes.unit)
    relative = step.delta or step.absolute
    assert relative is not None
    # A difference has other limits than what it is a difference of, and nobody said which.
    return relative.compile(spec, states, to_delta=step.delta is not None), vector(spec.names, spec.units)


def _linear(spec: ArraySpec, scale: np.ndarray, offset: np.ndarray, unit: str) -> tuple[Conversion, ArraySpec]:
    ends = np.sort([np.array(spec.low) * scale + offset, np.array(spec.high) * scale + offset], axis=0)
    spec = ArraySpec(spec.names, (unit,) * spec.dim, tuple(ends[0].tolist()), tuple(ends[1].tolist()))
    return (lambda executed, requested, _: (executed * scale + offset, requested * scale + offset)), spec


def _each(field: str, bound: Bound, dim: int) -> np.ndarray:
    values = np.atleast_1d(np.asarray(bound, np.float64))
    if len(values) not in (1, dim):
        raise ValueError(f"{field}: {len(values)} numbers for {dim} elements")
    return np.broadcast_to(values, (dim,))
