"""The tables of a report, as plain cells; `text` and `page` give them their form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scal3r_eval.cited import RESOURCES, RUNTIME_S, cited_metrics, cited_sequence_metrics
from scal3r_eval.measures import BY_SEQUENCE, SCORES, Measure
from scal3r_eval.results import EvalResults, Resources, SequenceScores, Summary
from scal3r_eval.summary import mean_over_runs, value_of

BESIDE_OURS = ("Scal3R", "VGGT-Long")  # the paper's method and its baseline, in columns of their own
CITED = "cited"
GIB = 1 << 30


@dataclass(frozen=True)
class Cell:
    """A cell; `is_best` is set in bold, `is_cited` is somebody else's number; `detail` stands behind, smaller."""

    text: str
    is_best: bool = False
    is_cited: bool = False
    detail: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its title; the first column names the row. `note` stands below."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def all_tables(results: EvalResults) -> list[Table]:
    """Return the tables of a report in their order; those without rows are left out."""
    tables = [
        summary_table(results),
        *(sequence_table(results, measure) for measure in BY_SEQUENCE),
        resource_table(results),
        runtime_table(results),
        cited_table(results.cited),
        failure_table(results),
    ]
    return [table for table in tables if table.rows]


def summary_table(results: EvalResults) -> Table:
    """Return one row a measure, one column a method, then the paper's numbers."""
    methods = list(results.summaries)
    cited = cited_metrics(results.cited)
    beside = [name for name in BESIDE_OURS if name in cited]
    rows = []
    for measure in SCORES:
        summaries = [results.summaries[method].get(measure.key) for method in methods]
        if not any(summaries):
            continue
        means = [None if one is None else one.mean for one in summaries]
        best = best_of(means, measure)
        ours = [
            Cell(measure.text(mean), is_best, detail=_detail(summary, measure))
            for mean, is_best, summary in zip(means, best, summaries, strict=True)
        ]
        theirs = [_cited_cell(cited[name].get(measure.key)) for name in beside]
        rows.append((Cell(measure.title), *ours, *theirs))
    num = sum(not facts.is_cut for facts in results.sequences.values())
    note = f"Means over {num} sequence{'s' if num > 1 else ''}. Best of the methods run in bold."
    if any(cell.detail.startswith("[") for row in rows for cell in row):
        note += " In brackets 95 % intervals, by resampling sequences and runs."
    if results.failures:
        note += " A failed sequence counts with the worst valid score of any method on any sequence."
    if results.missing:
        note += f" {len(results.missing)} sequences of the protocol were left out."
    if beside:
        note += (
            " Columns marked cited are the paper's numbers, on its own machines and its own choice of frames."
        )
    head = ("", *methods, *(f"{name} ({CITED})" for name in beside))
    return Table(results.benchmark, head, tuple(rows), note)


def sequence_table(results: EvalResults, measure: Measure) -> Table:
    """Return one row a sequence, one column a method, for one measure."""
    methods = [method for method in results.scores if measure.key in results.summaries[method]]
    cited = {name: cited_sequence_metrics(results.cited, name) for name in results.sequences}
    beside = [name for name in BESIDE_OURS if any(measure.key in one.get(name, {}) for one in cited.values())]
    rows = []
    for name, facts in results.sequences.items():
        if facts.is_cut:
            continue
        runs = [results.scores[method][name] for method in methods]
        values = [mean_over_runs(one, measure.key) for one in runs]
        best = best_of(values, measure)
        texts = [
            "failed" if value is None and any(run.failure for run in one) else measure.text(value)
            for value, one in zip(values, runs, strict=True)
        ]
        rows.append(
            (
                Cell(name),
                Cell(str(facts.num_frames)),
                Cell(f"{facts.path_length_m:.4g}"),
                *(Cell(text, is_best) for text, is_best in zip(texts, best, strict=True)),
                *(_cited_cell(cited[name].get(other, {}).get(measure.key)) for other in beside),
            )
        )
    head = ("sequence", "frames", "path (m)", *methods, *(f"{name} ({CITED})" for name in beside))
    return Table(f"{measure.title} by sequence", head, tuple(rows) if methods else ())


