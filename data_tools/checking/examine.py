"""One sequence, from its record to its report: files, numbers, then whether pixels, depth and cameras agree."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from scal3r_data_tools.checking.evidence import (
    CheckSettings,
    FrameCache,
    choose_pairs,
    collect_evidence,
    mixed_pairs,
    warp_pairs,
)
from scal3r_data_tools.checking.files import check_files, check_numbers
from scal3r_data_tools.checking.fits import half_pixel_hypothesis, measure_shift, position_jump, scale_jump
from scal3r_data_tools.checking.judge import MIN_PAIRS, Verdict, judge
from scal3r_data_tools.checking.readings import Reading, given_reading
from scal3r_data_tools.checking.scores import Material, middle
from scal3r_train.config import UserError
from scal3r_train.data.sequence import SequenceRecord

MAX_WARP_PAIRS = 24
MIXED_BELOW = 4  # with fewer pairs that match, frames from all over the sequence are tried


@dataclass(frozen=True)
class Findings:
    """The material of a verdict, for pictures."""

    reading: Reading
    material: Material
    verdict: Verdict


@dataclass(frozen=True)
class SequenceReport:
    """What was found in one sequence: lines that name a file or the sequence. Notes are no reason to fail.

    errors: median over pairs by kind (epipolar px, reprojection px, warp relative), where known; warp_gap: frames
    between the two of a warped pair; mistakes: keys of the mistakes that explain the data.
    """

    sequence_id: str
    num_frames: int
    num_missing: int = 0
    num_pairs: int = 0
    errors: dict[str, float] = field(default_factory=dict)
    warp_gap: int | None = None
    mistakes: tuple[str, ...] = ()
    is_decidable: bool = False
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    findings: Findings | None = None

    def without_findings(self) -> SequenceReport:
        """Return the same without the arrays, which a long index would pile up."""
        return replace(self, findings=None)

    @property
    def verdict(self) -> str:
        """One or two words."""
        if self.problems:
            return ", ".join(self.mistakes) if self.mistakes else f"{len(self.problems)} problems"
        return "ok" if self.is_decidable else "files ok, geometry undecidable"


def examine(record: SequenceRecord, settings: CheckSettings) -> SequenceReport:
    """Check one sequence."""
    files = check_files(record, settings.decode_every, settings.num_workers)
    problems = [*check_numbers(record), *files.problems]
    base: dict[str, Any] = {
        "sequence_id": record.sequence_id,
        "num_frames": record.num_frames,
        "num_missing": record.num_missing,
        "problems": problems,
        "notes": files.notes,
    }
    if problems or record.num_frames == 0:  # what cannot be read would only be named again
        return SequenceReport(**base)
    where = f"{record.root} ({record.sequence_id})"
    reading = given_reading(record)
    if reading is None:
        missing = "poses" if record.cam_from_world is None else "intrinsics"
        files.notes.append(f"{where}: no {missing}, so geometry is not checked")
        return SequenceReport(**base)
    try:
        material = gather(record, settings)
    except UserError as error:
        problems.append(str(error))
        return SequenceReport(**base)
    verdict = judge(reading, material, codec=record.depth_codec, is_ordered=record.is_ordered)
    mistakes, lines = _mistakes(record, reading, material, verdict)
    problems += [f"{where}: {line}" for line in lines]
    files.notes.extend(f"{where}: {line}" for line in _notes(record, reading, material, verdict))
    gaps = [b - a for a, b in material.warp_pairs]
    errors = {kind: middle(values) for kind, values in verdict.given.items()}
    return SequenceReport(
        **base,
        num_pairs=material.evidence.num_pairs or len(material.warp_pairs),
        errors={kind: value for kind, value in errors.items() if np.isfinite(value)},
        warp_gap=int(np.median(gaps)) if gaps else None,
        mistakes=mistakes,
        is_decidable=verdict.is_decidable,
        findings=Findings(reading, material, verdict),
    )


def gather(record: SequenceRecord, settings: CheckSettings) -> Material:
    """Read the frames of the pairs. Raises UserError naming a file that cannot be read."""
    cache = FrameCache(record, settings)
    pairs = choose_pairs(record, settings.num_pairs, settings.gaps)
    evidence = collect_evidence(cache, pairs)
    if evidence.num_pairs < MIXED_BELOW and record.num_frames > 2:
        evidence = collect_evidence(cache, list(dict.fromkeys([*pairs, *mixed_pairs(record)])))
    warped = warp_pairs(record, [*map(tuple, evidence.pairs.tolist())] or pairs, MAX_WARP_PAIRS)
    cache.read_views([frame for pair in warped for frame in pair])
    return Material(evidence, cache.views, warped)


def _mistakes(
    record: SequenceRecord, reading: Reading, material: Material, verdict: Verdict
) -> tuple[tuple[str, ...], list[str]]:
    """Keys and lines of what is wrong."""
    jump = scale_jump(reading, material.evidence)
    if jump and (not verdict.text or set(verdict.keys) <= {"unit"}):
        return ("scale_jump",), [jump]
    if verdict.text:
        return verdict.keys, [_with_numbers(verdict) + remedy(record.dataset, verdict.keys)]
    shift = measure_shift(reading, material.evidence) if record.is_synthetic else None
    half = half_pixel_hypothesis(shift) if shift is not None else None
    return ((half.key,), [half.text]) if half is not None else ((), [])


def remedy(dataset: str, keys: tuple[str, ...]) -> str:
    """Return what to index `posed` sequences with to undo a mistake; empty for others, and where options cannot."""
    if dataset != "posed" or len(keys) != 1:
        return ""
    parts = keys[0].split("+")
    if not set(parts) <= {"inverted", "opengl", "ned", "flu"}:
        return ""
    options = ["the other poses_are=" if part == "inverted" else f"camera_axes={part}" for part in parts]
    return f"; index again with {' and '.join(options)}"


def _with_numbers(verdict: Verdict) -> str:
    values = ", ".join(_number(kind, middle(values)) for kind, values in verdict.given.items())
    return f"{verdict.text} [as given: {values}]"


def _number(kind: str, value: float) -> str:
    if not np.isfinite(value):
        return f"{kind} unknown"
    return f"{kind} {value:.2%}" if kind == "warp" else f"{kind} {value:.2f} px"


def _notes(record: SequenceRecord, reading: Reading, material: Material, verdict: Verdict) -> list[str]:
    """What is worth knowing and no reason to fail."""
    notes = [jump] if record.is_ordered and (jump := position_jump(reading)) else []
    if not verdict.is_decidable:
        notes.append(
            f"geometry is undecidable: {material.evidence.num_pairs} pairs of frames show enough of the same, "
            f"{MIN_PAIRS} are needed"
        )
        return notes
    if verdict.text:
        return notes
    open_questions = list(verdict.indistinct)
    if not material.warp_pairs and not material.evidence.has_depth:
        open_questions.append("the unit of length is wrong (there is no depth)")
    shift = measure_shift(reading, material.evidence)
    if shift is None or not shift.is_known:
        open_questions.append("pixel centres are half a pixel off")
    elif not record.is_synthetic and half_pixel_hypothesis(shift) is not None:
        notes.append(f"the principal point seems off by ({shift.shift[0]:.2f}, {shift.shift[1]:.2f}) pixels")
    if open_questions:
        notes.append("undecidable from these data, whether " + "; or ".join(open_questions))
    return notes
