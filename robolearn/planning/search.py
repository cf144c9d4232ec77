"""Model-predictive path integral control (Williams et al. 2015): the search for a better plan than the policy's own.

Row 0 of the candidates is always the policy's own plan, and the best found so far can be had at any time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from robolearn.core.errors import UserError

Judge = Callable[[Float[Tensor, "N H A"]], Float[Tensor, " N"]]  # the higher the better


@dataclass(frozen=True)
class SearchConfig:
    """All of them are plain numbers: a plan takes tens of milliseconds on one CPU core."""

    horizon: int = 5
    """Decisions looked ahead."""
    proposals: int = 24
    """Plans of the policy among the candidates."""
    samples: int = 128
    """Other candidates per iteration."""
    iterations: int = 3
    elites: int = 24
    temperature: float = 0.5
    """Of the elites' weights: in standard deviations of their scores, or (`weights: raw`) its inverse in the scores' own unit."""
    weights: Literal["standard", "raw"] = "standard"
    update: Literal["gaussian", "resample"] = "gaussian"
    """gaussian: samples come from the elites' weighted mean and deviation. resample: noisy copies of elites, for halfway between an
    open and a closed gripper lies no plan."""
    std_min: float = 0.05
    """Of the noise, in units of the normalised action [-1, 1]. resample: at first."""
    std_max: float = 2.0
    """Of the noise. resample: once fully released."""
    momentum: float = 0.0
    """gaussian: share of the old mean that stays."""
    warm_start: bool = True
    """gaussian: begins with the last plan, a step further."""
    execute: Literal["best", "elite", "better"] = "elite"
    """best: the highest score. elite: one of the elites, by weight. better: one of the elites that beat the policy's own plan; that,
    where none does."""
    ramp: int = 0
    """Online decisions until the search is fully released; it begins around the policy's own plans (Newt, Hansen et al. 2025)."""
    deadline_ms: float = 0.0
    """No iteration begins after this; 0: none is cut."""

    def __post_init__(self) -> None:
        if self.std_min > self.std_max:
            raise UserError(
                f"agent.planner.search.std_min: {self.std_min} of the action range, above std_max: {self.std_max}; valid: at most that"
            )


@dataclass(frozen=True)
class Found:
    """A plan, how the search ended, and where the next may begin."""

    plan: Float[Tensor, "H A"]
    chosen: int  # its row among the candidates; 0: the policy's own
    candidates: Float[Tensor, "N H A"]
    scores: Float[Tensor, " N"]
    mean: Float[Tensor, "H A"]
    std: Float[Tensor, "H A"]
    iterations: int


class Search:
    """`find` looks around proposals. It remembers nothing: the last plan's mean is the caller's to keep."""

    def __init__(self, config: SearchConfig, generator: torch.Generator, clock: Callable[[], float] = time.perf_counter):
        self.config, self.generator, self.clock = config, generator, clock

    def find(
        self,
        proposals: Float[Tensor, "P H A"],
        judge: Judge,
        release: float = 1.0,
        last: Float[Tensor, "H A"] | None = None,
        explore: bool = False,
    ) -> Found:
        """proposals: normalised plans, the policy's own first. release: 0 stays around them, 1 searches freely. last: a warm start."""
        config, began = self.config, self.clock()
        mean, std = self._start(proposals, release, last)
        width = config.std_min + release * (config.std_max - config.std_min)
        candidates, scores = proposals, judge(proposals)
        done = 0
        for _ in range(config.iterations):
            if config.deadline_ms and 1e3 * (self.clock() - began) >= config.deadline_ms:
                break
            kept = self._elites(scores)
            if config.update == "resample":
                sampled = self._resampled(candidates[kept], scores[kept], width)
                candidates = torch.cat([proposals, candidates[kept], sampled])
            else:
                sampled = (mean + std * self._noise(config.samples, mean)).clamp(-1, 1)
                best = candidates[kept[: min(done, 1)]]  # so far: it is not lost; at first it is one of the proposals
                candidates = torch.cat([proposals, best, sampled])
            scores = judge(candidates)
            kept = self._elites(scores)
            weight = self._weights(scores[kept])[:, None, None]
            fresh = (weight * candidates[kept]).sum(0)
            std = (weight * (candidates[kept] - fresh).square()).sum(0).sqrt().clamp(config.std_min, config.std_max)
            mean = config.momentum * mean + (1 - config.momentum) * fresh
            done += 1
        chosen = self._choose(scores)
        plan = candidates[chosen]
        if explore and config.update == "gaussian":
            plan = (plan + std * self._noise(1, mean)[0]).clamp(-1, 1)
        return Found(plan, chosen, candidates, scores, mean, std, done)

    def _start(self, proposals: Tensor, release: float, last: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the first samples: from the policy's to the usual ones as the search is released."""
        free = torch.zeros_like(proposals[0])
        if last is not None and self.config.warm_start:
            free[:-1] = last[1:]
        own_std = proposals.std(0, correction=0).clamp(self.config.std_min, self.config.std_max)
        wide = torch.full_like(free, self.config.std_max)
        return proposals.mean(0).lerp(free, release), own_std.lerp(wide, release)

    def _elites(self, scores: Tensor) -> Tensor:
        return scores.topk(min(self.config.elites, len(scores))).indices

    def _weights(self, scores: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        above = scores - scores.max()
        if self.config.weights == "raw":
            return (self.config.temperature * above).softmax(0)
        return (above / scores.std(correction=0).clamp(min=1e-6) / self.config.temperature).softmax(0)

    def _resampled(self, elites: Tensor, scores: Tensor, width: float) -> Tensor:
        count = self.config.samples
        parents = torch.multinomial(self._weights(scores).cpu(), count, replacement=True, generator=self.generator)
        return (elites[parents.to(elites.device)] + width * self._noise(count, elites[0])).clamp(-1, 1)

    def _choose(self, scores: Tensor) -> int:
        if self.config.execute == "best":
            return int(scores.argmax())
        among = self._elites(scores)
        among = among if self.config.execute == "elite" else among[scores[among] > scores[0]]
        if not len(among):
            return 0
        return int(among[torch.multinomial(self._weights(scores[among]).cpu(), 1, generator=self.generator)])

    def _noise(self, count: int, like: Tensor) -> Tensor:
        return torch.randn(count, *like.shape, generator=self.generator).to(like)
