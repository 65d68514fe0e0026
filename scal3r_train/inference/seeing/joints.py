"""The seams between chunks and the loops, with what was thought of them."""

from __future__ import annotations

from typing import Any

from scal3r_train.inference.scene import Scene
from scal3r_train.inference.seeing.charts import bars
from scal3r_train.inference.seeing.html import Html, facts, joined, number, table, tag

MAX_ROWS = 60


def seams_section(scene: Scene) -> Html | None:
    """Return how well each chunk joins the one before it; None for a single chunk."""
    seams = scene.info.seams
    if not seams:
        return None
    trusted = [bool(seam.get("trusted")) for seam in seams]
    doubtful = [place for place, good in enumerate(trusted) if not good]
    text = (
        "Every chunk is predicted in its own frame and scale and joined to the one before it. Residuals are relative "
        "to the scene's scale at the seam; seams in red are not trusted."
    )
    diagrams = [
        bars(_column(seams, "residual_median"), trusted, "median residual", is_log=True),
        bars(_column(seams, "inlier_share"), trusted, "share of points that fit", limits=(0.0, 1.0)),
        bars(
            _column(seams, "scale"),
            trusted,
            "scale of the chunk relative to the one before",
            is_log=True,
            base=1.0,
        ),
    ]
    head = (
        "before chunk",
        "frame",
        "method",
        "verdict",
        "median residual",
        "rms",
        "inliers",
        "scale",
        "points",
    )
    shown = doubtful or list(range(len(seams)))
    rows = [_seam_row(scene, place) for place in shown[:MAX_ROWS]]
    name = (
        f"{len(doubtful)} seams that are not trusted" if doubtful else f"all {len(seams)} seams, all trusted"
    )
    if len(shown) > MAX_ROWS:
        name += f", the first {MAX_ROWS} (all: scene.json)"
    listing = tag("details", tag("summary", name), table(head, rows))
    return joined([tag("h2", "Seams"), tag("p", text, class_="faint"), *diagrams, listing])


def loops_section(scene: Scene) -> Html | None:
    """Return all candidates of loop closure with their verdicts; None when there were none."""
    loops = scene.info.loops
    if not loops:
        return None
    order = sorted(loops, key=lambda loop: not loop.get("accepted"))
    head = ("frames", "chunks", "similarity", "verdict", "reason", "scale ratio", "deviation", "weight")
    rows = [
        (
            _pair(loop.get("frames")),
            _pair(loop.get("chunks")),
            number(loop.get("similarity"), 3),
            verdict(bool(loop.get("accepted")), "accepted", "rejected"),
            str(loop.get("reason", "")),
            number(loop.get("scale_ratio"), 4),
            number(loop.get("chain_deviation"), 3),
            number(loop.get("weight"), 3),
        )
        for loop in order[:MAX_ROWS]
    ]
    parts = [tag("h2", "Loops"), table(head, rows)]
    if len(loops) > MAX_ROWS:
        parts.append(
            tag("p", f"The first {MAX_ROWS} of {len(loops)}; all are in scene.json.", class_="faint")
        )
    if scene.info.pose_graph:
        parts.append(
            facts((key.replace("_", " "), _plain(value)) for key, value in scene.info.pose_graph.items())
        )
    return joined(parts)


def verdict(is_good: bool, good: str, bad: str) -> Html:  # noqa: FBT001
    """Return a word in its colour."""
    return tag("span", good if is_good else bad, class_=f"mark {'good' if is_good else 'bad'}")


def _column(seams: tuple[dict[str, Any], ...], key: str) -> list[float | None]:
    return [seam.get(key) for seam in seams]


def _seam_row(scene: Scene, place: int) -> tuple[Html | str, ...]:
    """Return the row of one seam."""
    seam = scene.info.seams[place]
    return (
        str(place + 1),
        str(scene.info.provided_frames[place + 1][0]),
        str(seam.get("method", "")),
        verdict(bool(seam.get("trusted")), "trusted", "not trusted"),
        number(seam.get("residual_median"), 3),
        number(seam.get("residual_rms"), 3),
        "-" if seam.get("inlier_share") is None else f"{seam['inlier_share']:.0%}",
        number(seam.get("scale"), 4),
        number(seam.get("num_points")),
    )


def _pair(numbers: Any) -> str:
    return "-" if not numbers else " - ".join(map(str, numbers))


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, int | float) or value is None else str(value)