def resource_table(results: EvalResults) -> Table:
    """Return what the methods took over all sequences, then the paper's own resources."""
    rows: list[tuple[Cell, ...]] = []
    for method, sequences in results.scores.items():
        found = [one for runs in sequences.values() for one in runs if one.resources is not None]
        if found:
            frames, seconds = (
                sum(one.num_frames for one in found),
                sum(_resources(one).seconds for one in found),
            )
            rows.append(
                (
                    Cell(method),
                    Cell(str(frames)),
                    Cell(f"{seconds:.1f}"),
                    Cell(f"{frames / max(seconds, 1e-9):.2f}"),
                    Cell(_peak(found, "host")),
                    Cell(_peak(found, "device")),
                    Cell(str(max(_resources(one).num_processes for one in found))),
                )
            )
    if rows and results.cited == "kitti":
        for name in BESIDE_OURS:
            memory, seconds, fps = RESOURCES[name]
            texts = ("-", f"{seconds:.2f}", f"{fps:.2f}", "-", f"{memory:.2f} GB", "1")
            rows.append(
                (
                    Cell(f"{name} ({CITED}; KITTI 03, 04, 10 on an RTX 4090)", is_cited=True),
                    *(Cell(text, is_cited=True) for text in texts),
                )
            )
    head = ("method", "frames", "seconds", "frames/s", "peak host GiB", "peak device GiB", "processes")
    return Table("Resources", head, tuple(rows), f"Reconstruction alone, on {results.device}.")


def runtime_table(results: EvalResults) -> Table:
    """Return time, memory and local accuracy by length of the video, shortest first, then the paper's times."""
    found = sorted(
        (
            one
            for sequences in results.scores.values()
            for runs in sequences.values()
            for one in runs
            if one.resources is not None
        ),
        key=lambda one: (one.method, one.num_frames, one.sequence, one.run),
    )
    rows: list[tuple[Cell, ...]] = [
        (
            Cell(one.method),
            Cell(one.sequence),
            Cell(str(one.num_frames)),
            Cell(f"{_resources(one).seconds:.2f}"),
            Cell(f"{_resources(one).fps:.2f}"),
            Cell(f"{value_of(one, 'rpe_translation_m') or 0:.3f}"),
            Cell(_peak([one], "device" if "device" in _resources(one).peak_memory_bytes else "host")),
        )
        for one in found
    ]
    if rows and results.cited is not None:
        for frames, seconds in RUNTIME_S.items():
            texts = (
                "one of its sequences",
                str(frames),
                f"{seconds:.2f}",
                f"{frames / seconds:.2f}",
                "-",
                "-",
            )
            rows.append(
                (Cell(f"Scal3R ({CITED})", is_cited=True), *(Cell(text, is_cited=True) for text in texts))
            )
    head = ("method", "sequence", "frames", "seconds", "frames/s", "RPE (m)", "peak GiB")
    return Table("Runtime against length", head, tuple(rows))


def cited_table(benchmark: str | None) -> Table:
    """Return all that the paper states for a benchmark."""
    cited = cited_metrics(benchmark)
    measures = [measure for measure in SCORES if any(measure.key in row for row in cited.values())]
    rows = [
        (
            Cell(name, is_cited=True),
            *(_cited_cell(row.get(measure.key)) for measure in measures),
        )
        for name, row in cited.items()
    ]
    head = ("method", *(measure.title for measure in measures))
    return Table(f"The paper's numbers ({CITED}, not measured here)", head, tuple(rows))


def failure_table(results: EvalResults) -> Table:
    """Return the failures one by one."""
    rows = [
        (
            Cell(str(one["method"])),
            Cell(str(one["run"])),
            Cell(str(one["sequence"])),
            Cell(str(one["reason"])),
        )
        for one in results.failures
    ]
    return Table("Failures", ("method", "run", "sequence", "reason"), tuple(rows))


def best_of(values: Sequence[float | None], measure: Measure) -> list[bool]:
    """Return which values are printed as the best one is; none where there is nothing to tell apart."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return [False] * len(values)
    best = measure.text(min(known) if measure.better == "lower" else max(known))
    is_best = [value is not None and measure.text(value) == best for value in values]
    return is_best if sum(is_best) < len(known) else [False] * len(values)


def _cited_cell(value: float | None) -> Cell:
    """Return somebody else's number with the digits that they give: two, or three where they are needed."""
    if value is None:
        return Cell("-", is_cited=True)
    return Cell(f"{value:.2f}" if round(value, 2) == value else f"{value:g}", is_cited=True)


def _detail(summary: Summary | None, measure: Measure) -> str:
    """Return interval and failures."""
    if summary is None:
        return ""
    parts = []
    if summary.low is not None and summary.high is not None:
        parts.append(f"[{measure.text(summary.low)}, {measure.text(summary.high)}]")
    if summary.num_failures:
        parts.append(f"({summary.num_failures} failed; {measure.text(summary.mean_of_valid)} without)")
    return " ".join(parts)


def _resources(scores: SequenceScores) -> Resources:
    assert scores.resources is not None, "chosen by it"
    return scores.resources


def _peak(found: Sequence[SequenceScores], kind: str) -> str:
    """Return the most memory of a kind in GiB."""
    sizes = [_resources(one).peak_memory_bytes.get(kind) for one in found]
    known = [size for size in sizes if size is not None]
    return f"{max(known) / GIB:.2f}" if known else "-"
