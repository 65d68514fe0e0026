"""The report of a check: report.html with its pictures inside, the same pictures as PNG, and report.json.

Pictures for the report of a sequence: the worst pairs with their matches and depth errors, and the path from above.
Shapes: H W pixels, N matches.
"""

from __future__ import annotations

import base64
import html
import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scal3r_data_tools.checking.depth_warp import read_view, warp_error_map
from scal3r_data_tools.checking.examine import Findings, SequenceReport
from scal3r_data_tools.checking.scores import epipolar_errors, reprojection_vectors
from scal3r_data_tools.previewing.colours import DepthScale, colour_depth
from scal3r_train.config import atomic_output, write_text_atomically
from scal3r_train.data.io.frame_io import read_frame_image, upright_poses
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.geometry.drawing import View, positions

NUM_WORST = 3
NUM_LINES = 60
WARP_RANGE = 0.05
MAX_PICTURES = 40
STYLE = """
body { font: 14px sans-serif; margin: 2em auto; max-width: 1300px; color: #222 }
table { border-collapse: collapse } td, th { border: 1px solid #ccc; padding: 3px 8px; text-align: left }
.bad { color: #b00020 } .note { color: #666 } img { width: 100% }
"""


def sequence_figure(record: SequenceRecord, findings: Findings) -> Figure:
    """Draw the path and the errors of all pairs, then the worst pairs and a middling one, one a row."""
    rows = _shown_pairs(findings)
    figure = Figure(figsize=(15, 2.9 * (len(rows) + 1)), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(rows) + 1, 3, width_ratios=[2, 1, 1])
    _draw_errors(findings, figure.add_subplot(grid[0, 0]))
    _draw_path(record, findings, figure.add_subplot(grid[0, 1:]))
    for place, row in enumerate(rows, 1):
        _draw_matches(record, findings, row, figure.add_subplot(grid[place, 0]))
        pair = tuple(int(frame) for frame in findings.material.evidence.pairs[row])
        _draw_depth(
            record,
            findings,
            (pair[0], pair[1]),
            figure.add_subplot(grid[place, 1]),
            figure.add_subplot(grid[place, 2]),
        )
    return figure


