"""Flow matching (Lipman et al., ICLR 2023), on straight lines from noise to action (rectified flow, Liu et al., ICLR 2023): the network
learns the velocity along the line, and a chunk is drawn by following it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hardware.types import RobotSpec
from robolearn.core.errors import require_at_least
from robolearn.policies._denoising import CLEAN, DenoisingConfig, DenoisingPolicy, Predict, Rung, of_the_rest

SCALE = 1000.0  # noise levels in [0, 1], spread out for the network's sines


@dataclass(frozen=True)
class FlowConfig(DenoisingConfig):
    """Where on the line it learns, and how it follows it."""

    sample_steps: int = 10  # of the integration, each one look of the network; midpoint: two
    solver: Literal["euler", "midpoint"] = "euler"
    time: Literal["uniform", "beta", "logit_normal"] = "uniform"  # drawn in training; 0 is noise, 1 the action

    def build(self, spec: RobotSpec) -> FlowPolicy:
        return FlowPolicy(self, spec)


class FlowPolicy(DenoisingPolicy):
    """chunk(t) = (1 - t) * noise + t * action; the network is told the noise left, 1 - t."""

    config: FlowConfig  # pyright: ignore[reportIncompatibleVariableOverride] never reassigned

    def __init__(self, config: FlowConfig, spec: RobotSpec):
        super().__init__(config, spec)
        require_at_least("policy.sample_steps", config.sample_steps, 1, "steps")
        looks = config.sample_steps * (2 if config.solver == "midpoint" else 1)
        self.register_buffer("times", SCALE * (1 - torch.arange(looks) / looks), persistent=False)

    def errors(self, cond: Float[Tensor, "B T C"], action: Float[Tensor, "B H A"]) -> Float[Tensor, "B H"]:
        noise = torch.randn(action.shape, generator=self.generator).to(action)
        time = self._times(len(action)).to(action)
        known = self.told(action)
        chunk = torch.lerp(noise, action, time[:, None, None])
        if known is not None:
            chunk = torch.where(known.unsqueeze(-1), action, chunk)
        velocity = self.net(chunk, SCALE * (1 - time), cond, known).float()
        return of_the_rest((velocity - (action - noise)).square().mean(-1), known)

    def _times(self, rows: int) -> Float[Tensor, " B"]:
        if self.config.time == "logit_normal":  # the middle of the line (Esser et al., ICML 2024, section 3.1)
            return torch.randn(rows, generator=self.generator).sigmoid()
        drawn = torch.rand(rows, generator=self.generator)
        # beta: mostly noise, where the actions are still to be decided (pi0, Black et al. 2024, appendix B): 0.999 (1 - Beta(1.5, 1)),
        # whose distribution function u^1.5 is turned round.
        return drawn if self.config.time == "uniform" else 0.999 * (1 - drawn ** (1 / 1.5))

    def solve(self, predict: Predict, noise: Float[Tensor, "N B H A"]) -> Float[Tensor, "B H A"]:
        chunk, steps = noise[0], self.config.sample_steps
        for place in range(steps):
            if self.config.solver == "midpoint":
                half = torch.add(chunk, predict(chunk, 2 * place), alpha=0.5 / steps)
                chunk = torch.add(chunk, predict(half, 2 * place + 1), alpha=1 / steps)
            else:
                chunk = torch.add(chunk, predict(chunk, place), alpha=1 / steps)
        return chunk.clamp(-self.limit, self.limit)

    def ladder(self, rungs: int) -> list[Rung]:
        times = [place / rungs for place in range(rungs)]
        return [Rung(SCALE * (1 - time), time, 1 - time, 1.0, 1 - time) for time in times] + [CLEAN]
