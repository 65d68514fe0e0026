"""What an evaluation leaves for others: scores.json of each sequence, results.json of the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from scal3r_eval.measures import SCORES, Measure
from scal3r_train.config import StrictModel, UserError, write_text_atomically

SCORES_NAME, RESULTS_NAME, ALIGNED_NAME, POINT_ERRORS_NAME = (
    "scores.json",
    "results.json",
    "aligned.tum",
    "point_errors.jpg",
)

Document = TypeVar("Document", bound="ScoredFile")


class ScoredFile(StrictModel):
    """A JSON document with a version."""

    format_version: Literal[1] = 1

    def write(self, path: Path) -> None:
        """Write it, whole or not at all."""
        write_text_atomically(path, self.model_dump_json(indent=1) + "\n")


class Resources(StrictModel):
    """What a reconstruction took: seconds of all its stages, bytes of the process that used most.

    `device` is what it ran on, in words; None where the scene does not say.
    """

    seconds: float
    fps: float
    num_processes: int
    peak_memory_bytes: dict[str, int]
    device: str | None = None


class SequenceScores(ScoredFile):
    """scores.json: one run of one method on one sequence.

    `metrics` are the fields of `TrajectoryScore`, then of the point and depth scores where there are any, then those of
    other packages; None where a measure is not defined, as RRE on a short path. `failure` says why there are no scores,
    `partial_failures` why those of "points", "depth" or "added" are not in `metrics` although the others are.
    `identity` is all that they depend on: while it stays, they are not computed again.
    """

    identity: dict[str, Any]
    method: str
    run: int
    sequence: str
    num_frames: int
    num_poses: int  # of those frames that have a true one
    metrics: dict[str, float | None] = {}
    resources: Resources | None = None
    notes: dict[str, Any] = {}
    failure: str | None = None
    partial_failures: dict[Literal["points", "depth", "added"], str] = {}

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why scores are missing, all of them or those of points or depth; empty when none is."""
        whole = () if self.failure is None else (self.failure,)
        return (*whole, *(f"no {part}: {reason}" for part, reason in self.partial_failures.items()))


class Summary(StrictModel):
    """One measure of one method over the sequences of a benchmark.

    `mean` counts failed sequences with the worst valid score (`metrics.failures`); `mean_of_valid` leaves them out.
    `low`, `high`: 95 % interval of the mean by resampling sequences and runs; None with one of each.
    """

    mean: float
    mean_of_valid: float | None
    low: float | None
    high: float | None
    num_sequences: int
    num_failures: int


class SequenceFacts(StrictModel):
    """A sequence as it was run; `is_cut`: for the runtime against length alone, it counts in no mean."""

    is_cut: bool = False
    num_frames: int
    num_true_poses: int
    frames_sha256: str
    path_length_m: float


class RunFacts(StrictModel):
    """Where one run of a method is from: its folder, and the checkpoint's hash or what else names it."""

    folder: str
    source: str
    checkpoint_sha256: str | None = None


class EvalResults(ScoredFile):
    """results.json; by method and by sequence, one entry of `scores` for each run.

    `added_measures` are those of other packages, written down so that a report needs none of them.
    """

    created: str
    code_version: str
    recipe: dict[str, Any]
    device: str
    num_processes: int
    missing: tuple[str, ...]
    sequences: dict[str, SequenceFacts]
    runs: dict[str, tuple[RunFacts, ...]]
    summaries: dict[str, dict[str, Summary]]
    scores: dict[str, dict[str, tuple[SequenceScores, ...]]]
    failures: tuple[dict[str, Any], ...]
    added_measures: tuple[Measure, ...] = ()

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The rows of its tables: ours, then those of other packages."""
        return (*SCORES, *self.added_measures)

    @property
    def benchmark(self) -> str:
        """Title of the benchmark."""
        return str(self.recipe["benchmark"]["name"])

    @property
    def cited(self) -> str | None:
        """Name of the paper's numbers for it."""
        name = self.recipe["benchmark"]["cited"]
        return None if name is None else str(name)


def read_scored(path: Path, kind: type[Document]) -> Document:
    """Return a document that `write` wrote. Raises UserError when it is missing, damaged or of another version."""
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError):
        raise UserError(
            f"{path} is missing, damaged or of another version; run `scal3r eval` again"
        ) from None


def read_scores_if_equal(path: Path, identity: dict[str, Any]) -> SequenceScores | None:
    """Return the scores of a sequence if they are complete, without any failure, and depend on the same; else None."""
    if not path.is_file():
        return None
    try:
        scores = read_scored(path, SequenceScores)
    except UserError:
        return None
    return scores if scores.identity == identity and not scores.reasons else None