def _shown_pairs(findings: Findings) -> list[int]:
    errors = np.nan_to_num(findings.verdict.given["epipolar"], nan=-1)
    if len(errors) == 0:
        return []
    order = np.argsort(-errors)
    starts = findings.material.evidence.pairs[order, 0]
    worst = order[np.sort(np.unique(starts, return_index=True)[1])[:NUM_WORST]]  # one for each first frame
    return list(dict.fromkeys([*worst.tolist(), int(order[len(order) // 2])]))


def _draw_errors(findings: Findings, axis: Axes) -> None:
    """Error of each pair over the sequence, by kind."""
    pairs = findings.material.evidence.pairs
    for kind, values in findings.verdict.given.items():
        if kind == "warp":
            starts, scale = np.array([a for a, _ in findings.material.warp_pairs]), 100.0
        else:
            starts, scale = pairs[:, 0], 1.0
        unit = "%" if kind == "warp" else "px"
        axis.plot(starts, values * scale, "o", markersize=4, label=f"{kind} [{unit}]")
    axis.set_yscale("log")
    axis.set_xlabel("first frame of the pair", fontsize=8)
    axis.set_title("errors as given", fontsize=9)
    axis.legend(fontsize=8)
    axis.tick_params(labelsize=7)


def _draw_path(record: SequenceRecord, findings: Findings, axis: Axes) -> None:
    poses = upright_poses(record)
    xy = View.of(poses).places(positions(poses))
    axis.plot(xy[:, 0], xy[:, 1], color="0.5", linewidth=1, marker="." if len(xy) < 200 else "")
    used = np.unique(findings.material.evidence.pairs)
    axis.scatter(xy[used, 0], xy[used, 1], c=used, cmap="viridis", s=12, zorder=3)
    axis.annotate("start", xy[0], fontsize=8)
    axis.set_aspect("equal", "datalim")
    axis.tick_params(labelsize=7)
    axis.set_title(f"path from above, {'metres' if record.is_metric else 'scene units'}", fontsize=9)


def _draw_matches(record: SequenceRecord, findings: Findings, row: int, axis: Axes) -> None:
    """Two images side by side; lines join matches, coloured by their error; crosses: where depth and poses put them."""
    evidence = findings.material.evidence
    a, b = (int(frame) for frame in evidence.pairs[row])
    left, right = read_frame_image(record, a), read_frame_image(record, b)
    height = max(left.shape[0], right.shape[0])
    sheet = np.zeros((height, left.shape[1] + right.shape[1], 3), np.uint8)
    sheet[: left.shape[0], : left.shape[1]] = left
    sheet[: right.shape[0], left.shape[1] :] = right
    axis.imshow(sheet, extent=(0, sheet.shape[1], height, 0))
    p, q = evidence.pixels[:, row]
    known = np.flatnonzero(np.isfinite(p[:, 0]))
    known = known[np.linspace(0, len(known) - 1, min(NUM_LINES, len(known))).astype(int)]
    errors = epipolar_errors(findings.reading, evidence)[row]
    limit = 4 * evidence.noise[row] + 1
    gap = np.full(len(known), np.nan)  # lines in one go, broken by NaN
    x = np.stack([p[known, 0], q[known, 0] + left.shape[1], gap], -1)
    y = np.stack([p[known, 1], q[known, 1], gap], -1)
    for colour, chosen in (("lime", errors[known] < limit), ("red", errors[known] >= limit)):
        axis.plot(x[chosen].ravel(), y[chosen].ravel(), color=colour, linewidth=0.5)
    if evidence.has_depth:
        put = q + reprojection_vectors(findings.reading, evidence)[0, row]
        inside = ((put >= 0) & (put < [right.shape[1], right.shape[0]])).all(-1)
        axis.plot(put[inside, 0] + left.shape[1], put[inside, 1], "x", color="yellow", markersize=3)
    error = findings.verdict.given["epipolar"][row]
    axis.set_title(
        f"frames {a} and {b}: epipolar {error:.2f} px (noise {evidence.noise[row]:.2f}); red: off by more than "
        f"{limit:.1f} px; yellow: where depth puts them",
        fontsize=8,
    )
    axis.set_xlim(0, sheet.shape[1])
    axis.set_ylim(height, 0)
    axis.set_axis_off()


def _draw_depth(
    record: SequenceRecord, findings: Findings, pair: tuple[int, int], left: Axes, right: Axes
) -> None:
    """Depth of the first frame, and how far it is from what the second one sees, or the next one with depth."""
    for axis in (left, right):
        axis.set_axis_off()
    with_depth = [frame for frame, name in enumerate(record.depth) if name]
    if pair[0] not in with_depth:
        return
    other = pair[1] if pair[1] in with_depth else next((f for f in with_depth if f > pair[0]), -1)
    views = {frame: view for frame in (pair[0], other) if frame >= 0 and (view := read_view(record, frame))}
    depth = views[pair[0]].numbers
    if (scale := DepthScale.of([depth])) is not None:
        left.imshow(colour_depth(depth, scale))
    left.set_title(f"depth of frame {pair[0]}", fontsize=8)
    if other not in views:
        return
    errors = warp_error_map(findings.reading, views, (pair[0], other))
    right.imshow(errors * 100, cmap="coolwarm", vmin=-100 * WARP_RANGE, vmax=100 * WARP_RANGE)
    middle = np.nanmedian(np.abs(errors)) if np.isfinite(errors).any() else float("nan")
    right.set_title(
        f"warped to {other}: median {middle:.2%}\nred behind, blue before what is seen there (+-{WARP_RANGE:.0%})",
        fontsize=8,
    )


class ReportWriter:
    """Collects pictures while sequences are checked, then writes the folder. Sequences with problems come first to
    have pictures once there are many.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pictures: dict[str, str] = {}

    def add(self, record: SequenceRecord, report: SequenceReport) -> None:
        """Draw a sequence, unless there are many pictures and nothing is wrong with it."""
        is_full = len(self._pictures) >= (2 * MAX_PICTURES if report.problems else MAX_PICTURES)
        if report.findings is None or is_full:
            return
        picture = BytesIO()
        sequence_figure(record, report.findings).savefig(picture, format="png")
        name = f"{len(self._pictures):03d}_{re.sub(r'[^A-Za-z0-9_.-]+', '_', record.sequence_id)[:80]}.png"
        with atomic_output(self.folder / name) as temporary:
            temporary.write_bytes(picture.getvalue())
        self._pictures[report.sequence_id] = name

    def write(self, index: str, reports: list[SequenceReport]) -> Path:
        """Write report.json and report.html; return the path of the latter."""
        facts = [_as_json(report, self._pictures.get(report.sequence_id)) for report in reports]
        document = {"index": index, "sequences": facts}
        write_text_atomically(self.folder / "report.json", json.dumps(document, indent=1) + "\n")
        target = self.folder / "report.html"
        write_text_atomically(target, self._html(index, facts))
        return target

    def _html(self, index: str, facts: list[dict[str, Any]]) -> str:
        num_bad = sum(bool(fact["problems"]) for fact in facts)
        body = [
            f"<h1>scal3r data check: {html.escape(index)}</h1>",
            f"<p>{len(facts)} sequences, {num_bad} with problems</p>",
            "<table><tr><th>sequence<th>frames<th>missing<th>pairs<th>epipolar px<th>reprojection px"
            "<th>depth warp %<th>gap<th>verdict</tr>",
        ]
        for fact in facts:
            kind = "bad" if fact["problems"] else ""
            cells = [
                html.escape(fact["sequence_id"]),
                fact["num_frames"],
                fact["num_missing"],
                fact["num_pairs"],
                _shown(fact["epipolar_px"], 1),
                _shown(fact["reprojection_px"], 1),
                _shown(fact["depth_warp"], 100),
                "-" if fact["depth_warp_gap_frames"] is None else fact["depth_warp_gap_frames"],
                html.escape(fact["verdict"]),
            ]
            body.append(f'<tr class="{kind}"><td>' + "<td>".join(map(str, cells)) + "</tr>")
        body.append("</table>")
        for fact in sorted(facts, key=lambda one: not one["problems"]):
            body.append(f"<h2>{html.escape(fact['sequence_id'])}</h2>")
            body += [f'<p class="bad">{html.escape(line)}</p>' for line in fact["problems"]]
            body += [f'<p class="note">{html.escape(line)}</p>' for line in fact["notes"]]
            if fact["picture"] is not None:
                data = base64.b64encode((self.folder / fact["picture"]).read_bytes()).decode()
                body.append(f'<img src="data:image/png;base64,{data}" alt="pairs and path">')
        head = f"<!doctype html><meta charset=utf-8><title>scal3r data check</title><style>{STYLE}</style>"
        return head + "\n".join(body) + "\n"


def _as_json(report: SequenceReport, picture: str | None) -> dict[str, Any]:
    return {
        "sequence_id": report.sequence_id,
        "num_frames": report.num_frames,
        "num_missing": report.num_missing,
        "num_pairs": report.num_pairs,
        "epipolar_px": report.errors.get("epipolar"),
        "reprojection_px": report.errors.get("reprojection"),
        "depth_warp": report.errors.get("warp"),
        "depth_warp_gap_frames": report.warp_gap,
        "verdict": report.verdict,
        "mistakes": list(report.mistakes),
        "problems": report.problems,
        "notes": report.notes,
        "picture": picture,
    }


def _shown(value: float | None, factor: float) -> str:
    return "-" if value is None else f"{value * factor:.3g}"
