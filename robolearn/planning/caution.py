"""The planner's score: what a plan is expected to earn, with every doubt taken off, in one place and without units.

With G_k the return that dynamics head k expects, u_t = std_i Q_i(z_t, a_t) the critics' spread (FOWM, Feng et al. 2023, equation 6),
delta_t the dynamics heads' variance over its median on held-out data, and S the 5-95 percentile range of Q,

    score = mean_k A_k - l_h std_k A_k - l_q sum_t gamma^t u_t / S - l_d sum_t gamma^t delta_t - l_e e,      A_k = G_k / S

relative: A_k = (G_k - G_k[0]) / S, and doubts beyond those of row 0, the policy's own plan, which then scores 0 by construction: another
one is taken only if it is better by more than the heads disagree about it, and by l_e times e, how far such a model was off on held-out
data (root mean square of G / S minus the return that was earned). Heads that are wrong together do not disagree, and the best of a hundred
plans is the one that the model is most mistaken about. As data grows it errs less, and caution recedes by itself.
units raw: S = 1, so that l_q is in the returns' units, as FOWM's lambda is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from robolearn.worldmodels.imagined import Imagined


@dataclass(frozen=True)
class Caution:
    """How much the planner shuns what its model does not know. All zero plans boldly; nothing here guards the robot."""

    heads: float = 1.0
    """l_h, on the dynamics heads' disagreement about the return [standard deviations]."""
    critics: float = 0.5
    """l_q, on the critics' spread."""
    dynamics: float = 0.02
    """l_d, on the dynamics heads' spread."""
    margin: float = 3.0
    """l_e, on the model's error about returns; where plans are relative to the policy's own. 3: about the largest of a hundred errors."""
    relative: bool = True
    """Plans are compared with the policy's own, head by head."""
    units: Literal["range", "raw"] = "range"
    """range: returns are divided by the 5-95 percentile range of Q. raw: they are not."""
    ends_only: bool = False
    """The critics are asked at the first step and at the last only: a planner several times quicker."""


@dataclass(frozen=True)
class Score:
    """All (N,), dimensionless unless raw."""

    total: Float[Tensor, " N"]
    critic_doubt: Float[Tensor, " N"]  # sum_t gamma^t u_t / S
    model_doubt: Float[Tensor, " N"]  # sum_t gamma^t delta_t


def expected(imagined: Imagined, discount: float) -> Float[Tensor, "K N"]:
    """G: the return that each head expects, in the rewards' units."""
    horizon = imagined.reward.shape[-1]
    gamma = discount ** torch.arange(horizon, device=imagined.reward.device)
    return (gamma * imagined.alive * imagined.reward).sum(-1) + discount**horizon * imagined.value


def score(
    imagined: Imagined, discount: float, value_range: Tensor, spread_median: Tensor, caution: Caution, error: Tensor | float = 0.0
) -> Score:
    """Cautious worth of N imagined action sequences. error: e, in value ranges."""
    horizon = imagined.reward.shape[-1]
    gamma = discount ** torch.arange(imagined.q_std.shape[-1], device=imagined.reward.device)
    scale = value_range if caution.units == "range" else torch.ones_like(value_range)
    returns = expected(imagined, discount)
    gain = (returns - returns[:, :1] if caution.relative else returns) / scale
    disagreement = gain.std(0) if len(gain) > 1 else torch.zeros_like(gain[0])
    critic_doubt = (gamma * imagined.q_std).sum(-1) / scale
    model_doubt = (gamma[:horizon] * imagined.spread).sum(-1) / spread_median
    doubt = caution.dynamics * model_doubt + (caution.critics * critic_doubt if caution.critics else 0.0)
    total = gain.mean(0) - caution.heads * disagreement - (doubt - doubt[0] if caution.relative else doubt)
    if caution.relative:
        total = total - caution.margin * error * value_range / scale * (torch.arange(len(total), device=total.device) > 0)
    return Score(total, critic_doubt, model_doubt)
