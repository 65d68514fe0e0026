"""The report of a check: report.html with its pictures inside, the same pictures as PNG, and report.json."""

from __future__ import annotations

import base64
import html
import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any

from scal3r_data_tools.checking.examine import SequenceReport
from scal3r_data_tools.checking.pictures import sequence_figure
from scal3r_train.config import atomic_output, write_text_atomically
from scal3r_train.data.sequence import SequenceRecord

MAX_PICTURES = 40
STYLE = """
body { font: 14px sans-serif; margin: 2em auto; max-width: 1300px; color: #222 }
table { border-collapse: collapse } td, th { border: 1px solid #ccc; padding: 3px 8px; text-align: left }
.bad { color: #b00020 } .note { color: #666 } img { width: 100% }
"""


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
