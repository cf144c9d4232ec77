"""Small multiples: one little plot for each element of a vector, its limits drawn, all in one grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from hardware.types import ArraySpec
from robolearn.evaluation.plots import number, thin

WIDTH, HEIGHT, LEFT, BOTTOM = 240, 104, 4, 4
POINTS = 160  # of one line
MOST = 64  # elements of one vector; the page says how many are left out
NEAR = 0.5  # limits are in the picture where they are this close to the data, in shares of the data's range


def curves(spec: ArraySpec, time: np.ndarray, drawn: Sequence[tuple[str, np.ndarray]], flagged: np.ndarray | None = None) -> str:
    """One plot over time [s] for each element. drawn: (CSS class, values (T, D)), the last on top. flagged: bool (T, D), marked rows."""

    def plot(i: int) -> str:
        columns = [values[:, i].astype(float) for _, values in drawn]
        frame = _Frame(float(time[0]), float(time[-1]), *_span(np.concatenate(columns), spec, i))
        parts = frame.limits(spec, i)
        for (kind, _), column in zip(drawn, columns, strict=True):
            parts.append(f'<path class="curve {escape(kind)}" style="--c:var(--c1)" d="{frame.path(*thin(time, column, POINTS))}"/>')
        if flagged is not None and flagged[:, i].any():
            marks = [frame.at(float(time[row]), float(columns[-1][row])) for row in np.flatnonzero(flagged[:, i])[:POINTS]]
            parts.append('<g class="marks">' + "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in marks) + "</g>")
        return frame.figure(parts, spec, i, columns[-1])

    return _grid(spec, plot)


def histograms(spec: ArraySpec, values: np.ndarray, bins: int = 48) -> str:
    """How often each value was met, for each element. values (N, D)."""

    def plot(i: int) -> str:
        column = values[:, i].astype(float)
        column = column[np.isfinite(column)]
        low, high = _span(column, spec, i)
        counts, edges = np.histogram(column, bins=bins, range=(low, high))
        frame = _Frame(low, high, 0.0, max(float(counts.max()), 1.0) * 1.06)
        x, y = np.repeat(edges, 2), np.concatenate([[0], np.repeat(counts, 2), [0]])
        parts = [f'<path class="area" d="{frame.path(x, y)}Z"/>', *frame.limits(spec, i, across=True)]
        return frame.figure(parts, spec, i, column)

    return _grid(spec, plot)


class _Frame:
    """Data coordinates -> one little picture."""

    def __init__(self, left: float, right: float, low: float, high: float) -> None:
        self.left, self.right, self.low, self.high = left, right if right > left else left + 1.0, low, high

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - self.left) / (self.right - self.left) * (WIDTH - 2 * LEFT)
        return across, HEIGHT - BOTTOM - (y - self.low) / (self.high - self.low) * (HEIGHT - 2 * BOTTOM)

    def path(self, x: np.ndarray, y: np.ndarray) -> str:
        points, pen_down = [], False
        for a, b in zip(x, y, strict=True):
            if math.isfinite(b):
                px, py = self.at(float(a), float(np.clip(b, self.low, self.high)))
                points.append(f"{'L' if pen_down else 'M'}{px:.1f} {py:.1f}")
            pen_down = math.isfinite(b)
        return "".join(points)

    def limits(self, spec: ArraySpec, i: int, across: bool = False) -> list[str]:
        """The spec's limits, where they are in the picture. across: values go from left to right."""
        start, end = (self.left, self.right) if across else (self.low, self.high)
        lines = []
        for limit in (spec.low[i], spec.high[i]):
            if start <= limit <= end:
                x, y = self.at(limit, self.low) if across else self.at(self.left, limit)
                ends = f'x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{HEIGHT}"' if across else f'x1="0" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"'
                lines.append(f'<line class="limit" {ends}/>')
        return lines

    def figure(self, parts: Sequence[str], spec: ArraySpec, i: int, values: np.ndarray) -> str:
        """The picture under its element's name, unit, lowest and highest value, and limits."""
        name, unit = spec.names[i], spec.units[i]
        span = f"{number(float(values.min()))} to {number(float(values.max()))}" if len(values) else "nothing"
        bounded = math.isfinite(spec.low[i]) or math.isfinite(spec.high[i])
        limits = f"limits {number(spec.low[i])} to {number(spec.high[i])}" if bounded else "no limits"
        words = f"{span}{f' {unit}' if unit not in ('', '1') else ''}; {limits}"
        svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)}: {escape(words)}">{"".join(parts)}</svg>'
        return f"<figure><figcaption><b>{escape(name)}</b> {escape(words)}</figcaption>{svg}</figure>"


def _span(values: np.ndarray, spec: ArraySpec, i: int) -> tuple[float, float]:
    """From the lowest to the highest value, and on to a limit that is near."""
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    room = NEAR * (high - low) or NEAR * (abs(high) or 1.0)
    if math.isfinite(spec.low[i]) and low - room <= spec.low[i]:
        low = min(low, spec.low[i])
    if math.isfinite(spec.high[i]) and high + room >= spec.high[i]:
        high = max(high, spec.high[i])
    pad = 0.06 * (high - low) or 0.5 * (abs(high) or 1.0)
    return low - pad, high + pad


def _grid(spec: ArraySpec, plot) -> str:
    shown = min(spec.dim, MOST)
    rest = f'<p class="soft">{spec.dim - shown} more elements are not drawn.</p>' if shown < spec.dim else ""
    return f'<div class="multiples">{"".join(plot(i) for i in range(shown))}</div>{rest}' if shown else ""
