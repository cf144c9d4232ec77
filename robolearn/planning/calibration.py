"""Does a measure of uncertainty know where the model errs? Its order against the true errors', and a curve to look at."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Float
from torch import Tensor

from robolearn.core.errors import UserError, require_at_least


@dataclass(frozen=True)
class Calibration:
    """How a measure went with the true one-step errors of held-out rows. The curve has one point per bin, from the surest on."""

    rho: float
    """Spearman's rank correlation; nan where the measure or the error is the same everywhere, and so has no order."""
    median: float
    """Of the measure, in its own units."""
    measure: tuple[float, ...]
    """Mean of the measure per bin [its median]."""
    error: tuple[float, ...]
    """Mean true error per bin [its own units], as `low` and `high`."""
    low: tuple[float, ...]
    """10 % quantile of the true error per bin."""
    high: tuple[float, ...]
    """90 % quantile of the true error per bin."""


def calibrate(measure: Float[Tensor, " N"], error: Float[Tensor, " N"], bins: int = 10) -> Calibration:
    """Compare a measure with the true errors of the same N held-out rows, in `bins` bins of equal count (within one row).

    UserError where a value is not finite, the rows are fewer than the bins, or the measure's median is not above 0.
    """
    require_at_least("bins", bins, 1, "bins")
    require_at_least("rows", len(measure), max(bins, 2), "held-out rows")
    for name, values in (("measure", measure), ("error", error)):
        finite = int(values.isfinite().sum())
        if finite < len(values):
            raise UserError(f"{name}: {len(values) - finite} of {len(values)} values are not finite; expected numbers")
    x, y = (values.detach().cpu().double().numpy() for values in (scale_free(measure, measure), error))
    rows = np.array_split(np.argsort(x, kind="stable"), bins)
    return Calibration(
        rho=_spearman(x, y),
        median=float(measure.median()),
        measure=tuple(float(x[row].mean()) for row in rows),
        error=tuple(float(y[row].mean()) for row in rows),
        low=tuple(float(np.quantile(y[row], 0.1)) for row in rows),
        high=tuple(float(np.quantile(y[row], 0.9)) for row in rows),
    )


def scale_free(measure: Float[Tensor, " N"], held_out: Float[Tensor, " M"]) -> Float[Tensor, " N"]:
    """The measure over its median on held-out data: 1 is as unsure as usual, whatever the latent, the task or the measure's units."""
    median = float(held_out.median())
    if not (math.isfinite(median) and median > 0):
        raise UserError(f"median of the measure on held-out data: {median:g}; expected more than 0")
    return measure / median


def _spearman(x: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"]) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(scipy.stats.spearmanr(x, y).statistic)  # pyright: ignore[reportAttributeAccessIssue]
