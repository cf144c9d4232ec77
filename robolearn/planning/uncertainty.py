"""How unsure an ensemble is of its next latent: the penalties that Lu et al. (ICLR 2022) compare, as functions of the heads' answers.

K heads answer N questions with D numbers each: means (K, N, D) and standard deviations that broadcast to them. Heads without a
deviation of their own share one, measured on held-out data: `residual_std`. A constant factor never matters (see `calibration`), so
only the order of the answers and how fast they grow tell one measure from another.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from robolearn.core.errors import UserError

Measure = Callable[[Tensor, Tensor], Tensor]  # (mean, std) -> (N,), none below 0; what is not finite stays so


def max_aleatoric(mean: Float[Tensor, "K N D"], std: Float[Tensor, "#K #N D"]) -> Float[Tensor, " N"]:
    """Largest norm of a head's own standard deviation (MOPO, Yu et al. 2020). Needs heads that give one: a shared one says nothing."""
    return std.norm(dim=-1).amax(0).expand(mean.shape[1])


def ensemble_variance(mean: Float[Tensor, "K N D"], std: Float[Tensor, "#K #N D"]) -> Float[Tensor, " N"]:
    """Variance of the heads' means, averaged over dimensions: `Imagined.spread`. Needs means only."""
    _require_heads(mean)
    return mean.var(0).mean(-1)


def ensemble_std(mean: Float[Tensor, "K N D"], std: Float[Tensor, "#K #N D"]) -> Float[Tensor, " N"]:
    """Root of `ensemble_variance`: the same order, but it grows as the heads part and not as their square. Needs means only."""
    return ensemble_variance(mean, std).sqrt()


def mixture_std(mean: Float[Tensor, "K N D"], std: Float[Tensor, "#K #N D"]) -> Float[Tensor, " N"]:
    """Root mean variance of the heads' mixture, their noise and their disagreement together (Lakshminarayanan et al. 2017).

    Needs standard deviations; with a shared one the order is that of `ensemble_std`. Not 0 where the heads agree.
    """
    return (mean.var(0, correction=0) + std.expand_as(mean).square().mean(0)).mean(-1).sqrt()


def max_pairwise_difference(mean: Float[Tensor, "K N D"], std: Float[Tensor, "#K #N D"]) -> Float[Tensor, " N"]:
    """Largest distance between two heads' means (MOReL, Kidambi et al. 2020). Needs means only."""
    _require_heads(mean)
    return (mean[:, None] - mean).norm(dim=-1).amax((0, 1))


def leave_one_out_kl(mean: Float[Tensor, "K N D"], std: Float[Tensor, "#K #N D"]) -> Float[Tensor, " N"]:
    """KL from a head's Gaussian to the others', merged into one Gaussian of their mean and variance; averaged over heads [nats].

    M2AC (Pan et al. 2020) takes one head at random where we take the mean. Needs standard deviations above 0, and a shared one serves
    better than the heads' own: disagreement is counted in units of them, and vanishes where they grow with it, far from the data.
    """
    _require_heads(mean)
    variance, others = std.expand_as(mean).square(), len(mean) - 1
    apart = mean - mean.mean(0)  # sums over the others are what is left of sums over all; centred, so that little cancels
    their_mean = -apart / others
    their_spread = (apart.square().sum(0) - apart.square()) / others - their_mean.square()
    their_variance = (variance.sum(0) - variance) / others + their_spread.clamp(min=0)
    kl = ((variance + (apart - their_mean).square()) / their_variance - 1 + (their_variance / variance).log()) / 2
    return kl.sum(-1).mean(0).clamp(min=0)


MEASURES: dict[str, Measure] = {
    "max_aleatoric": max_aleatoric,
    "ensemble_variance": ensemble_variance,
    "ensemble_std": ensemble_std,
    "mixture_std": mixture_std,
    "max_pairwise_difference": max_pairwise_difference,
    "leave_one_out_kl": leave_one_out_kl,
}


@torch.no_grad()
def residual_std(mean: Float[Tensor, "K N D"], target: Float[Tensor, "N D"]) -> Float[Tensor, "1 1 D"]:
    """What heads without a deviation share: root mean square error per dimension, over heads and held-out rows."""
    return (mean - target).square().mean((0, 1), keepdim=True).sqrt()


def _require_heads(mean: Tensor) -> None:
    if len(mean) < 2:
        raise UserError(f"heads: {len(mean)}; they disagree only where there are 2 or more")
