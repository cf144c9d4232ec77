"""Consistency distillation (Song et al., ICML 2023, algorithm 2): a diffusion or flow policy's student that jumps from any noise level
to the clean chunk at once, as Consistency Policy does for robots (Prasad et al., RSS 2024).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from hardware.types import RobotSpec
from robolearn.core.checkpoint import load_policy
from robolearn.core.errors import UserError, require_at_least
from robolearn.models.ema import follow, slow_copy
from robolearn.policies._denoising import DenoisingConfig, DenoisingPolicy, Predict, of_the_rest

SOFT = 0.1  # where the pseudo-Huber error (Song & Dhariwal, ICLR 2024, section 3.3) turns from squared to plain distance
LOSS_ONLY = ("mask_pad", "dropout")  # what a student may have otherwise than its teacher


@dataclass(frozen=True)
class ConsistencyConfig(DenoisingConfig):
    """The teacher. All that says what the policy sees and how large its network is must be the teacher's."""

    teacher: Path | None = None  # policy.pt of a diffusion or flow policy; to learn from, not to act
    sample_steps: int = 1  # jumps per chunk, 1 to 4; noise is added again between them
    rungs: int = 10  # noise levels that the teacher's way is cut into
    target_decay: float = 0.95  # of the moving average that says where the jump from the next rung ends

    def build(self, spec: RobotSpec) -> ConsistencyPolicy:
        return ConsistencyPolicy(self, spec)


class _Apart:
    """Holds the teacher so that no state_dict, optimizer, device move or copy of the student takes it along."""

    def __init__(self, teacher: DenoisingPolicy):
        self.teacher = teacher

    def __deepcopy__(self, memo: dict) -> _Apart:
        return self


