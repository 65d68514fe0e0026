"""Writes report.md, report.tex and report.html from results.json and the files beside it."""

from __future__ import annotations

from pathlib import Path

from scal3r_eval.report.page import page
from scal3r_eval.report.protocol import protocol_line
from scal3r_eval.report.tables import all_tables
from scal3r_eval.report.text import latex, markdown
from scal3r_eval.results import EvalResults
from scal3r_train.config import write_text_atomically

MARKDOWN_NAME, LATEX_NAME, HTML_NAME = "report.md", "report.tex", "report.html"


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
