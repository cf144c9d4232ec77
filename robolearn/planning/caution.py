"""Every uncertainty penalty of the planner, in one place and without units.

Candidates are judged against row 0, the policy's own plan, head by head: A_k = (G_k - G_k[0]) / S, S the 5-95 percentile
range of values. Then, with u_t = std_i Q_i / S (FOWM, Feng et al. 2023, equation 6, its raw units taken out) and delta_t the
dynamics heads' spread over its median on held-out data,

    score = mean_k A_k - l_h std_k A_k - sum_t gamma^t (l_q (u_t - u_t[0]) + l_d (delta_t - delta_t[0])).

The policy's own plan scores 0 by construction: another one is taken only if it is better by more than the heads disagree
about it. As data grows the heads agree, and caution recedes by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from robolearn.worldmodels.latent import Imagined


@dataclass(frozen=True)
class Caution:
    """How much the planner shuns what its model does not know. All zero plans boldly; nothing here guards the robot."""

    heads: float = 1.0
    """l_h, on the dynamics heads' disagreement about the gain over the policy's own plan [standard deviations]."""
    critics: float = 0.5
    """l_q, on the critics' spread."""
    dynamics: float = 0.02
    """l_d, on the dynamics heads' spread."""


@dataclass(frozen=True)
class Score:
    """All (N,), dimensionless. Row 0 is the policy's own plan, and its total is 0."""

    total: Float[Tensor, " N"]
    critic_doubt: Float[Tensor, " N"]  # sum_t gamma^t std_i Q_i / S
    model_doubt: Float[Tensor, " N"]  # sum_t gamma^t delta_t


def score(imagined: Imagined, discount: float, value_range: Tensor, spread_median: Tensor, caution: Caution) -> Score:
    """Cautious gain of N imagined action sequences over the first of them."""
    horizon = imagined.reward.shape[-1]
    gamma = discount ** torch.arange(horizon, device=imagined.reward.device)
    returns = (gamma * imagined.alive * imagined.reward).sum(-1) + discount**horizon * imagined.value
    gain = (returns - returns[:, :1]) / value_range
    disagreement = gain.std(0) if len(gain) > 1 else torch.zeros_like(gain[0])
    critic_doubt = (gamma * imagined.q_std).sum(-1) / value_range
    model_doubt = (gamma * imagined.spread).sum(-1) / spread_median
    doubt = caution.critics * critic_doubt + caution.dynamics * model_doubt
    return Score(gain.mean(0) - caution.heads * disagreement - (doubt - doubt[0]), critic_doubt, model_doubt)
