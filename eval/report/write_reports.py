"""Writes report.md, report.tex and report.html from results.json and the files beside it.

Each states the protocol in one line: numbers without it cannot be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scal3r_eval.recipe import PointProtocol, ProtocolSettings, SequenceSettings
from scal3r_eval.report.page import page
from scal3r_eval.report.tables import all_tables
from scal3r_eval.report.text import latex, markdown
from scal3r_eval.results import EvalResults
from scal3r_train.config import write_text_atomically

MARKDOWN_NAME, LATEX_NAME, HTML_NAME = "report.md", "report.tex", "report.html"


def protocol_line(recipe: Mapping[str, Any]) -> str:
    """Return frames, sizes, chunks, alignment and thresholds of a resolved evaluation recipe."""
    frames = SequenceSettings.model_validate(recipe["sequences"])
    protocol = ProtocolSettings.model_validate(recipe["protocol"])
    parts = [_frames(frames), _size(protocol), _chunks(protocol), f"poses aligned by {protocol.align}"]
    if protocol.points is not None:
        parts.append(_points(protocol.points))
    if protocol.depth is not None:
        parts.append(f"depth scaled by medians {protocol.depth.replace('_', ' ')}")
    return f"Protocol: {'; '.join(parts)}."


def _frames(frames: SequenceSettings) -> str:
    text = "every frame" if frames.stride == 1 else f"every {frames.stride}-th frame"
    if frames.start or frames.stop is not None:
        text += f" from {frames.start}" + ("" if frames.stop is None else f" to before {frames.stop}")
    return text if frames.max_frames is None else f"{text}, at most {frames.max_frames}"


def _size(protocol: ProtocolSettings) -> str:
    if protocol.image_hw is not None:
        return f"images of {protocol.image_hw[0]} x {protocol.image_hw[1]} (H x W)"
    if protocol.resize is not None:
        return f"images with a {protocol.resize.kind.replace('_', ' ')} of {protocol.resize.size}"
    return f"image size of {protocol.reconstruction or 'the reconstruction recipe'}"


def _chunks(protocol: ProtocolSettings) -> str:
    if protocol.chunk_size is None or protocol.overlap is None:
        return f"chunks of {protocol.reconstruction or 'the reconstruction recipe'}"
    return f"chunks of {protocol.chunk_size} frames, overlap {protocol.overlap}"


def _points(points: PointProtocol) -> str:
    text = f"F1 at {points.threshold:g} m, one point in {points.voxel_size:g} m"
    if points.max_depth is not None:
        text += f", within {points.max_depth:g} m of a true camera"
    return text if points.icp is None else f"{text}, after ICP ({points.icp})"


def write_reports(output_dir: Path, results: EvalResults) -> None:
    """Write the three reports of an evaluation into its folder."""
    tables = all_tables(results)
    lines = [
        f"Made {results.created} by scal3r {results.code_version} on {results.device}, "
        f"{results.num_processes} process{'es' if results.num_processes > 1 else ''}."
    ]
    lines.append(protocol_line(results.recipe))
    missing = [f"Left out: {line}" for line in results.missing]
    text = markdown(f"{results.benchmark}: evaluation", [*lines, *missing], tables)
    write_text_atomically(output_dir / MARKDOWN_NAME, text)
    write_text_atomically(output_dir / LATEX_NAME, latex(tables))
    write_text_atomically(output_dir / HTML_NAME, page(output_dir, results, lines, tables))
