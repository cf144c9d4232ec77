"""The one door from numpy to torch: training windows and what a robot sees now become the same Obs.

`history_rows`, `state_vector` and `to_obs` are all there is to the observation transform; Windows and observation_window both
go through them, and tests/test_parity.py holds them to equal bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

import numpy as np
import torch

from hardware.types import Observation, RobotSpec
from robolearn.core.errors import UserError
from robolearn.core.types import Batch, Obs, Past
from robolearn.data.windows import Look, Window, history_rows, state_vector


def to_obs(images: Mapping[str, np.ndarray], state: np.ndarray, features: np.ndarray | None = None) -> Obs:
    """uint8 (B, T, H, W, 3), float32 (B, T, S) and (B, T, E) -> Obs. Images become channels-first by a view, without a copy."""
    views = {name: torch.from_numpy(image).permute(0, 1, 4, 2, 3) for name, image in images.items()}
    return Obs(views, torch.from_numpy(state), None if features is None else torch.from_numpy(features))


def observation_window(observations: Sequence[Observation], spec: RobotSpec, history: int) -> Obs:
    """The newest `history` of the observations since the episode began, as a batch of one; `spec` says which cameras and states.

    UserError where the robot shows something else than `spec`.
    """
    rows = history_rows(np.array([len(observations) - 1]), np.array([0]), history)[0]
    used = [observations[row] for row in rows]
    _check_fits(used[-1], spec)
    images = {name: np.stack([o.images[name] for o in used])[None] for name in spec.cameras}
    if not spec.state:
        return to_obs(images, np.zeros((1, history, 0), np.float32))
    return to_obs(images, state_vector({name: np.stack([o.state[name] for o in used])[None] for name in spec.state}, spec))


def _check_fits(observation: Observation, spec: RobotSpec) -> None:
    for field, expected, got in (("cameras", spec.cameras, observation.images), ("state", spec.state, observation.state)):
        if missing := [name for name in expected if name not in got]:
            raise UserError(f"{field}: the robot does not show {missing[0]!r}; the policy needs {', '.join(expected)}")
    for name, size in spec.cameras.items():
        if (shape := observation.images[name].shape) != (*size, 3):
            raise UserError(f"cameras: {name} is {shape} [px]; the policy needs {(*size, 3)}")
    for name, part in spec.state.items():
        if (shape := np.shape(observation.state[name])) != (part.dim,):
            raise UserError(f"state: {name} is {shape}; the policy needs {(part.dim,)}")


def to_batch(window: Window) -> Batch:
    """Windows read from stores, as torch tensors that share their memory."""

    def tensor(array: np.ndarray | None) -> torch.Tensor | None:
        return None if array is None else torch.from_numpy(array)

    return Batch(
        obs=_look(window.obs),
        action=torch.from_numpy(window.action),
        pad=torch.from_numpy(window.pad),
        reward=tensor(window.reward),
        terminal=tensor(window.terminal),
        future=None if window.future is None else _look(window.future),
        future_mask=tensor(window.future_mask),
    )


def _look(look: Look) -> Obs:
    obs = to_obs(look.images, look.state, look.features)
    past = None if look.past is None else Past(*(torch.from_numpy(getattr(look.past, f.name)) for f in fields(Past)))
    return replace(obs, goal=None if look.goal is None else _look(look.goal), past=past)
