"""The tables of a report, as cells: scores, what reconstructions took, runtime by length, the paper's beside them.

`text` and `page` give them their form.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from scal3r_eval.measures import BY_SEQUENCE, POSES, Measure
from scal3r_eval.report.cited import (
    RESOURCES,
    RESOURCES_OF,
    RUNTIME_RPE_M,
    RUNTIME_S,
    ablation_table,
    cited_metrics,
    cited_sequence_metrics,
    cited_table,
)
from scal3r_eval.report.text import BESIDE_OURS, CITED, Cell, Table, cited_cell, cited_cells
from scal3r_eval.results import EvalResults, Resources, SequenceScores, Summary
from scal3r_eval.summary import mean_over_runs, value_of

GIB = 1 << 30
RPE = next(measure for measure in POSES if measure.key == "rpe_translation_m")


def resource_table(results: EvalResults) -> Table:
    """Return what the methods took for a sequence, the mean over whole sequences and runs, then the paper's means."""
    rows: list[tuple[Cell, ...]] = []
    by_method = {
        method: [
            one
            for name, runs in sequences.items()
            for one in runs
            if one.resources is not None and not results.sequences[name].is_cut
        ]
        for method, sequences in results.scores.items()
    }
    every = [_resources(one) for found in by_method.values() for one in found]
    says_device = any(one.device is not None for one in every)
    for method, found in by_method.items():
        if not found:
            continue
        frames = sum(one.num_frames for one in found)
        seconds = sum(_resources(one).seconds for one in found)
        devices = dict.fromkeys(_resources(one).device or "-" for one in found)
        rows.append(
            (
                Cell(method),
                Cell(f"{frames / len(found):.1f}"),
                Cell(f"{seconds / len(found):.2f}"),
                Cell(f"{frames / max(seconds, 1e-9):.2f}"),
                Cell(_peak(found, "host")),
                Cell(_peak(found, "device")),
                Cell(str(max(_resources(one).num_processes for one in found))),
                *([Cell("; ".join(devices))] if says_device else []),
            )
        )
    if rows and results.cited == RESOURCES_OF:
        for name in BESIDE_OURS:
            memory, mean_seconds, fps = RESOURCES[name]
            texts = ("-", f"{mean_seconds:.2f}", f"{fps:.2f}", "-", f"{memory:.2f} GB", "1")
            device = ("RTX 4090",) if says_device else ()
            title = f"{name} ({CITED}; KITTI 03, 04, 10 on an RTX 4090)"
            rows.append(cited_cells(title, *texts, *device))
    head = (
        "method",
        "frames/sequence",
        "seconds/sequence",
        "frames/s",
        "peak host GiB",
        "peak device GiB",
        "processes",
        *(["device"] if says_device else []),
    )
    note = "Reconstruction alone; means over whole sequences that did not fail, cuts left out."
    if any(one.device is None for one in every):
        note += f" Scenes that do not say their device: the report was written on {results.device}."
    return Table("Resources", head, tuple(rows), note)


def runtime_table(results: EvalResults) -> Table:
    """Return time, memory and local accuracy by length of the video, shortest first, then the paper's on KITTI."""
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
            Cell(RPE.text(value_of(one, RPE.key))),
            Cell(_peak([one], "device" if "device" in _resources(one).peak_memory_bytes else "host")),
        )
        for one in found
    ]
    if rows and results.cited == RESOURCES_OF:
        rpe = "-".join(f"{value:.2f}" for value in RUNTIME_RPE_M)
        for frames, seconds in RUNTIME_S.items():
            texts = (str(frames), f"{seconds:.2f}", f"{frames / seconds:.2f}", rpe, "-")
            rows.append(cited_cells(f"Scal3R ({CITED})", "a sequence of its own", *texts))
    head = ("method", "sequence", "frames", "seconds", "frames/s", "RPE (m)", "peak GiB")
    return Table("Runtime against length", head, tuple(rows))


def _resources(scores: SequenceScores) -> Resources:
    assert scores.resources is not None, "chosen by it"
    return scores.resources


