"""`scal3r eval`: predict, score, report; every stage leaves files and runs only if these do not fit.

Under torchrun all processes reconstruct each sequence together, as `scal3r reconstruct` does; the main process scores
and writes. Array jobs split the sequences instead (`protocol.share`), and a last run without it puts them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from pathlib import Path

from scal3r_eval.added_metrics import added_measures
from scal3r_eval.code_identity import CODE_VERSION
from scal3r_eval.measures import POSES, SCORES
from scal3r_eval.methods import Run, runs_of
from scal3r_eval.predict_sequence import Predictor
from scal3r_eval.recipe import EvalRecipe, Scal3RMethod, load_eval_recipe
from scal3r_eval.report.tables import summary_table
from scal3r_eval.report.text import plain
from scal3r_eval.report.write_reports import write_reports
from scal3r_eval.results import RESULTS_NAME, EvalResults, RunFacts, SequenceFacts, SequenceScores
from scal3r_eval.score_sequence import score_sequence, write_truth
from scal3r_eval.sequences import EvalSequence, Missing, choose_sequences, provide_index
from scal3r_eval.summary import asked_measures, summarise
from scal3r_train.config import EXIT_USER_ERROR, UserError, dump_yaml, write_text_atomically, writing
from scal3r_train.notes import answer, tell
from scal3r_train.parallel.claimed_output import remove_leftovers_within
from scal3r_train.parallel.collectives import entered_on_main, from_main, raise_on_all_ranks
from scal3r_train.parallel.failure_propagation import failing_together
from scal3r_train.parallel.folder_lock import LOCK_NAME, lock_inside, owned
from scal3r_train.parallel.process import current_process, device_name, joined_processes, launched_rank
from scal3r_train.shown_progress import Pace

RECIPE_NAME = "recipe.yaml"
SHARE_LOCK = f"{LOCK_NAME}_share"
Scores = dict[str, dict[str, tuple[SequenceScores, ...]]]


def main(recipe_path: Path, overrides: Sequence[str]) -> int:
    """Evaluate as the recipe says and return the exit code; 0 also when methods failed on some sequences.

    Raises:
        UserError: on the main process, for whatever the user can fix; after the reports are written, when a method
            failed on all sequences.
    """
    with failing_together():
        try:
            recipe = load_eval_recipe(recipe_path, overrides)
            with joined_processes() as process:
                results = evaluate(recipe)
        except UserError:
            if launched_rank() == 0:
                raise
            return EXIT_USER_ERROR
        if process.is_main:
            answer(*_outcome(recipe, results).splitlines())
            if results is not None:
                _refuse_if_all_failed(results)
    return 0


def evaluate(recipe: EvalRecipe) -> EvalResults | None:
    """Run all stages; every process must call this.

    Returns:
        The results on the main process, written to output_dir with their reports; None on the others, and with
        `protocol.share`, which leaves scores alone.

    Raises:
        UserError: the recipe, a checkpoint or all of the data cannot be used, or another evaluation writes the same;
            raised on all processes.
    """
    with entered_on_main(lambda: _owned(recipe)):
        return _evaluate_owned(recipe)


def _owned(recipe: EvalRecipe) -> AbstractContextManager[None]:
    """Own the run, or with `protocol.share` that share: then no run of the whole, or otherwise divided, may go on."""
    folder, share = recipe.output_dir, recipe.protocol.share
    what = f"output_dir {folder}"
    if share is None:
        return owned(lock_inside(folder), what, lambda: folder.glob(f"{SHARE_LOCK}_*"))
    first, step = share
    same = f"{SHARE_LOCK}_*_of_{step}"

    def others() -> list[Path]:
        shares = [path for path in folder.glob(f"{SHARE_LOCK}_*_of_*") if not path.match(same)]
        return [lock_inside(folder), *shares]

    return owned(folder / f"{SHARE_LOCK}_{first}_of_{step}", f"share {first} of {step} in {folder}", others)


def _evaluate_owned(recipe: EvalRecipe) -> EvalResults | None:
    index_path = from_main(lambda: _prepared(recipe))
    with raise_on_all_ranks():
        runs = runs_of(recipe)
        added_measures(recipe.protocol.metrics)  # a name that is not installed is said before hours of work
        sequences, missing = choose_sequences(recipe, index_path)
    if recipe.protocol.share is not None:
        first, step = recipe.protocol.share
        sequences = sequences[first::step]
    # All checkpoints and recipes are looked at before hours of work with the first.
    predictors = {
        run.folder: Predictor(run, recipe) for run in runs if isinstance(run.settings, Scal3RMethod)
    }
    if current_process().is_main:
        _say_what_is_missing(missing)
    scores: Scores = {run.method: {} for run in runs}
    # Cut sequences are for what a reconstruction takes, which others do not say.
    work = {
        run.folder: [one for one in sequences if one.length is None or run.folder in predictors]
        for run in runs
    }
    pace = Pace(sum(map(len, work.values())))
    for run in runs:
        predictor, own = predictors.get(run.folder), work[run.folder]
        for number, sequence in enumerate(own):
            failure = None if predictor is None else predictor.predict(sequence)
            with raise_on_all_ranks():
                if current_process().is_main:
                    found = score_sequence(run, sequence, recipe, failure)
                    scores[run.method][sequence.name] = (
                        *scores[run.method].get(sequence.name, ()),
                        found,
                    )
                    pace.reach(pace.completed + 1)
                    _say(run, sequence, found, f"{number + 1}/{len(own)}", pace.left)
        if predictor is not None:
            predictor.free()
    with raise_on_all_ranks():
        results = None
        if current_process().is_main and recipe.protocol.share is None:
            results = _results(recipe, runs, predictors, sequences, missing, scores)
            results.write(recipe.output_dir / RESULTS_NAME)
            for sequence in sequences:
                write_truth(sequence, recipe.output_dir)
            write_reports(recipe.output_dir, results)
    return results


def _refuse_if_all_failed(results: EvalResults) -> None:
    """Raise a UserError when a method has no score at all, which is a wrong setting rather than a result."""
    for method, sequences in results.scores.items():
        reasons = [one.failure for runs in sequences.values() for one in runs]
        if all(reason is not None for reason in reasons):
            raise UserError(f"method {method} failed on all {len(sequences)} sequences, first: {reasons[0]}")


def _prepared(recipe: EvalRecipe) -> Path:
    """Make the run's folder and its data; return the index."""
    if recipe.protocol.share is None:  # others' shares may be writing
        remove_leftovers_within(recipe.output_dir)
    with writing(f"output_dir {recipe.output_dir}"):
        write_text_atomically(recipe.output_dir / RECIPE_NAME, dump_yaml(recipe))
    return provide_index(recipe)


