"""Diagrams as SVG in the colours of the page around them (CSS variables and classes of `style`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scal3r_train.scene.visualization.html import Html, joined, tag

MAX_POINTS = 1500  # of a line
WIDTH, HEIGHT = 900, 170
LEFT, RIGHT, TOP, BOTTOM = 62, 8, 10, 26
TICKS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` along pixels from `start` to `stop`; by powers of ten where `is_log`."""

    low: float
    high: float
    start: float
    stop: float
    is_log: bool = False

    def place(self, value: np.ndarray | float) -> np.ndarray:
        """Pixels of values, kept inside."""
        low, high, values = self.low, self.high, np.asarray(value, float)
        if self.is_log:
            low, high, values = math.log(low), math.log(high), np.log(np.maximum(values, 1e-300))
        share = np.clip((values - low) / max(high - low, 1e-300), 0, 1)
        return self.start + share * (self.stop - self.start)

    @property
    def ticks(self) -> list[float]:
        """A few round values."""
        if self.is_log:
            powers = range(math.floor(math.log10(self.low)), math.floor(math.log10(self.high) + 1e-9) + 1)
            steps = (1, 2, 5) if len(powers) < 4 else (1,)
            found = [step * 10.0**power for power in powers for step in steps]
            return [value for value in found if self.low <= value * (1 + 1e-9) and value <= self.high]
        step = round_step((self.high - self.low) / 4)
        first = math.ceil(self.low / step - 1e-9)
        return [step * n for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def round_step(length: float) -> float:
    """Return the smallest of 1, 2, 2.5, 5 times a power of ten that is not less than `length`."""
    if not length > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(length))
    return next((power * step for step in TICKS if power * step >= length * (1 - 1e-9)), 10 * power)


def path_data(places: np.ndarray, max_points: int = MAX_POINTS) -> str:
    """Return the `d` of a line through [N, 2] pixels, thinned evenly; both ends stay."""
    keep = np.unique(np.linspace(0, len(places) - 1, min(len(places), max_points)).round().astype(int))
    return "M" + " ".join(f"{x:.1f},{y:.1f}" for x, y in places[keep].tolist())


def frame(x: Axis, y: Axis, x_label: str, y_unit: str = "") -> Html:
    """Return the axes of a diagram with their ticks."""
    parts: list[Html] = []
    for value in y.ticks:
        at = float(y.place(value))
        parts.append(tag("path", d=f"M{x.start},{at:.1f}H{x.stop}", class_="grid"))
        parts.append(tag("text", f"{value:g}{y_unit}", x=x.start - 6, y=f"{at + 4:.1f}", text_anchor="end"))
    for value in x.ticks:
        at = float(x.place(value))
        parts.append(tag("text", f"{value:g}", x=f"{at:.1f}", y=y.start + 15, text_anchor="middle"))
    parts.append(tag("text", x_label, x=x.stop, y=y.start + 25, text_anchor="end", class_="name"))
    return joined(parts)


def picture(*children: Html, height: float, label: str, width: float = WIDTH) -> Html:
    """Return an SVG that fills the width of the page."""
    box = f"0 0 {width:g} {height:g}"
    return tag("svg", *children, viewBox=box, role="img", aria_label=label, class_="chart")


def bars(
    values: Sequence[float | None],
    is_good: Sequence[bool],
    label: str,
    *,
    is_log: bool = False,
    limits: tuple[float, float] | None = None,
    base: float | None = None,
) -> Html:
    """Return a diagram of one bar per seam; those that are not `is_good` stand out, None is a gap.

    Bars begin at `base`, the lower end by default.
    """
    known = np.array([math.nan if value is None else value for value in values], float)
    usable = known[np.isfinite(known) & ((known > 0) if is_log else np.isfinite(known))]
    low, high = limits or _limits(usable, is_log)
    x = Axis(0.5, len(known) + 0.5, LEFT, WIDTH - RIGHT)
    y = Axis(low, high, HEIGHT - BOTTOM, TOP, is_log)
    bottom = float(y.place(low if base is None else base))
    half = max(0.4, 0.38 * (x.stop - x.start) / max(len(known), 1))
    shapes: dict[bool, list[str]] = {True: [], False: []}
    for place, value in enumerate(known.tolist()):
        if math.isfinite(value) and (value > 0 or not is_log):
            at, top = float(x.place(place + 1)), float(y.place(value))
            shapes[bool(is_good[place])].append(
                f"M{at - half:.1f},{bottom:.1f}V{top:.1f}h{2 * half:.1f}V{bottom:.1f}z"
            )
    drawn = [
        tag("path", d="".join(parts), class_="good" if good else "bad")
        for good, parts in shapes.items()
        if parts
    ]
    return tag(
        "figure",
        picture(frame(x, y, "seam before chunk"), *drawn, height=HEIGHT, label=label),
        tag("figcaption", label),
    )


def profile(
    x_values: np.ndarray, lines: Sequence[tuple[np.ndarray, str]], x_label: str, caption: str
) -> Html:
    """Return a diagram of lines over the same x [N]; each comes with its CSS class, NaN is a gap."""
    every = np.concatenate([line for line, _ in lines])
    low, high = _limits(every[np.isfinite(every)], is_log=False)
    x = Axis(float(x_values.min()), float(x_values.max()), LEFT, WIDTH - RIGHT)
    y = Axis(low, high, HEIGHT - BOTTOM, TOP)
    drawn = []
    for line, style in lines:
        places = np.stack([x.place(x_values), y.place(line)], -1)
        known = np.isfinite(line)
        if known.any():
            drawn.append(tag("path", d=path_data(places[known]), class_=style))
    return tag(
        "figure",
        picture(frame(x, y, x_label), *drawn, height=HEIGHT, label=caption),
        tag("figcaption", caption),
    )


def histogram(values: np.ndarray, caption: str, num_bins: int = 60) -> Html:
    """Return how often values [N] lie where; the highest percent is counted in the last bar."""
    low, high = (float(value) for value in np.quantile(values, [0, 0.99]))
    high = max(high, low + 1e-3 * max(abs(low), 1.0))
    counts, edges = np.histogram(np.clip(values.astype(np.float64), low, high), num_bins, (low, high))
    x = Axis(float(edges[0]), float(edges[-1]), LEFT, WIDTH - RIGHT)
    y = Axis(0, 100 * counts.max() / max(counts.sum(), 1), HEIGHT - BOTTOM, TOP)
    steps = []
    for count, left, right in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        a, b, top = float(x.place(left)), float(x.place(right)), float(y.place(100 * count / counts.sum()))
        steps.append(f"M{a:.1f},{y.start}V{top:.1f}H{b - 0.6:.1f}V{y.start}z")
    drawn = tag("path", d="".join(steps), class_="good")
    return tag(
        "figure",
        picture(frame(x, y, "confidence", " %"), drawn, height=HEIGHT, label=caption),
        tag("figcaption", caption),
    )


def _limits(values: np.ndarray, is_log: bool) -> tuple[float, float]:  # noqa: FBT001
    """Return limits that hold all values, never equal."""
    if not len(values):
        return (0.1, 10.0) if is_log else (0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    if is_log:
        return low / 1.5, high * 1.5
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    return low - margin, high + margin
