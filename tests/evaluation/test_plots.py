import math
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robolearn.evaluation.plots import Level, Line, chart, number, rates, shares, thin, ticks


def svg(text):
    return ElementTree.fromstring(text[text.index("<svg") :])


def test_a_chart_puts_larger_values_higher_and_later_ones_further_right():
    drawing = svg(chart([Line("", [1, 2, 4], [0.0, 1.0, 0.5], "dots")], "x", "y"))
    cx = [float(c.get("cx")) for c in drawing.iter("circle")]
    cy = [float(c.get("cy")) for c in drawing.iter("circle")]
    assert cx[0] < cx[1] < cx[2] and cx[2] - cx[1] == pytest.approx(2 * (cx[1] - cx[0]), abs=0.2)
    assert cy[1] < cy[2] < cy[0]


def test_missing_values_are_gaps_not_lies():
    text = chart([Line("a", [0, 1, 2, 3], [1.0, math.nan, 1.0, 2.0])], "x", "y")
    path = next(p for p in svg(text).iter("path")).get("d")
    assert path.count("M") == 2 and "nan" not in text


@pytest.mark.parametrize("y", [[], [1.0], [2.0, 2.0], [math.nan, math.nan], [-1e9, 1e9], [1e-12, 3e-12]])
def test_odd_data_still_makes_a_drawing(y):
    text = chart([Line("a", list(range(len(y))), y)], "x", "y", levels=[Level("l", 0.0, -1.0, 1.0)])
    assert "nan" not in text and "inf" not in text
    svg(text)


@given(st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), min_size=1, max_size=2000))
def test_thinning_keeps_every_spike(values):
    y = np.array(values)
    x, kept = thin(np.arange(len(y)), y, limit=50)
    assert len(kept) <= max(50, 4)
    assert (np.diff(x) > 0).all()
    if np.isfinite(y).any():
        assert np.nanmax(kept) == np.nanmax(y) and np.nanmin(kept) == np.nanmin(y)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_round_and_inside(low, span):
    marks = ticks(low, low + span)
    assert len(marks) <= 12
    assert all(low - 1e-6 * span - 1e-9 <= m <= low + span * (1 + 1e-6) + 1e-9 for m in marks)


def test_ticks_are_round_numbers():
    assert ticks(0.0, 1.0) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(3.0, 47.0) == [10, 20, 30, 40]
    assert ticks(2.0, 2.0) == [2.0]
    assert [number(v) for v in (0.12345, 12.3456, 1234.5)] == ["0.123", "12.3", "1,234"]


def test_rates_stand_where_they_should_on_the_scale():
    drawing = svg(rates([("before", 5, 20, (0.1, 0.5)), ("after", 20, 20, (0.8, 1.0))]))
    before, after = [float(c.get("cx")) for c in drawing.iter("circle")]
    scale = {t.text: float(t.get("x")) for t in drawing.iter("text") if t.get("class") == "tick"}
    assert before == pytest.approx(scale["25 %"], abs=0.2) and after == pytest.approx(scale["100 %"], abs=0.2)


def test_names_cannot_break_out_of_the_drawing():
    text = rates([("<script>", 1, 2, (0.0, 1.0))]) + shares({"<b>": 1.0}) + chart([Line("<i>", [0], [0])], "<u>", "<u>")
    assert not any(tag in text for tag in ("<script>", "<b>", "<u>", "<i>&"))
    svg(shares({"a": 1.0, "b": 0.0}))
