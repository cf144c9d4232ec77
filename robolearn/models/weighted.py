"""The mean that every loss takes over what counts."""

from __future__ import annotations

from torch import Tensor


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of `values` where `weight` is not 0; 0 where it is 0 everywhere. Of one shape; a number."""
    return (values * weight).sum() / weight.sum().clamp(min=1e-6)
