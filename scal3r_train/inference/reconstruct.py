"""From a video to a scene folder: `scal3r reconstruct`, on one process or on several under torchrun.

Every process reads, predicts, joins and places its own consecutive chunks (rank_work.py). Between processes travel the
memories' gradient sums (inside the model), the first overlap of each process's first chunk, the seams, and in the end
the cameras and thinned points, which the main process writes. With depth maps on request, each process writes its own
into the scene folder, which all of them must then reach.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta
from os import PathLike
from pathlib import Path
from typing import Any

from scal3r_train import __version__
from scal3r_train.config import EXIT_USER_ERROR, UserError, load_config
from scal3r_train.data.index.source import open_source
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.inference.chunking import Layout
from scal3r_train.inference.input.video import Video
from scal3r_train.inference.loop_closure.frame_descriptors import FrameDescriptors
from scal3r_train.inference.loop_closure.loop_plan import plan_loops, wants_loops, writes_loops
from scal3r_train.inference.loop_closure.loops import ClosedLoops, find_and_close_loops
from scal3r_train.inference.metric.measure import InMetres, to_metres
from scal3r_train.inference.metric.sources import MetricSource, open_metric_source, source_sha256
from scal3r_train.inference.network.calibration import field_of_view
from scal3r_train.inference.network.chunk_runner import ChunkRunner
from scal3r_train.inference.progress import Stages
from scal3r_train.inference.publish import publish_scene, scene_info
from scal3r_train.inference.rank_work import (
    join_chunks,
    overlap_after,
    place_chunks_of_rank,
    plan_chunk_states,
    predict_chunks_of_rank,
)
from scal3r_train.inference.run import ReconstructionRun
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.model.load_model import checkpoint_sha256, load_model_as_set
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.notes import answer, tell
from scal3r_train.parallel.claimed_output import remove_leftovers_within
from scal3r_train.parallel.collectives import (
    entered_on_main,
    gather_to_all,
    gather_to_main,
    raise_on_all_ranks,
)
from scal3r_train.parallel.failure_propagation import START_LIMIT, failing_together
from scal3r_train.parallel.folder_lock import lock_beside, owned, refuse_owned
from scal3r_train.parallel.process import current_process, joined_processes, launched_rank
from scal3r_train.scene.folder import (
    TIMINGS_NAME,
    discard_scene_folder,
    refuse_occupied,
    start_scene_folder,
    work_folder,
)
from scal3r_train.scene.scene import Scene, SceneInfo, load_scene, load_scene_info
from scal3r_train.scene.visualization.report import REPORT_NAME, write_report


def main(source: str, output: Path, recipe_path: Path | None, overrides: Sequence[str]) -> int:
    """Reconstruct `source` into the folder `output` and return the exit code.

    Raises:
        UserError: on the main process, for whatever the user can mend; nothing new is left at `output` then.
    """
    with failing_together(start_limit(recipe_path, overrides)):
        try:
            recipe = load_config(ReconstructionRecipe, recipe_path, overrides)
            with joined_processes(timedelta(minutes=recipe.timeout_minutes)) as process:
                outcome = _reconstruct_unless_done(source, output, recipe)
        except UserError:
            if launched_rank() == 0:
                raise
            return EXIT_USER_ERROR
        if process.is_main:
            answer(outcome)
    return 0


def start_limit(recipe_path: Path | None, overrides: Sequence[str]) -> timedelta:
    """Return how long to wait for the peers to come: the usual time, or less where the recipe waits less for them."""
    try:
        recipe = load_config(ReconstructionRecipe, recipe_path, overrides)
    except UserError:
        return START_LIMIT  # all are to hear why
    return min(START_LIMIT, timedelta(minutes=recipe.timeout_minutes))


def reconstruct(
    source: str | PathLike[str] | SequenceRecord,
    model: Scal3RModel,
    recipe: ReconstructionRecipe,
    output: Path,
    model_sha256: str | None = None,
) -> Scene | None:
    """Reconstruct a video and write its scene folder.

    Every process of the run must call this. The model's memories are connected over all of them and stay so.

    Args:
        source: an image folder, INDEX.parquet#sequence_id, or a row of an index.
        model: in evaluation mode, on the device that it shall run on; `recipe.model.checkpoint` is not read.
        recipe: all settings.
        output: the scene folder; when it exists it is complete.
        model_sha256: names the checkpoint in scene.json.

    Returns:
        The scene on the main process, None on the others.

    Raises:
        UserError: input, output or model cannot be used, or a prediction is not finite; raised on all processes,
            and nothing new is left at `output`. Another process is writing it.
    """
    with entered_on_main(lambda: owned(lock_beside(output), f"scene {output}")):
        return _reconstruct_owned(source, model, recipe, output, model_sha256)


def _reconstruct_owned(
    source: str | PathLike[str] | SequenceRecord,
    model: Scal3RModel,
    recipe: ReconstructionRecipe,
    output: Path,
    model_sha256: str | None,
) -> Scene | None:
    process = current_process()
    stages = Stages(visible=process.is_main)
    with raise_on_all_ranks():
        if process.is_main:
            refuse_occupied(output, overwrite=recipe.export.overwrite)
        refuse_missing_heads(model, recipe)
        record = source if isinstance(source, SequenceRecord) else open_source(source)
        video = Video.choose(record, recipe.input, model.config)
        source_of_metres = open_metric_source(recipe.alignment.metric, video)
        layout = Layout.plan(video.num_frames, recipe.schedule, process.world_size)
    chunk_runner = ChunkRunner(model, recipe.points, recipe.model.precision, field_of_view(model, video))
    run = ReconstructionRun(video, layout, recipe, stages, output, chunk_runner.device, model_sha256)
    with closing(video), _partial_scene(run):
        if process.is_main:
            stages.keep(work_folder(output) / TIMINGS_NAME)
        _run_stages(run, chunk_runner, source_of_metres)
    return load_reported(output, recipe) if process.is_main else None


def _run_stages(
    run: ReconstructionRun, chunk_runner: ChunkRunner, source_of_metres: MetricSource | None
) -> None:
    """Predict, align, close loops, find metres, place and write; every process calls this."""
    process = current_process()
    descriptors, written = FrameDescriptors(run, chunk_runner), None
    if writes_loops(run.recipe, run.layout):
        with run.stages.stage("loops"):
            written = plan_loops(run, descriptors)
    plan = plan_chunk_states(run, chunk_runner, written)
    if process.is_main:
        tell(*run.video.notes, plan.line())
    with run.stages.stage("predict"):
        predictions, schedule = predict_chunks_of_rank(run, chunk_runner, descriptors, plan, written)
    with run.stages.stage("align"):
        after = overlap_after(run, predictions)
        placement = join_chunks(run, predictions, after)
    closed: ClosedLoops | None = None
    if wants_loops(run.recipe, run.layout):
        with run.stages.stage("loops"):
            closed = find_and_close_loops(
                run, schedule, descriptors, predictions, placement.seams, placement.scales, written
            )
        placement = placement.moved(closed.first_from_chunk)
    metric: InMetres | None = None
    if source_of_metres is not None:
        with run.stages.stage("metric"):
            loops = () if closed is None else closed.accepted
            metric = to_metres(run, source_of_metres, predictions, after, placement, loops)
        placement = metric.placement
    with run.stages.stage("place"), raise_on_all_ranks():
        result = place_chunks_of_rank(run, predictions, after, placement)
    results = gather_to_main(result)
    with raise_on_all_ranks():
        if process.is_main:
            publish_scene(run, scene_info(run, placement, results, plan, closed, metric), results)


def load_reported(output: Path, recipe: ReconstructionRecipe) -> Scene:
    """Return a scene that is complete, with its report written if wanted; UserError when that fails."""
    scene = load_scene(output)
    if recipe.export.report:
        write_report(output, scene)
    return scene


def _reconstruct_unless_done(source: str, output: Path, recipe: ReconstructionRecipe) -> str:
    """Load what the recipe names, reconstruct unless that has been done, and return a line that says so."""
    process = current_process()
    with raise_on_all_ranks():
        if process.is_main:
            refuse_owned(lock_beside(output), f"scene {output}")  # before the weights are read
        record = open_source(source)
        model = load_model_as_set(recipe.model, process.device)
        video = Video.choose(record, recipe.input, model.config)
        model_sha256 = checkpoint_sha256(recipe.model.checkpoint) if process.is_main else None
        done = process.is_main and is_done(output, recipe, video, model_sha256)
        line = complete_line(output, recipe) if done else ""
    if any(gather_to_all(done)):
        return line
    scene = reconstruct(record, model, recipe, output, model_sha256)
    return "" if scene is None else outcome_line(output, scene.info)


def complete_line(output: Path, recipe: ReconstructionRecipe) -> str:
    """Say that nothing is to be done, after making the report of a scene that a kill left without the one it wants."""
    line = f"{output}: complete for this input, recipe and checkpoint"
    if recipe.export.report and not (output / REPORT_NAME).is_file():
        with owned(lock_beside(output), f"scene {output}"):
            remove_leftovers_within(output)
            write_report(output)
        line += "; its report was missing and is there now"
    return f"{line}; export.overwrite=true runs it again"


def is_done(output: Path, recipe: ReconstructionRecipe, video: Video, model_sha256: str | None) -> bool:
    """Return whether `output` holds a scene of the same recipe, checkpoint and input, and may stay."""
    if recipe.export.overwrite or not output.is_dir():
        return False
    try:
        info = load_scene_info(output)
    except UserError:
        return False
    wanted = recipe.model_dump(mode="json"), model_sha256, video.describe()
    metres = None if info.scale is None else info.scale.file_sha256
    if metres != source_sha256(recipe.alignment.metric):
        return False
    return (_with_overwrite_off(info.recipe), info.checkpoint_sha256, info.input) == wanted


def _with_overwrite_off(recipe: dict[str, Any]) -> dict[str, Any]:
    return {**recipe, "export": {**recipe["export"], "overwrite": False}}


def refuse_missing_heads(model: Scal3RModel, recipe: ReconstructionRecipe) -> None:
    """Raise a UserError when the model cannot predict what the recipe needs."""
    config = model.config
    needed = {"camera": config.camera_head, "depth": config.depth_head}
    if recipe.points == "head":
        needed["point"] = config.point_head
    for name, present in needed.items():
        if not present:
            raise UserError(
                f"the model has no {name} head, which this reconstruction needs; use another model"
            )


@contextmanager
def _partial_scene(run: ReconstructionRun) -> Iterator[None]:
    """Run the body with the partial folder of the scene in place; when anything fails only finished work stays.

    It is made before the work, so that a path that cannot be written is found first.
    """
    is_main = current_process().is_main
    try:
        with raise_on_all_ranks():
            if is_main:
                start_scene_folder(run.output, _identity(run))
        yield
    except BaseException:
        if is_main:
            discard_scene_folder(run.output)
        raise


def _identity(run: ReconstructionRun) -> dict[str, Any] | None:
    """Return all that unfinished work depends on; None when the weights have no name."""
    if run.model_sha256 is None:
        return None
    return {
        "code_version": __version__,
        "input": run.video.describe(),
        "frame_indices": list(run.video.frame_indices),
        "recipe": _with_overwrite_off(run.recipe.model_dump(mode="json")),
        "checkpoint_sha256": run.model_sha256,
        "num_processes": current_process().world_size,
    }


def outcome_line(output: Path, info: SceneInfo) -> str:
    """Return the line that tells the user what was made, and where to look twice."""
    doubtful = [number + 1 for number, seam in enumerate(info.seams) if not seam["trusted"]]
    line = (
        f"{output}: {info.num_frames} frames in {len(info.chunks)} chunks, {info.num_points} points, "
        f"{sum(info.timings_s.values()):.1f} s"
    )
    if info.loops:
        line += (
            f"; {sum(loop['accepted'] for loop in info.loops)} of {len(info.loops)} loop candidates closed"
        )
    if info.scale is not None:
        line += f"; {info.scale.line}"
    if info.breaks:
        line += f"; the trajectory is torn before chunk {', '.join(map(str, info.breaks[:5]))}"
    if doubtful:
        some = ", ".join(map(str, doubtful[:5])) + (", ..." if len(doubtful) > 5 else "")
        line += (
            f"; {len(doubtful)} of {len(info.seams)} seams are not trusted (before chunk {some}; scene.json)"
        )
    return line
