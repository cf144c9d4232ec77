"""Diffusion Policy (Chi et al., RSS 2023): a chunk of actions, denoised step by step, given the last observations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from jaxtyping import Float
from torch import Tensor

from hardware.types import RobotSpec
from robolearn.core.errors import UserError
from robolearn.models.unet1d import UNet1d
from robolearn.policies.chunk import ChunkConfig, ChunkPolicy


@dataclass(frozen=True)
class DiffusionConfig(ChunkConfig):
    """The denoising network and its schedules."""

    widths: tuple[int, ...] = (64, 128, 256)  # channels of the U-Net's levels; each level after the first halves time
    kernel: int = 3
    train_steps: int = 100  # noise levels (DDPM, squared cosine)
    sample_steps: int = 16  # denoising steps per chunk (DDIM)
    prediction: Literal["epsilon", "sample"] = "epsilon"  # what the network predicts: the noise, or the clean chunk

    def build(self, spec: RobotSpec) -> DiffusionPolicy:
        return DiffusionPolicy(self, spec)


class DiffusionPolicy(ChunkPolicy):
    """Trained by DDPM (Ho et al., 2020), sampled by DDIM (Song et al., 2021), both from diffusers."""

    config: DiffusionConfig  # pyright: ignore[reportIncompatibleVariableOverride] never reassigned

    def __init__(self, config: DiffusionConfig, spec: RobotSpec):
        super().__init__(config, spec)
        if not config.widths or min(config.widths) < 8:
            raise UserError(f"policy.widths: {config.widths} channels; expected one or more of at least 8")
        factor = 2 ** (len(config.widths) - 1)
        if config.horizon % factor:
            raise UserError(f"policy.horizon: {config.horizon} actions; {len(config.widths)} widths need a multiple of {factor}")
        if not 1 <= config.sample_steps <= config.train_steps:
            raise UserError(f"policy.sample_steps: {config.sample_steps}; expected 1 to train_steps = {config.train_steps}")
        self.net = UNet1d(self.spec.action.dim, self.cond_dim, config.widths, config.kernel)
        schedule = {"num_train_timesteps": config.train_steps, "beta_schedule": "squaredcos_cap_v2", "prediction_type": config.prediction}
        self.prediction = config.prediction
        self.noising = DDPMScheduler(**schedule)
        self.denoising = DDIMScheduler(**schedule)
        self.denoising.set_timesteps(config.sample_steps)

    def errors(self, cond: Float[Tensor, "B T C"], action: Float[Tensor, "B H A"]) -> Float[Tensor, "B H"]:
        noise = torch.randn(action.shape, generator=self.generator).to(action)
        step = torch.randint(self.noising.config["num_train_timesteps"], (len(action),), generator=self.generator).to(action.device)
        noisy = self.noising.add_noise(action, noise, step)  # type: ignore[reportArgumentType] a long tensor is what it takes
        target = noise if self.prediction == "epsilon" else action
        return (self.net(noisy, step, cond.flatten(1)).float() - target).square().mean(-1)

    def draw(
        self, cond: Float[Tensor, "B T C"], n: int, generator: torch.Generator, prefix: Tensor | None = None
    ) -> Float[Tensor, "B n H A"]:
        cond = cond.flatten(1).repeat_interleave(n, dim=0)
        chunk = torch.randn((len(cond), self.horizon, self.spec.action.dim), generator=generator).to(cond)
        for step in self.denoising.timesteps.tolist():
            predicted = self.net(chunk, torch.full((len(cond),), step, device=cond.device), cond)
            chunk = self.denoising.step(predicted.float(), step, chunk, return_dict=False)[0]
        return chunk.unflatten(0, (-1, n))