class ConsistencyPolicy(DenoisingPolicy):
    """From every rung the student should end where it ends from the next lower one, to which the teacher steps (DDIM; Euler of a flow)."""

    config: ConsistencyConfig  # pyright: ignore[reportIncompatibleVariableOverride] never reassigned
    rungs: Tensor

    def __init__(self, config: ConsistencyConfig, spec: RobotSpec):
        super().__init__(config, spec)
        if not 1 <= config.sample_steps <= 4:
            raise UserError(f"policy.sample_steps: {config.sample_steps} jumps; expected 1 to 4")
        require_at_least("policy.rungs", config.rungs, config.sample_steps, "noise levels, one for each of the sample_steps")
        if not 0 <= config.target_decay < 1:
            raise UserError(f"policy.target_decay: {config.target_decay}; expected 0 to below 1")
        self.requires_grad_(False)  # what the student sees with is the teacher's, so that both see the same
        self.net.requires_grad_(True)
        self.target = slow_copy(self.net)
        self.register_buffer("rungs", torch.zeros(config.rungs + 1, 5))  # the teacher's ladder; acting takes nothing else of it
        self.noises = config.sample_steps
        self._places = [config.rungs * jump // config.sample_steps for jump in range(config.sample_steps)]
        self._apart: _Apart | None = None

    def prepare(self) -> None:
        """Load the teacher, and begin with its weights where the student has none of its own yet. UserError: it does not fit."""
        path = self.config.teacher
        if path is None:
            raise UserError("policy.teacher: none; expected the policy.pt of a diffusion or flow policy")
        teacher = load_policy(path, self.spec, self.rungs.device)
        if not isinstance(teacher, DenoisingPolicy) or type(teacher).ladder is DenoisingPolicy.ladder:
            raise UserError(f"policy.teacher: {path} is a {type(teacher).__name__}; expected a diffusion or flow policy")
        own, its = _shared(self.config), _shared(teacher.config)
        for name in own:
            if own[name] != its[name]:
                raise UserError(f"policy.{name}: {own[name]}; the teacher {path} has {its[name]}, and the student begins with its weights")
        if foreign := [name for name in teacher.state_dict() if name not in self.state_dict()]:
            raise UserError(f"policy.teacher: {path}: a student has no place for what a {type(teacher).__name__} knows ({foreign[0]})")
        if not self.state_norm.fitted:
            self._check_eyes(teacher)
            self.load_state_dict(teacher.state_dict(), strict=False)
            self.target.load_state_dict(teacher.net.state_dict())
            self.rungs.copy_(torch.tensor(teacher.ladder(self.config.rungs)))
        self._apart = _Apart(teacher.requires_grad_(False))

    def _check_eyes(self, teacher: DenoisingPolicy) -> None:
        """A frozen encoder's features may be cached already: they must be those that the teacher knows."""
        if self.encoder is None or teacher.encoder is None or self.feature_norm is None:
            return
        own, its = self.encoder.state_dict(), teacher.encoder.state_dict()
        if any(not torch.equal(value, its[name]) for name, value in own.items()):
            weights = getattr(self.config.encoder, "weights", "") or "none"
            raise UserError(
                f"policy.encoder.weights: {weights}; not what the teacher {self.config.teacher} sees with: give the file or address that "
                "its encoder came from, such as encoder.safetensors in the folder of its training"
            )

    def fit_normalizers(self, state: np.ndarray, action: np.ndarray, features: np.ndarray | None = None) -> None:
        """The units are the teacher's; `prepare` brings them."""

    def errors(self, cond: Float[Tensor, "B T C"], action: Float[Tensor, "B H A"]) -> Float[Tensor, "B H"]:
        if self._apart is None:
            raise RuntimeError("consistency: no teacher to learn from; call prepare() first")
        if self.training:
            self._follow()
        noise = torch.randn(action.shape, generator=self.generator).to(action)
        place = torch.randint(self.config.rungs, (len(action),), generator=self.generator).to(action.device)
        known = self.told(action)
        here, there = (rows.unflatten(1, (5, 1, 1)).unbind(1) for rows in (self.rungs[place], self.rungs[place + 1]))
        chunk = _keep(here[1] * action + here[2] * noise, action, known)
        with torch.no_grad():
            clean = _clean(self._apart.teacher.net, here, chunk, cond, known)
            noise = (chunk - here[1] * clean) / here[2]
            lower = _keep(there[1] * clean.clamp(-self.limit, self.limit) + there[2] * noise, action, known)
            # What is validated is an average already; its copy of the target stands where training began.
            goal = _clean(self.target if self.training else self.net, there, lower, cond, known).clamp(-self.limit, self.limit)
        miss = _clean(self.net, here, chunk, cond, known) - goal
        return of_the_rest((miss.square().sum(-1) + SOFT**2).sqrt() - SOFT, known)

    @torch.no_grad()
    def _follow(self) -> None:
        follow(self.target, self.net, 1 - self.config.target_decay)

    @property
    def times(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride] the teacher's
        return self.rungs[self._places, 0]

    def solve(self, predict: Predict, noise: Float[Tensor, "N B H A"]) -> Float[Tensor, "B H A"]:
        chunk = noise[0]
        for jump, rung in enumerate(self.rungs[self._places].unbind()):
            if jump:
                chunk = rung[1] * chunk + rung[2] * noise[jump]
            chunk = (rung[3] * chunk + rung[4] * predict(chunk, jump)).clamp(-self.limit, self.limit)
        return chunk


def _shared(config: DenoisingConfig) -> dict[str, Any]:
    """What a student must have as its teacher has it. Where the weights of an encoder came from is no matter, but what they are."""
    found = {field.name: getattr(config, field.name) for field in fields(DenoisingConfig) if field.name not in LOSS_ONLY}
    return found | {"encoder": None if config.encoder is None else replace(config.encoder, weights="")}


def _clean(net: nn.Module, rung: Any, chunk: Tensor, cond: Tensor, known: Tensor | None) -> Tensor:
    """The clean chunk a network sees in a noisy one. It is the student's jump, too: its factors are 1 and 0 where there is no noise,
    which is the boundary condition (Song et al., equation 5).
    """
    return rung[3] * chunk + rung[4] * net(chunk, rung[0].flatten(), cond, known).float()


def _keep(chunk: Tensor, action: Tensor, known: Tensor | None) -> Tensor:
    return chunk if known is None else torch.where(known.unsqueeze(-1), action, chunk)
