"""What a world model says about plans."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Imagined:
    """What K dynamics heads expect of N action sequences of H steps."""

    reward: Float[Tensor, "K N H"]
    alive: Float[Tensor, "K N H"]  # probability that the episode still runs when step h is taken
    value: Float[Tensor, "K N"]  # of the latent reached, times the probability of getting there
    q_std: Float[Tensor, "N T"]  # spread of the critics [return units], T = H, or H + 1 with the latent reached
    spread: Float[Tensor, "N H"]  # across-head variance of the next latent, mean over units
