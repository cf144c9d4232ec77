"""Absolute targets and differences, each from the other: what an action is relative to decides what its numbers mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hardware.types import ArraySpec
from robolearn.data.editing import rotations
from robolearn.data.editing.rotations import Frame

Pair = tuple[np.ndarray, np.ndarray]  # what was executed and what was asked for, float64 (T, D) each
Conversion = Callable[[np.ndarray, np.ndarray, Mapping[str, np.ndarray]], Pair]  # (executed, requested, the converted state)


@dataclass(frozen=True)
class Relative:
    """What an action is a difference to."""

    relative_to: Literal["previous", "state"]
    """The target before it (the measured state for an episode's first), or the state measured in the same row."""
    state: str
    """That state, as the map calls and converts it."""
    elements: tuple[str, ...] = ()
    """Its elements, in the order of the action's. Empty: all."""
    rotation: str | None = None
    """The elements are a rotation in this form; null: numbers that are subtracted."""
    state_rotation: str | None = None
    """The form of the state's elements; null: the same."""
    frame: Frame = "world"
    """A rotation's delta turns about the axes of the world (multiplied on the left) or of the body (on the right)."""

    def compile(self, spec: ArraySpec, states: Mapping[str, ArraySpec], *, to_delta: bool) -> Conversion:
        """From targets to differences, or back, of the elements `spec`. ValueError: they do not fit the state's."""
        if self.state not in states:
            raise ValueError(f"state: {self.state!r} is not in the mapped state; valid: {', '.join(states) or '(none)'}")
        measured = states[self.state]
        for name in self.elements:
            if name not in measured.names:
                raise ValueError(f"elements: {name!r} is not in {self.state}; valid: {', '.join(measured.names)}")
        columns = [measured.names.index(name) for name in self.elements] or list(range(measured.dim))
        space = _Numbers(spec.dim)
        if self.rotation is not None:
            space = _Rotations(self.rotation, self.state_rotation or self.rotation, self.frame)
        if (spec.dim, len(columns)) != (space.dim, space.state_dim):
            raise ValueError(
                f"{spec.dim} elements of the action and {len(columns)} of {self.state}; expected {space.dim} and {space.state_dim}"
            )

        def convert(executed: np.ndarray, requested: np.ndarray, state: Mapping[str, np.ndarray]) -> Pair:
            reference = space.from_state(state[self.state][:, columns])
            if self.relative_to == "previous":
                targets = executed if to_delta else space.accumulate(executed, reference[:1])
                # A request is relative to what was sent, too: that is where the robot was told to be.
                reference = np.concatenate([reference[:1], targets[:-1]])
            change = space.difference if to_delta else space.compose
            return change(executed, reference), change(requested, reference)

        return convert


class _Numbers:
    """Differences of numbers."""

    def __init__(self, dim: int) -> None:
        self.dim = self.state_dim = dim

    def from_state(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(values, np.float64)

    def difference(self, target: np.ndarray, reference: np.ndarray) -> np.ndarray:
        return target - reference

    def compose(self, delta: np.ndarray, reference: np.ndarray) -> np.ndarray:
        return reference + delta

    def accumulate(self, deltas: np.ndarray, start: np.ndarray) -> np.ndarray:
        return start + np.cumsum(deltas, axis=0)


class _Rotations(_Numbers):
    """Differences of rotations, in the form of the action."""

    def __init__(self, form: str, state_form: str, frame: Frame) -> None:
        self.form, self.state_form = rotations.form(form), rotations.form(state_form)
        self.frame: Frame = frame
        self.dim, self.state_dim = len(self.form.names), len(self.state_form.names)

    def from_state(self, values: np.ndarray) -> np.ndarray:
        return rotations.convert(values, self.state_form, self.form)

    def difference(self, target: np.ndarray, reference: np.ndarray) -> np.ndarray:
        return rotations.difference(target, reference, self.form, self.frame)

    def compose(self, delta: np.ndarray, reference: np.ndarray) -> np.ndarray:
        return rotations.compose(delta, reference, self.form, self.frame)

    def accumulate(self, deltas: np.ndarray, start: np.ndarray) -> np.ndarray:
        return rotations.accumulate(deltas, start, self.form, self.frame)
