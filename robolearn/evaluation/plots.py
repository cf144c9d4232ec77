"""Small SVG plots for the report: drawn by hand, styled by the page's CSS, readable in a light and a dark room."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 720, 56, 16, 14, 40
MAX_POINTS = 400  # of one line; more would only make the file heavy


Values = Sequence[float | int] | np.ndarray


@dataclass(frozen=True)
class Line:
    """x, y (N,): drawn as a curve of CSS class `kind` ("strong", "thin", "dots", "dashed"), named in the legend."""

    name: str
    x: Values
    y: Values
    kind: str = "strong"
    colour: int = 1  # one of the page's palette: --c1, --c2, ...


@dataclass(frozen=True)
class Level:
    """A horizontal line at y, and a band from low to high around it."""

    name: str
    y: float
    low: float
    high: float
    colour: int = 2


def chart(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    y_range: tuple[float, float] | None = None,
    levels: Sequence[Level] = (),
    height: int = 240,
) -> str:
    """Curves over one pair of axes. Values that are not finite are gaps."""
    drawn = [line for line in lines if len(line.x)]
    xs = np.concatenate([np.asarray(line.x, dtype=float) for line in drawn]) if drawn else np.zeros(1)
    ys = np.concatenate([np.asarray(line.y, dtype=float) for line in drawn]) if drawn else np.zeros(1)
    ys = ys[np.isfinite(ys)]
    low, high = y_range or _padded(float(ys.min()) if len(ys) else 0.0, float(ys.max()) if len(ys) else 1.0)
    x0, x1 = float(xs.min()), float(xs.max())
    if x0 == x1:
        x0, x1 = x0 - 0.5, x1 + 0.5

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        return across, height - BOTTOM - (y - low) / (high - low) * (height - TOP - BOTTOM)

    parts = []
    for y in ticks(low, high):
        _, py = at(x0, y)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py:.1f}" y2="{py:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{py + 4:.1f}" text-anchor="end">{number(y)}</text>')
    for x in ticks(x0, x1) if len(set(xs.tolist())) > 1 else [float(xs[0])]:
        px, _ = at(x, low)
        parts.append(f'<text class="tick" x="{px:.1f}" y="{height - BOTTOM + 18}" text-anchor="middle">{number(x)}</text>')
    for level in levels:
        (_, top), (_, middle), (_, bottom) = at(x0, min(level.high, high)), at(x0, level.y), at(x0, max(level.low, low))
        span = f'x="{LEFT}" width="{WIDTH - LEFT - RIGHT}"'
        parts.append(f'<rect class="band" {span} y="{top:.1f}" height="{max(bottom - top, 0):.1f}" style="fill:var(--c{level.colour})"/>')
        ends = f'x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{middle:.1f}" y2="{middle:.1f}"'
        parts.append(f'<line class="dashed" {ends} style="stroke:var(--c{level.colour})"/>')
    parts += [_curve(line, at) for line in drawn]
    middle_y = (TOP + height - BOTTOM) / 2
    parts.append(f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{height - 4}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(f'<text class="label" transform="translate(13 {middle_y}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>')
    named = [(line.name, line.colour, line.kind) for line in drawn if line.name] + [(lv.name, lv.colour, "dashed") for lv in levels]
    return _legend(named) + _svg(parts, height, f"{y_label} over {x_label}")


def _curve(line: Line, at) -> str:
    x, y = np.asarray(line.x, dtype=float), np.asarray(line.y, dtype=float)
    style = f"--c:var(--c{line.colour})"
    if line.kind == "dots" or len(x) == 1:  # one point makes no curve
        points = (at(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(b))
        return f'<g class="dots" style="{style}">' + "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.2"/>' for a, b in points) + "</g>"
    x, y = thin(x, y)
    path, pen_down = [], False
    for a, b in zip(x, y, strict=True):
        if math.isfinite(b):
            px, py = at(a, b)
            path.append(f"{'L' if pen_down else 'M'}{px:.1f} {py:.1f}")
        pen_down = math.isfinite(b)
    return f'<path class="curve {escape(line.kind)}" style="{style}" d="{"".join(path)}"/>'


def thin(x: np.ndarray, y: np.ndarray, limit: int = MAX_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most `limit` points that keep every bucket's lowest and highest value: a spike is never smoothed away."""
    if len(x) <= limit:
        return x, y
    keep: set[int] = {0, len(x) - 1}
    for bucket in np.array_split(np.arange(len(x)), max(limit // 2 - 1, 1)):
        values = y[bucket]
        if np.isfinite(values).any():
            keep |= {int(bucket[np.nanargmin(values)]), int(bucket[np.nanargmax(values)])}
    rows = np.array(sorted(keep))
    return x[rows], y[rows]


def rates(rows: Sequence[tuple[str, int, int, tuple[float, float]]]) -> str:
    """Success rates: one row each of (name, successes, trials, interval), as a dot on its interval over a 0-100 % scale."""
    row_height, left = 56, 190
    height = TOP + row_height * len(rows) + 30
    parts, span = [], WIDTH - left - 70

    def across(rate: float) -> float:
        return left + rate * span

    for percent in (0, 25, 50, 75, 100):
        x = across(percent / 100)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - 26}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 8}" text-anchor="middle">{percent} %</text>')
    for index, (name, successes, trials, (low, high)) in enumerate(rows):
        y, rate = TOP + row_height * (index + 0.5), successes / trials if trials else 0.0
        style = f"--c:var(--c{2 - index % 2})"
        parts.append(f'<text class="name" x="{left - 16}" y="{y + 5:.1f}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<line class="interval" style="{style}" x1="{across(low):.1f}" x2="{across(high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        title = f"{successes} of {trials}; 95 % interval {100 * low:.0f} to {100 * high:.0f} %"
        parts.append(f'<circle class="rate" style="{style}" cx="{across(rate):.1f}" cy="{y:.1f}" r="8"><title>{title}</title></circle>')
        parts.append(f'<text class="value" x="{WIDTH - 4}" y="{y + 5:.1f}" text-anchor="end">{100 * rate:.0f} %</text>')
    return _svg(parts, height, "success rates with intervals")


def shares(parts_of: Mapping[str, float], unit: str = "s") -> str:
    """One horizontal bar cut into named parts: where the time went."""
    total, x, boxes, height = sum(parts_of.values()) or 1.0, 0.0, [], 34
    for index, (name, value) in enumerate(parts_of.items()):
        width = WIDTH * value / total
        title = f"<title>{escape(name)}: {number(value)} {escape(unit)}</title>"
        colour = f"fill:var(--c{index % 6 + 1})"
        boxes.append(
            f'<rect x="{x:.1f}" y="0" width="{max(width - 1.5, 0.5):.1f}" height="{height}" rx="3" style="{colour}">{title}</rect>'
        )
        x += width
    return _legend([(name, index % 6 + 1, "strong") for index, name in enumerate(parts_of)]) + _svg(boxes, height, "shares of the total")


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers inside [low, high]: steps of 1, 2 or 5 times a power of ten."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """As few digits as tell the value."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _padded(low: float, high: float) -> tuple[float, float]:
    pad = 0.08 * (high - low) or max(abs(high) * 0.1, 0.5)
    return (low - pad if low < 0 or low > 4 * pad else 0.0), high + pad


def _legend(items: Sequence[tuple[str, int, str]]) -> str:
    if not items:
        return ""
    keys = "".join(
        f'<span><i class="{escape(kind)}" style="--c:var(--c{colour})"></i>{escape(name)}</span>' for name, colour, kind in items
    )
    return f'<div class="legend">{keys}</div>'


def _svg(parts: Sequence[str], height: float | int, title: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
