import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from robolearn.core.errors import UserError
from robolearn.planning.calibration import calibrate, scale_free


def test_five_rows_by_hand():
    measure = torch.tensor([4.0, 2.0, 8.0, 6.0, 10.0])
    got = calibrate(measure, torch.tensor([0.2, 0.1, 0.5, 0.3, 0.4]), bins=2)
    assert got.median == 6.0
    assert got.measure == pytest.approx((4 / 6, 9 / 6))  # (2, 4, 6) and (8, 10), over the median
    assert got.error == pytest.approx((0.2, 0.45))
    assert got.low == pytest.approx((0.12, 0.41)) and got.high == pytest.approx((0.28, 0.49))
    assert got.rho == pytest.approx(1 - 6 * 2 / (5 * 24))  # two neighbours swapped: 1 - 6 sum d^2 / (n (n^2 - 1))


def test_order_is_all_that_the_rank_correlation_sees():
    error = torch.rand(100, generator=torch.Generator().manual_seed(0))
    assert calibrate(error.exp(), error).rho == pytest.approx(1)
    assert calibrate(1 / (1 + error), error).rho == pytest.approx(-1)


def test_a_measure_without_order_has_no_correlation():
    error = torch.rand(20, generator=torch.Generator().manual_seed(0))
    assert math.isnan(calibrate(torch.ones(20), error).rho)
    assert math.isnan(calibrate(1 + error, torch.zeros(20)).rho)


@given(st.integers(1, 12), st.integers(0, 300), st.integers(0, 10_000))
def test_bins_hold_every_row_once_and_rise(bins, more, seed):
    rows = max(bins, 2) + more
    generator = torch.Generator().manual_seed(seed)
    measure, error = 0.1 + torch.rand(rows, generator=generator), torch.rand(rows, generator=generator)
    got = calibrate(measure, error, bins)
    assert len(got.measure) == len(got.error) == len(got.low) == len(got.high) == bins
    assert list(got.measure) == sorted(got.measure)
    assert all(low <= high for low, high in zip(got.low, got.high, strict=True))
    counts = [rows // bins + (i < rows % bins) for i in range(bins)]
    assert sum(n * e for n, e in zip(counts, got.error, strict=True)) == pytest.approx(float(error.sum()), rel=1e-5)
    assert got.rho == pytest.approx(float(stats.spearmanr(measure, error).statistic), abs=1e-6)


def test_errors_that_scatter_widen_the_band():
    measure = torch.cat([torch.full((50,), 1.0), torch.full((50,), 2.0)])
    noise = torch.randn(50, generator=torch.Generator().manual_seed(0)).abs()
    got = calibrate(measure, torch.cat([0.1 * noise, noise]), bins=2)
    assert got.high[1] - got.low[1] == pytest.approx(10 * (got.high[0] - got.low[0]))


def test_scale_free_is_one_at_the_median():
    held_out = torch.tensor([1.0, 2.0, 30.0])
    torch.testing.assert_close(scale_free(torch.tensor([2.0, 1.0, 8.0]), held_out), torch.tensor([1.0, 0.5, 4.0]))
    torch.testing.assert_close(scale_free(1e6 * held_out, 1e6 * held_out), scale_free(held_out, held_out))


@pytest.mark.parametrize("held_out", [[0.0, 0.0, 1.0], [math.nan, 1.0], [math.inf, math.inf, 1.0]])
def test_a_median_that_measures_nothing_is_refused(held_out):
    with pytest.raises(UserError, match="median of the measure on held-out data: .*; expected more than 0"):
        scale_free(torch.ones(2), torch.tensor(held_out))


@pytest.mark.parametrize(
    ("measure", "error", "bins", "message"),
    [
        ([1.0, math.nan, math.inf], [1.0, 2.0, 3.0], 1, "measure: 2 of 3 values are not finite"),
        ([1.0, 2.0, 3.0], [1.0, math.nan, 3.0], 1, "error: 1 of 3 values are not finite"),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 4, "rows: 3 held-out rows; expected at least 4"),
        ([1.0], [1.0], 1, "rows: 1 held-out rows; expected at least 2"),
        ([1.0, 2.0], [1.0, 2.0], 0, "bins: 0 bins; expected at least 1"),
    ],
)
def test_what_cannot_be_judged_is_named(measure, error, bins, message):
    with pytest.raises(UserError, match=message):
        calibrate(torch.tensor(measure), torch.tensor(error), bins)
