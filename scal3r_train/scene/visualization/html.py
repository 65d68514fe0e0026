"""HTML and SVG by construction (text is escaped, only what `tag` made is markup), and the looks of the report."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from PIL import Image

JPEG_QUALITY = 80


class Html(str):
    """Markup; plain strings are text."""

    __slots__ = ()


Child = Html | str | int | float | None


def tag(name: str, /, *children: Child, **attributes: object) -> Html:
    """Return an element. Attributes: `class_` is class, `_` in other names is `-`; None leaves one out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{given}>{joined(children)}</{name}>")


def void(name: str, /, **attributes: object) -> Html:
    """Return an element without content or end."""
    return Html(tag(name, **attributes).removesuffix(f"</{name}>"))


def joined(children: Iterable[Child]) -> Html:
    """Return children one after another; text is escaped, None left out."""
    parts = (
        child if isinstance(child, Html) else escape(str(child)) for child in children if child is not None
    )
    return Html("".join(parts))


def table(head: Sequence[str], rows: Iterable[Sequence[Child]]) -> Html:
    """Return a table that scrolls sideways where the page is narrow."""
    body = [tag("tr", *(tag("td", cell) for cell in row)) for row in rows]
    head_row = tag("tr", *(tag("th", name) for name in head))
    return tag("div", tag("table", tag("thead", head_row), tag("tbody", *body)), class_="wide")


def facts(pairs: Iterable[tuple[str, Child]]) -> Html:
    """Return a list of names and values."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs))


def image(pixels: np.ndarray, caption: str, width: int | None = None) -> Html:
    """Return a picture [H, W, 3] uint8 inside the page, `width` CSS pixels wide (None: its own)."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=JPEG_QUALITY, optimize=True)
    data = "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
    shown = void("img", src=data, alt=caption, width=width or pixels.shape[1])
    return tag("figure", shown, tag("figcaption", caption))


def number(value: float | None, digits: int = 4) -> str:
    """Return a number as people read it, `-` for None."""
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.{digits}g}"


STYLE = """
:root { color-scheme: light dark; --ink: #1b2330; --faint: #667085; --paper: #ffffff; --card: #f5f7fa;
  --line: #d9dee6; --good: #2f6fde; --bad: #d64541; --accepted: #17935c; --rejected: #d64541; --truth: #d9780f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --faint: #98a2b3; --paper: #10141b; --card: #1a202a;
  --line: #2f3846; --good: #6b9df5; --bad: #f0716c; --accepted: #3fca8b; --rejected: #f0716c; --truth: #f5a54a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 28px 20px 60px; max-width: 980px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 26px; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 38px 0 10px; padding-top: 14px; border-top: 1px solid var(--line); }
p { margin: 6px 0; } .faint, figcaption { color: var(--faint); font-size: 13px; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 8px; margin: 16px 0; }
dl div { background: var(--card); border-radius: 8px; padding: 8px 12px; }
dt { color: var(--faint); font-size: 12px; }
dd { margin: 0; font-size: 16px; font-weight: 600; overflow-wrap: anywhere; }
ul.warnings { margin: 16px 0; padding: 10px 14px 10px 32px;
  background: color-mix(in srgb, var(--bad) 12%, var(--paper));
  border-left: 4px solid var(--bad); border-radius: 6px; }
figure { margin: 10px 0 16px; } .pictures, .previews { display: grid; gap: 10px; }
.pictures { grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); }
.previews { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
.previews figure, .pictures figure { margin: 0; }
img { display: block; width: 100%; height: auto; border-radius: 8px; background: var(--card); }
svg.chart { display: block; width: 100%; height: auto; background: var(--card); border-radius: 8px; }
svg text { fill: var(--faint); font-size: 11.5px; } svg path { fill: none; vector-effect: non-scaling-stroke; }
.grid { stroke: var(--line); } svg .good { fill: var(--good); } svg .bad { fill: var(--bad); }
svg .height { stroke: var(--good); stroke-width: 2; } .chunk { stroke-width: 3; stroke-linecap: round; }
svg .truth { stroke: var(--truth); stroke-width: 2; stroke-dasharray: 7 5; }
.loop { stroke-width: 1.5; } .loop.accepted { stroke: var(--accepted); stroke-width: 2.5; }
.loop.rejected { stroke: var(--rejected); stroke-dasharray: 3 5; opacity: .75; }
circle.accepted { fill: var(--accepted); } circle.rejected { fill: var(--rejected); opacity: .75; }
circle.start { fill: var(--paper); stroke: var(--ink); stroke-width: 3; } circle.end { fill: var(--ink); }
.break { stroke: var(--bad); stroke-width: 3.5; } .ruler { stroke: var(--ink); stroke-width: 3; }
.entry { margin-right: 18px; white-space: nowrap; }
.key { display: inline-block; width: 14px; height: 14px; border-radius: 4px; margin-right: 6px; vertical-align: -2px; }
.key.chunk { background: linear-gradient(90deg, #3a6fd8, #2fae6f, #d6a52f, #d64541); width: 42px; }
.key.start { border: 3px solid var(--ink); border-radius: 50%; }
.key.end { background: var(--ink); border-radius: 50%; }
.key.truth { background: var(--truth); } .key.break { background: var(--bad); }
.key.accepted { background: var(--accepted); } .key.rejected { background: var(--rejected); }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: 13px; margin: 8px 0; }
th, td { text-align: left; padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--faint); font-weight: 500; white-space: nowrap; } td:first-child { white-space: nowrap; }
td { font-variant-numeric: tabular-nums; }
.mark { font-weight: 600; white-space: nowrap; }
.mark.good { color: var(--accepted); } .mark.bad { color: var(--bad); }
details { margin: 8px 0; } summary { cursor: pointer; color: var(--faint); }
pre { background: var(--card); border-radius: 8px; padding: 12px; overflow-x: auto;
  font-size: 12px; line-height: 1.45; }
"""
