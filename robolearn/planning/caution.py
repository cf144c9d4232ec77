"""Every uncertainty penalty of the planner, in one place and without units.

score = mean_k G_k - S * (l_q * sum_t gamma^t std_i Q_i / S + l_d * sum_t gamma^t delta_t),
where delta_t is the dynamics heads'
spread over its median on held-out data and S the 5-95 percentile range of values: both weights carry over between tasks.
The critic term alone is FOWM's (Feng et al. 2023, equation 6) with its raw units taken out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from robolearn.worldmodels.latent import Imagined


@dataclass(frozen=True)
class Caution:
    """How much the planner shuns what its model does not know. 0 and 0 plans boldly; nothing here guards the robot."""

    critics: float = 0.5
    """l_q, on the critics' spread."""
    dynamics: float = 0.02
    """l_d, on the dynamics heads' spread."""


@dataclass(frozen=True)
class Score:
    """All (N,), dimensionless: in units of the value range S."""

    total: Float[Tensor, " N"]
    critic_doubt: Float[Tensor, " N"]  # sum_t gamma^t std_i Q_i / S
    model_doubt: Float[Tensor, " N"]  # sum_t gamma^t delta_t


def score(imagined: Imagined, discount: float, value_range: Tensor, spread_median: Tensor, caution: Caution) -> Score:
    """Penalised return of N imagined action sequences."""
    horizon = imagined.reward.shape[-1]
    gamma = discount ** torch.arange(horizon, device=imagined.reward.device)
    returns = (gamma * imagined.alive * imagined.reward).sum(-1) + discount**horizon * imagined.value
    critic_doubt = (gamma * imagined.q_std).sum(-1) / value_range
    model_doubt = (gamma * imagined.spread).sum(-1) / spread_median
    total = returns.mean(0) / value_range - caution.critics * critic_doubt - caution.dynamics * model_doubt
    return Score(total, critic_doubt, model_doubt)