def _results(
    recipe: EvalRecipe,
    runs: list[Run],
    predictors: dict[Path, Predictor],
    sequences: list[EvalSequence],
    missing: list[Missing],
    scores: Scores,
) -> EvalResults:
    added = added_measures(recipe.protocol.metrics)
    facts: dict[str, tuple[RunFacts, ...]] = {}
    for run in runs:
        predictor = predictors.get(run.folder)
        fact = RunFacts(
            folder=run.label,
            source=str(run.source or run.settings.kind),
            checkpoint_sha256=None if predictor is None else predictor.sha256,
        )
        facts[run.method] = (*facts.get(run.method, ()), fact)
    every = [one for by_name in scores.values() for found in by_name.values() for one in found]
    return EvalResults(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        code_version=CODE_VERSION,
        recipe=recipe.model_dump(mode="json"),
        device=device_name(current_process().device),
        num_processes=current_process().world_size,
        missing=tuple(one.line for one in missing),
        sequences={sequence.name: _facts(sequence) for sequence in sequences},
        runs=facts,
        summaries=summarise(
            {
                method: {one.name: found[one.name] for one in sequences if one.length is None}
                for method, found in scores.items()
            },
            asked_measures(runs, (one for one in sequences if one.length is None), recipe),
            (*SCORES, *added),
        ),
        added_measures=added,
        scores=scores,
        failures=tuple(
            {"method": one.method, "run": one.run, "sequence": one.sequence, "reason": reason}
            for one in every
            for reason in one.reasons
        ),
    )


def _facts(sequence: EvalSequence) -> SequenceFacts:
    return SequenceFacts(
        is_cut=sequence.length is not None,
        num_frames=len(sequence.frame_indices),
        num_true_poses=int(sequence.has_truth.sum()),
        frames_sha256=sequence.frames_sha256,
        path_length_m=sequence.path_length_m,
    )


def _say_what_is_missing(missing: list[Missing]) -> None:
    for one in missing:
        tell(f"left out: {one.line}")


def _say(run: Run, sequence: EvalSequence, found: SequenceScores, place: str, left: str) -> None:
    """Report in one line on stderr how a sequence went and how long all the rest will take."""
    ate = POSES[0]
    text = found.failure or "; ".join((f"{ate.title} {ate.text(found.metrics.get(ate.key))}", *found.reasons))
    tell(f"{run.label} {place} {sequence.name}: {'failed: ' if found.failure else ''}{text}{left}")


def _outcome(recipe: EvalRecipe, results: EvalResults | None) -> str:
    if results is None:
        return f"{recipe.output_dir}: scored; run again without protocol.share for results and report\n"
    lines = [plain(summary_table(results))]
    if results.failures:
        lines.append(f"{len(results.failures)} failures, listed in the report")
    lines.append(f"{recipe.output_dir}/{RESULTS_NAME}, report.html, report.md, report.tex")
    return "\n".join(lines) + "\n"
