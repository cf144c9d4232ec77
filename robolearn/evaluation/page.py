"""The report's paper: one HTML file that needs nothing but itself."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from robolearn.evaluation.video import aspect

CSS = """
:root { color-scheme: light dark;
  --paper: #fbfaf7; --card: #ffffff; --ink: #23262b; --soft: #6c717a; --line: #e6e3dc;
  --c1: #2f6f8f; --c2: #b4682c; --c3: #4d8a5b; --c4: #8a6aa8; --c5: #b0506a; --c6: #8a8d3b; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #17191c; --card: #1e2125; --ink: #e4e2dd; --soft: #9aa0a8; --line: #31353b;
  --c1: #6fb3d2; --c2: #e0a066; --c3: #86c294; --c4: #bfa2da; --c5: #e08aa2; --c6: #c3c672; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.6 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 820px; margin: 0 auto; padding: 56px 24px 96px; }
h1 { font: 600 34px/1.2 Georgia, "Iowan Old Style", serif; margin: 0 0 8px; }
h2 { font: 600 22px/1.3 Georgia, "Iowan Old Style", serif; margin: 56px 0 6px; }
h3 { font-size: 15px; margin: 26px 0 4px; }
p { margin: 6px 0 14px; } .soft, figcaption, small { color: var(--soft); } a { color: var(--c1); }
.hero { display: flex; flex-wrap: wrap; gap: 12px 44px; align-items: baseline; margin: 26px 0 6px; }
.hero b { font: 600 54px/1.1 Georgia, serif; font-variant-numeric: tabular-nums; display: block; }
.hero .arrow { font-size: 34px; color: var(--soft); align-self: center; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px; margin: 14px 0; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 15px; }
th, td { text-align: left; padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 500; } tbody tr:last-child > * { border-bottom: 0; }
.n { text-align: right; white-space: nowrap; } th.n { white-space: normal; }
td small { display: block; line-height: 1.4; } .numbers td { white-space: nowrap; }
svg { width: 100%; height: auto; display: block; overflow: visible; }
.grid { stroke: var(--line); } .tick, .label { font-size: 12px; fill: var(--soft); } .name, .value { font-size: 15px; fill: var(--ink); }
.value { font-weight: 600; } .band { opacity: .13; } .curve { fill: none; stroke: var(--c); stroke-width: 2.2; stroke-linejoin: round; }
.curve.thin { stroke-width: 1; opacity: .4; } .curve.dashed, .dashed { stroke-width: 1.6; stroke-dasharray: 5 5; fill: none; }
.dots circle { fill: var(--c); opacity: .5; } .interval { stroke: var(--c); stroke-width: 7; stroke-linecap: round; opacity: .3; }
.rate { fill: var(--c); } .legend {
  display: flex; flex-wrap: wrap; gap: 4px 20px; font-size: 13px; color: var(--soft); margin-bottom: 8px; }
.legend i {
  display: inline-block; width: 18px; height: 4px; border-radius: 2px; background: var(--c); margin-right: 7px; vertical-align: 3px; }
.legend i.dots { width: 8px; height: 8px; border-radius: 4px; vertical-align: 0; } .legend i.thin { opacity: .45; height: 2px; }
.films { display: grid; grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)); gap: 16px; }
.films.wide { grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); } figure { margin: 0; }
video { width: 100%; border-radius: 8px; background: #000; display: block; } figcaption { font-size: 13px; margin-top: 4px; }
img { display: block; max-width: 100%; border-radius: 6px; } .clip { margin: 8px 0 14px; } .odd { margin: 0 0 16px; }
.sheet { display: flex; flex-wrap: wrap; gap: 8px; } .sheet figcaption { margin: 0; }
.multiples { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 14px 18px; }
.multiples svg { background: color-mix(in srgb, var(--line) 35%, transparent); border-radius: 6px; overflow: hidden; }
.multiples figcaption { margin: 0 0 3px; line-height: 1.35; overflow-wrap: anywhere; } .multiples b { color: var(--ink); }
.multiples .curve { stroke-width: 1.6; } .multiples .curve.thin { stroke-width: 1; stroke: var(--ink); opacity: .35; }
.area { fill: var(--c1); opacity: .75; } .limit { stroke: var(--c2); stroke-width: 1.6; stroke-dasharray: 4 3; } .marks { fill: var(--c5); }
@media (max-width: 560px) { main { padding: 28px 14px 56px; } h1 { font-size: 26px; overflow-wrap: anywhere; }
  .card { padding: 14px; } table:has(thead) { min-width: 640px; } }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.55 ui-monospace, Menlo, Consolas, monospace; }
code { font-family: ui-monospace, Menlo, monospace; }
details { margin: 8px 0; } summary { cursor: pointer; color: var(--soft); } .tag { font-size: 12px; border: 1px solid var(--line);
  border-radius: 20px; padding: 1px 10px; color: var(--soft); white-space: nowrap; }
@media print { body { background: #fff; } video { display: none; } }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole document. The policy forbids it to load anything from anywhere."""
    guard = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{guard}"><title>{escape(title)}</title><style>{CSS}</style></head>'
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A heading and what belongs under it; nothing at all where there is nothing to show."""
    body = "".join(parts)
    return f"<h2>{escape(title)}</h2>{body}" if body else ""


def text(words: str, soft: bool = False) -> str:
    return f'<p class="soft">{escape(words)}</p>' if soft else f"<p>{escape(words)}</p>"


def card(body: str) -> str:
    return f'<div class="card">{body}</div>' if body else ""


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Numbers are right-aligned; None is a dash; what follows a line break is small."""
    if not rows:
        return ""

    def cell(tag: str, value: object, numeric: bool) -> str:
        shown = "–" if value is None else "<br>".join(escape(line) for line in str(value).split("\n"))
        shown = shown.replace("<br>", "<small>", 1) + "</small>" if "<br>" in shown else shown
        return f'<{tag} class="n">{shown}</{tag}>' if numeric else f"<{tag}>{shown}</{tag}>"

    numeric = [any(isinstance(row[i], int | float) for row in rows) for i in range(len(head))]
    top = "".join(cell("th", h, numeric[i]) for i, h in enumerate(head))
    body = "".join("<tr>" + "".join(cell("td", v, numeric[i]) for i, v in enumerate(row)) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def facts(values: Mapping[str, object]) -> str:
    """A table of two columns without a head; None is left out."""
    rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in values.items() if v is not None)
    return f"<table><tbody>{rows}</tbody></table>" if rows else ""


def code(source: str, name: str = "") -> str:
    """Text to copy. name: the element's id, by which tests find what they must be able to run."""
    mark = f' id="{escape(name)}"' if name else ""
    return f'<div class="card"><pre><code{mark}>{escape(source)}</code></pre></div>'


def folded(title: str, source: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{code(source)}</details>"


def films(videos: Sequence[tuple[Path, str]]) -> str:
    """Films inside the file itself, each with its caption; wide ones (two cameras) two in a row, else four."""
    if not videos:
        return ""
    wide = " wide" if any(aspect(path) > 1.4 for path, _ in videos) else ""
    return f'<div class="films{wide}">{"".join(_film(path, caption) for path, caption in videos)}</div>'


def _film(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    player = f'<video controls autoplay muted loop playsinline src="data:video/mp4;base64,{data}"></video>'
    return f"<figure>{player}<figcaption>{escape(caption)}</figcaption></figure>"
