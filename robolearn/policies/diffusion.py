"""Diffusion Policy (Chi et al., RSS 2023): a chunk of actions, denoised step by step, given the last observations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hardware.types import RobotSpec
from robolearn.core.errors import UserError
from robolearn.models.schedule import Schedule, apply
from robolearn.policies._denoising import CLEAN, DenoisingConfig, DenoisingPolicy, Predict, Rung, of_the_rest


@dataclass(frozen=True)
class DiffusionConfig(DenoisingConfig):
    """The noise levels, and the way back through them."""

    train_steps: int = 100  # noise levels (squared cosine)
    sample_steps: int = 16  # denoising steps per chunk
    sampler: Literal["ddim", "ddpm", "dpm"] = "ddim"  # ddpm: fresh noise at every step; dpm: DPM-Solver++(2M), second order
    prediction: Literal["epsilon", "sample", "v_prediction"] = "epsilon"  # of the network: the noise, the clean chunk, or in between

    def build(self, spec: RobotSpec) -> DiffusionPolicy:
        return DiffusionPolicy(self, spec)


class DiffusionPolicy(DenoisingPolicy):
    """Trained by DDPM (Ho et al., 2020), sampled by DDIM (Song et al., 2021), DDPM or DPM-Solver++ (Lu et al., 2022), from diffusers."""

    config: DiffusionConfig  # pyright: ignore[reportIncompatibleVariableOverride] never reassigned

    def __init__(self, config: DiffusionConfig, spec: RobotSpec):
        super().__init__(config, spec)
        if not 1 <= config.sample_steps <= config.train_steps:
            raise UserError(f"policy.sample_steps: {config.sample_steps}; expected 1 to train_steps = {config.train_steps}")
        self.schedule = Schedule(config.train_steps, config.prediction)
        try:
            self.steps = self.schedule.steps(config.sampler, config.sample_steps)
        except ValueError as error:
            raise UserError(f"policy.sample_steps: {error}") from error
        self.register_buffer("times", torch.tensor([step.time for step in self.steps]), persistent=False)
        self.noises = 1 + sum(step.noise > 0 for step in self.steps)

    def errors(self, cond: Float[Tensor, "B T C"], action: Float[Tensor, "B H A"]) -> Float[Tensor, "B H"]:
        noise = torch.randn(action.shape, generator=self.generator).to(action)
        level = torch.randint(self.schedule.levels, (len(action),), generator=self.generator).to(action.device)
        known = self.told(action)
        noisy = self.schedule.noising.add_noise(action, noise, level)  # type: ignore[reportArgumentType] a long tensor is what it takes
        if known is not None:
            noisy = torch.where(known.unsqueeze(-1), action, noisy)
        answer = self.net(noisy, level, cond, known).float()
        return of_the_rest((answer - self._target(action, noise, level)).square().mean(-1), known)

    def _target(self, action: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        if self.config.prediction == "v_prediction":
            return self.schedule.noising.get_velocity(action, noise, level)  # type: ignore[reportArgumentType] as above
        return noise if self.config.prediction == "epsilon" else action

    def solve(self, predict: Predict, noise: Float[Tensor, "N B H A"]) -> Float[Tensor, "B H A"]:
        chunk, clean, fresh = noise[0], None, iter(noise[1:])
        for place, step in enumerate(self.steps):
            chunk, clean = apply(step, chunk, predict(chunk, place), clean, next(fresh) if step.noise else None, self.limit)
        return chunk

    def ladder(self, rungs: int) -> list[Rung]:
        if rungs > self.schedule.levels:
            raise UserError(f"policy.rungs: {rungs}; the teacher knows {self.schedule.levels} noise levels")
        levels = [step.time for step in self.schedule.steps("ddim", rungs)]
        return [Rung(level, *self.schedule.amounts(level), *self.schedule.reading(level)) for level in levels] + [CLEAN]
