"""scal3r data check: are a dataset's files and numbers what its index says, and if not, what is the likely mistake?

Per sequence: every file exists and decodes, sizes are those of the index, rotations, cameras and depths are plausible,
time increases, no frame appears twice (checking/files.py); pixels, depth, poses and intrinsics agree
over pairs of frames (checking/judge.py). docs/data/check.md says what is measured, what is named and what is
undecidable.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext

import cv2
import numpy as np
import torch
from rich import box
from rich.table import Table

from scal3r_data_tools.checking.evidence import CheckSettings
from scal3r_data_tools.checking.examine import SequenceReport, examine
from scal3r_data_tools.checking.report import ReportWriter
from scal3r_data_tools.jobs import progress
from scal3r_train.config import load_config
from scal3r_train.data.index.index import SequenceIndex, load_index
from scal3r_train.notes import new_console, printable
from scal3r_train.parallel.claimed_output import claimed

LOG_WIDTH = 120  # where there is no terminal to ask


def main(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> int:
    """Check the sequences of an index and print a table and the problems; returns 0 if there are none, else 1.

    `overrides` are settings (CheckSettings) as key=value. Raises UserError when the index itself or a setting cannot
    be read.
    """
    settings = load_config(CheckSettings, None, overrides)
    torch.set_num_threads(1)  # many small tensors: threads would only wait for one another
    cv2.setNumThreads(1)  # frames are read in threads of our own
    index = load_index(path)
    num = min(settings.max_sequences or len(index), len(index))
    rows = np.unique(np.linspace(0, len(index) - 1, num).astype(int)).tolist()
    report = settings.report
    with nullcontext() if report is None else claimed(report, "report", is_folder=True):
        return _check(index, rows, settings, str(path))


def _check(index: SequenceIndex, rows: Sequence[int], settings: CheckSettings, path: str) -> int:
    writer = ReportWriter(settings.report) if settings.report is not None else None
    reports = []
    for row in progress(rows, len(rows), "check"):
        record = index.unchecked(row)
        report = examine(record, settings)
        if writer is not None:
            writer.add(record, report)
        reports.append(report.without_findings())
    _print_reports(reports)
    if writer is not None:
        new_console().print(
            f"report: {writer.write(path, reports)}", soft_wrap=True, markup=False, highlight=False
        )
    return 1 if any(report.problems for report in reports) else 0


def _print_reports(reports: list[SequenceReport]) -> None:
    console = new_console(width=None if sys.stdout.isatty() else LOG_WIDTH)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("sequence", overflow="fold")
    for name in ("frames", "missing", "pairs", "epipolar\npx", "reproj.\npx", "depth\nwarp", "gap"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for report in reports:
        table.add_row(*map(printable, cells(report)))
    console.print(table)
    for problem in (problem for report in reports for problem in report.problems):
        console.print(printable(problem), soft_wrap=True, markup=False, highlight=False)
    for note in (note for report in reports for note in report.notes):
        console.print(f"note: {printable(note)}", soft_wrap=True, markup=False, highlight=False)
    num_bad = sum(bool(report.problems) for report in reports)
    num_frames = sum(report.num_frames for report in reports)
    console.print(f"{len(reports)} sequences, {num_frames} frames: {num_bad} sequences with problems")


def cells(report: SequenceReport) -> list[str]:
    """One row of the table."""
    errors = report.errors
    return [
        report.sequence_id,
        str(report.num_frames),
        str(report.num_missing),
        str(report.num_pairs),
        f"{errors['epipolar']:.2f}" if "epipolar" in errors else "-",
        f"{errors['reprojection']:.2f}" if "reprojection" in errors else "-",
        f"{errors['warp']:.3%}" if "warp" in errors else "-",
        str(report.warp_gap) if report.warp_gap and "warp" in errors else "-",
        report.verdict,
    ]
