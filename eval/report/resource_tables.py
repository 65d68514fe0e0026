"""What reconstructions took: by method, and by length of the video; then what the paper says of its own."""

from __future__ import annotations

from collections.abc import Sequence

from scal3r_eval.measures import POSES
from scal3r_eval.report.cited import RESOURCES, RESOURCES_OF, RUNTIME_RPE_M, RUNTIME_S
from scal3r_eval.report.text import BESIDE_OURS, CITED, Cell, Table, cited_cells
from scal3r_eval.results import EvalResults, Resources, SequenceScores
from scal3r_eval.summary import value_of

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
