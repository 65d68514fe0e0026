"""HTML and SVG by construction: whatever is text is escaped, only what `tag` made is markup."""

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
