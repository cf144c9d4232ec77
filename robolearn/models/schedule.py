"""Sampling steps of diffusers' schedulers, worked out once.

Each of their steps is a sum of the noisy chunk, the network's answer, the clean chunk it amounts to (clipped) and fresh noise, with
factors that depend on the step only. diffusers looks them up and multiplies tensors of one number at every step: 50 to 500 us of
Python on a CPU, several dozen kernels on a GPU. Tests compare with its own `step`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

Prediction = Literal["epsilon", "sample", "v_prediction"]  # of the network: the noise, the clean chunk, or Salimans & Ho's velocity
Sampler = Literal["ddim", "ddpm", "dpm"]


class Step(NamedTuple):
    """Factors of one step: next = chunk * x + net * out + clean * c + before * (c one step before) + noise * randn, where
    c = of_chunk * x + of_net * out, clipped.
    """

    time: int  # the noise level's index, 0 the cleanest
    of_chunk: float
    of_net: float
    chunk: float = 0.0
    net: float = 0.0
    clean: float = 0.0
    before: float = 0.0
    noise: float = 0.0


class Schedule:
    """Noise levels 0 (almost clean) to `levels` - 1, squared cosine (Nichol & Dhariwal, ICML 2021), and the ways back through them."""

    def __init__(self, levels: int, prediction: Prediction):
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler  # as long to import as torch: only for who samples

        self.levels, self.prediction = levels, prediction
        self.noising = DDPMScheduler(**self._settings())

    def scheduler(self, sampler: Sampler, steps: int) -> DDIMScheduler | DDPMScheduler | DPMSolverMultistepScheduler:
        """diffusers' own, its timesteps set; what `steps` is worked out from and compared with."""
        from diffusers.schedulers import scheduling_ddim, scheduling_ddpm, scheduling_dpmsolver_multistep

        kinds = {
            "ddim": scheduling_ddim.DDIMScheduler,
            "ddpm": scheduling_ddpm.DDPMScheduler,
            "dpm": scheduling_dpmsolver_multistep.DPMSolverMultistepScheduler,
        }
        # A cosine schedule's last level is all but pure noise, which DPM-Solver's logarithms do not stand: diffusers advises to leave it
        # out. Its `thresholding` with this maximum is the plain clip that the other two have.
        extra = {"lambda_min_clipped": -5.1, "thresholding": True, "sample_max_value": 1.0} if sampler == "dpm" else {}
        scheduler = kinds[sampler](**self._settings(), **extra)
        scheduler.set_timesteps(steps)
        return scheduler

    def steps(self, sampler: Sampler, steps: int) -> list[Step]:
        """Noisiest first. ValueError: more steps than the sampler finds levels."""
        scheduler = self.scheduler(sampler, steps)
        times = scheduler.timesteps.tolist()
        if len(set(times)) != steps:
            raise ValueError(f"{steps} steps are more than the sampler {sampler} finds in {self.levels} noise levels")
        if sampler == "dpm":
            return self._dpm(times, [float(sigma) for sigma in scheduler.sigmas])  # pyright: ignore[reportAttributeAccessIssue] it has
        make = self._ddim if sampler == "ddim" else self._ddpm
        return [make(time, time - self.levels // steps) for time in times]

    def amounts(self, level: int) -> tuple[float, float]:
        """(signal, noise): a chunk at this level is signal * clean + noise * randn. Below level 0 it is clean."""
        kept = float(self.noising.alphas_cumprod[level]) if level >= 0 else 1.0
        return math.sqrt(kept), math.sqrt(1 - kept)

    def reading(self, level: int) -> tuple[float, float]:
        """Factors of (the chunk, the network's answer) in the clean chunk."""
        signal, noise = self.amounts(level)
        return {"epsilon": (1 / signal, -noise / signal), "sample": (0.0, 1.0), "v_prediction": (signal, -noise)}[self.prediction]

    def _settings(self) -> dict[str, Any]:
        return {"num_train_timesteps": self.levels, "beta_schedule": "squaredcos_cap_v2", "prediction_type": self.prediction}

    def _ddim(self, level: int, lower: int) -> Step:
        """Song et al., ICLR 2021, equation 12 without noise of its own; the noise it goes along with is read from the unclipped answer."""
        (signal, noise), (signal2, noise2) = self.amounts(level), self.amounts(lower)
        of_chunk, of_net = self.reading(level)
        return Step(
            level, of_chunk, of_net, chunk=noise2 * (1 - signal * of_chunk) / noise, net=-noise2 * signal * of_net / noise, clean=signal2
        )

    def _ddpm(self, level: int, lower: int) -> Step:
        """Ho et al., NeurIPS 2020, equation 7, over the levels that are left."""
        (signal, noise), (signal2, noise2) = self.amounts(level), self.amounts(lower)
        ratio = (signal / signal2) ** 2
        shrink = (noise2 / noise) ** 2
        return Step(
            level,
            *self.reading(level),
            chunk=math.sqrt(ratio) * shrink,
            clean=signal2 * (1 - ratio) / noise**2,
            noise=math.sqrt(shrink * (1 - ratio)),
        )

    def _dpm(self, levels: list[int], sigmas: list[float]) -> list[Step]:
        """DPM-Solver++(2M) (Lu et al., 2022, algorithm 2); the first and the last step are of first order, as nothing lies beyond."""
        steps, before = [], 0.0
        for place, level in enumerate(levels):
            (signal, noise), (signal2, noise2) = (_split(sigma) for sigma in sigmas[place : place + 2])
            reading = self.reading(level)
            if place == len(levels) - 1:
                steps.append(Step(level, *reading, clean=1.0))
                break
            stride = math.log(signal2 / noise2) - math.log(signal / noise)
            whole = -signal2 * math.expm1(-stride)
            bend = whole * stride / before / 2 if place else 0.0
            steps.append(Step(level, *reading, chunk=noise2 / noise, clean=whole + bend, before=-bend))
            before = stride
        return steps


def _split(sigma: float) -> tuple[float, float]:
    """(signal, noise) whose squares sum to 1 and whose quotient is 1 / sigma."""
    signal = 1 / math.sqrt(1 + sigma**2)
    return signal, sigma * signal


def apply(step: Step, x: Tensor, out: Tensor, before: Tensor | None, noise: Tensor | None, limit: Any) -> tuple[Tensor, Tensor]:
    """The less noisy chunk, and the clean one it was made of: the next step's `before`. limit: of the clean chunk's values, one for all or
    one for each number of an action.
    """
    clean = torch.add(step.of_chunk * x, out, alpha=step.of_net).clamp(-limit, limit)
    x = torch.add(step.chunk * x, clean, alpha=step.clean)
    for factor, what in ((step.net, out), (step.before, before), (step.noise, noise)):
        if factor:
            assert what is not None
            x = torch.add(x, what, alpha=factor)
    return x, clean