def _peak(found: Sequence[SequenceScores], kind: str) -> str:
    """Return the most memory of a kind in GiB."""
    sizes = [_resources(one).peak_memory_bytes.get(kind) for one in found]
    known = [size for size in sizes if size is not None]
    return f"{max(known) / GIB:.2f}" if known else "-"


def all_tables(results: EvalResults) -> list[Table]:
    """Return the tables of a report in their order; those without rows are left out."""
    tables = [
        summary_table(results),
        *(sequence_table(results, measure) for measure in BY_SEQUENCE),
        resource_table(results),
        runtime_table(results),
        cited_table(results.cited),
        ablation_table(results.cited),
        failure_table(results),
    ]
    return [table for table in tables if table.rows]


def summary_table(results: EvalResults) -> Table:
    """Return one row a measure, one column a method, then the paper's numbers."""
    methods = list(results.summaries)
    cited = cited_metrics(results.cited)
    beside = [name for name in BESIDE_OURS if name in cited]
    rows = []
    for measure in results.measures:
        summaries = [results.summaries[method].get(measure.key) for method in methods]
        if not any(summaries):
            continue
        means = [None if one is None else one.mean for one in summaries]
        best = best_of(means, measure)
        ours = [
            Cell(measure.text(mean), is_best, detail=_detail(summary, measure))
            for mean, is_best, summary in zip(means, best, summaries, strict=True)
        ]
        theirs = [cited_cell(cited[name].get(measure.key)) for name in beside]
        rows.append((Cell(measure.title), *ours, *theirs))
    covered = [_coverage(results, sequences.items()) for sequences in results.scores.values()]
    is_partial = any(share is not None and share < 1 for share in covered)
    if is_partial:
        rows.append(
            (
                Cell("frames with a pose"),
                *(Cell(_percent(share)) for share in covered),
                *(cited_cell(None) for _ in beside),
            )
        )
    num = sum(not facts.is_cut for facts in results.sequences.values())
    note = f"Means over {num} sequence{'s' if num > 1 else ''}. Best of the methods run in bold."
    if any(cell.detail.startswith("[") for row in rows for cell in row):
        note += " In brackets 95 % intervals, by resampling sequences and runs."
    if any(one.num_failures for measures in results.summaries.values() for one in measures.values()):
        note += (
            " A sequence that a method failed on, or where it lacks a measure that others have there, counts with the "
            "worst valid score of any method on any sequence."
        )
    if is_partial:
        note += (
            " Methods with poses on some frames are scored on these alone: their RPE is over neighbouring frames that "
            "both have a pose. Failed sequences do not count in the share."
        )
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
        covered = [_coverage(results, [(name, one)]) for one in runs]
        texts = [
            "failed"
            if value is None and any(run.failure or measure.part in run.partial_failures for run in one)
            else measure.text(value)
            for value, one in zip(values, runs, strict=True)
        ]
        rows.append(
            (
                Cell(name),
                Cell(str(facts.num_frames)),
                Cell(f"{facts.path_length_m:.4g}"),
                *(
                    Cell(
                        text,
                        is_best,
                        detail="" if share in (None, 1) else f"({_percent(share)} of the frames)",
                    )
                    for text, is_best, share in zip(texts, best, covered, strict=True)
                ),
                *(cited_cell(cited[name].get(other, {}).get(measure.key)) for other in beside),
            )
        )
    head = ("sequence", "frames", "path (m)", *methods, *(f"{name} ({CITED})" for name in beside))
    return Table(f"{measure.title} by sequence", head, tuple(rows) if methods else ())


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


def _coverage(results: EvalResults, scored: Iterable[tuple[str, tuple[SequenceScores, ...]]]) -> float | None:
    """Return the share of the frames with a true pose that a method has one of; None where it failed on all.

    `scored`: names of sequences with the method's runs on them; cuts and failures do not count.
    """
    poses = frames = 0
    for name, runs in scored:
        facts = results.sequences[name]
        valid = [one for one in runs if one.failure is None and not facts.is_cut]
        poses += sum(one.num_poses for one in valid)
        frames += len(valid) * facts.num_true_poses
    return poses / frames if frames else None


def _percent(share: float | None) -> str:
    """Return a share as it is printed; rounded down, so that only all is 100."""
    return "-" if share is None else f"{math.floor(1000 * share) / 10:.1f} %"


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
