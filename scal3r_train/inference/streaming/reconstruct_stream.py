"""Reconstruction while images arrive: `scal3r reconstruct INPUT OUT --follow` (docs/follow.md).

INPUT is a folder that images are being written into, or `-`: images through a pipe, which are written into such a
folder. Chunks are those of a reconstruction of the whole video, each predicted as soon as its last frame is there
(network/online_memory.py) and joined to the one before it (incremental_scene.py), until the stream ends
(stream_end.py).
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from scal3r_train.config import EXIT_USER_ERROR, UserError, load_config
from scal3r_train.inference.alignment.seam import Seam
from scal3r_train.inference.chunking import chunk_ranges
from scal3r_train.inference.input.video import Video
from scal3r_train.inference.network.calibration import field_of_view
from scal3r_train.inference.network.chunk_runner import ChunkRunner
from scal3r_train.inference.network.online_memory import OnlineMemory
from scal3r_train.inference.progress import Stages
from scal3r_train.inference.rank_work import with_what_is_known
from scal3r_train.inference.reconstruct import load_reported, outcome_line, reconstruct, refuse_missing_heads
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.inference.streaming.frame_folder import FrameFolder
from scal3r_train.inference.streaming.image_pipe import Spool
from scal3r_train.inference.streaming.incremental_scene import IncrementalScene
from scal3r_train.inference.streaming.stream_end import EndCheck, StreamEnd, stop_signals
from scal3r_train.model.load_model import checkpoint_sha256, load_model_as_set
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.notes import answer, tell
from scal3r_train.parallel.folder_lock import lock_beside, owned
from scal3r_train.parallel.process import current_process, joined_processes
from scal3r_train.scene.folder import discard_scene_folder, refuse_occupied
from scal3r_train.scene.scene import Scene, load_scene

STOP_NAME = "STOP"
PIPE_NAME = "-"


def main(source: str, output: Path, recipe_path: Path | None, overrides: Sequence[str]) -> int:
    """Reconstruct the stream `source` until it ends, a scene at `output` from the first chunk on; return the exit code.

    Raises:
        UserError: for whatever the user can mend; frames before the mistake are in the scene then.
    """
    with joined_processes() as process, ExitStack() as held:
        if process.world_size > 1:
            if not process.is_main:
                return EXIT_USER_ERROR
            raise _one_process_only()
        recipe = load_config(ReconstructionRecipe, recipe_path, overrides)
        refuse_occupied(output, overwrite=recipe.export.overwrite)
        held.enter_context(_owned(output))
        spool = _open_pipe(output, recipe) if source == PIPE_NAME else None
        folder = Path(source) if spool is None else spool.folder
        _refuse_no_folder(folder)
        _refuse_metres(recipe)
        model = load_model_as_set(recipe.model, process.device)
        model_sha256 = checkpoint_sha256(recipe.model.checkpoint)
        with stop_signals() as stop_signal:
            if spool is not None:
                spool.start()

            def end_check() -> StreamEnd | None:
                if spool is not None and spool.has_ended:
                    return StreamEnd("the pipe has ended", spool.error)
                return stop_signal.end

            scene = reconstruct_stream(folder, model, recipe, output, model_sha256, end_check)
        answer(outcome_line(output, scene.info))
    return 0


def reconstruct_stream(
    folder: Path,
    model: Scal3RModel,
    recipe: ReconstructionRecipe,
    output: Path,
    model_sha256: str | None = None,
    end_check: EndCheck = lambda: None,
) -> Scene:
    """Reconstruct a folder into which images are written, chunk by chunk until the stream ends; return the scene.

    It ends when a file named STOP is in the folder, when `recipe.follow.idle_s` seconds brought nothing new, when
    `recipe.input` wants no more frames, or when `end_check` says so.

    Args:
        folder: of images.
        model: in evaluation mode, on the device that it shall run on.
        recipe: all settings.
        output: the scene folder; valid whenever it exists.
        model_sha256: names the checkpoint in scene.json.
        end_check: is asked between two chunks, and while waiting.

    Raises:
        UserError: the settings cannot be used, no image came, one stayed unreadable for `idle_s`, or a prediction is
            not finite. Chunks before are at `output`.
    """
    if current_process().world_size > 1:
        raise _one_process_only()
    refuse_occupied(output, overwrite=recipe.export.overwrite)
    _refuse_no_folder(folder)
    _refuse_metres(recipe)
    refuse_missing_heads(model, recipe)
    with _owned(output):
        return _follow(folder, model, recipe, output, model_sha256, end_check)


def _refuse_metres(recipe: ReconstructionRecipe) -> None:
    """Raise a UserError for metric scale that no stage would apply: it needs all frames."""
    if recipe.alignment.metric is not None and not recipe.follow.refine:
        raise UserError(
            "alignment.metric needs all frames; with --follow add follow.refine=true, which has them"
        )


def _follow(
    folder: Path,
    model: Scal3RModel,
    recipe: ReconstructionRecipe,
    output: Path,
    model_sha256: str | None,
    end_check: EndCheck,
) -> Scene:
    stream = _Stream(folder, model, recipe, output, model_sha256, end_check)
    try:
        end = stream.run()
    except BaseException:
        discard_scene_folder(output)
        raise
    if end.error is not None:
        raise end.error
    tell(f"followed to the end: {end.reason}")
    if recipe.follow.refine and end.may_refine:
        export = recipe.export.model_copy(update={"overwrite": True})
        whole = recipe.model_copy(update={"export": export})
        reconstruct(stream.folder.record(), model, whole, output, model_sha256)
        return load_scene(output)
    return load_reported(output, recipe)


class _Stream:
    """Turns the images of a folder into the chunks of a scene, one after another."""

    def __init__(
        self,
        folder: Path,
        model: Scal3RModel,
        recipe: ReconstructionRecipe,
        output: Path,
        model_sha256: str | None,
        end_check: EndCheck,
    ) -> None:
        self.folder = FrameFolder(folder)
        self._path, self._model, self._recipe, self._end_check = folder, model, recipe, end_check
        self._stages = Stages(visible=False)
        self._chunk_runner = ChunkRunner(model, recipe.points, recipe.model.precision)
        self._scene = IncrementalScene(output, recipe, model_sha256, self._stages, self._chunk_runner.device)
        self._memory = OnlineMemory(self._chunk_runner, recipe.schedule.frames_per_pass)
        self._video: Video | None = None

    def run(self) -> StreamEnd:
        """Reconstruct to the end of the stream; the scene is complete then, if there is one."""
        end: StreamEnd | None = None
        while True:
            if end is None and (end := self._requested_end()) is not None:
                self.folder.close(leave_out_broken=end.error is None)
            num_new = self.folder.scan() if end is None or end.takes_rest else 0
            if num_new and self.folder.num_images > self._recipe.input.start:
                self._video = Video.choose(self.folder.record(), self._recipe.input, self._model.config)
            elif not num_new and end is None and (end := self._idle_end()) is not None:
                self.folder.close(leave_out_broken=end.error is None)
                continue
            is_all = end is not None and not num_new
            if self._add_chunk(end if is_all else None) or num_new:
                continue
            if end is not None:
                self._finish(end)
                return end
            time.sleep(self._recipe.follow.poll_s)

    def _requested_end(self) -> StreamEnd | None:
        """Return the end that the STOP file, the recipe or `end_check` asks for."""
        if (self._path / STOP_NAME).exists():
            return StreamEnd(f"{self._path / STOP_NAME} is there")
        wanted, video = self._recipe.input, self._video
        if wanted.stop is not None and self.folder.num_images >= wanted.stop:
            return StreamEnd("input.stop is reached", takes_rest=False)
        if video is not None and wanted.max_frames is not None and video.num_frames >= wanted.max_frames:
            return StreamEnd("input.max_frames is reached", takes_rest=False)
        return self._end_check()

    def _idle_end(self) -> StreamEnd | None:
        """Return the end after `idle_s` seconds without anything new, or with an image that cannot be read."""
        idle_s, unreadable = self._recipe.follow.idle_s, self.folder.unreadable
        if idle_s is None:
            return None
        if unreadable is not None and unreadable.unchanged_s >= idle_s:
            advice = (
                "frames before it are in the scene" if self.folder.num_images else "no frame is before it"
            )
            return StreamEnd(
                f"{unreadable.name} cannot be read",
                UserError(f"{unreadable.reason} ({idle_s:g} s after it last changed); {advice}"),
            )
        return StreamEnd(f"nothing new in {idle_s:g} s") if self.folder.idle_s >= idle_s else None

    def _add_chunk(self, end: StreamEnd | None) -> bool:
        """Predict and publish the next chunk if its frames are there; after the end it may be a short one."""
        if self._video is None:
            return False
        schedule, number = self._recipe.schedule, self._scene.num_chunks
        ranges = chunk_ranges(self._video.num_frames, schedule.chunk_size, schedule.overlap)
        if number >= len(ranges) or (len(ranges[number]) < schedule.chunk_size and end is None):
            return False
        start = time.perf_counter()
        frames = ranges[number]
        self.folder.fix_order(self._video.frame_indices[frames.stop - 1] + 1)
        with self._stages.stage("read"):
            images = self._video.images(frames)
        if number == 0:
            self._chunk_runner.fov = field_of_view(self._model, self._video)
        with self._stages.stage("predict"):
            prediction = self._memory.predict(images)
        prediction = with_what_is_known(prediction, number, self._video, frames)
        seam = self._scene.add(prediction, frames, self._video)
        self._video.close()
        is_last = end is not None and number == len(ranges) - 1
        self._publish(end if is_last else None)
        tell(_chunk_line(number, frames, time.perf_counter() - start, seam))
        return True

    def _finish(self, end: StreamEnd) -> None:
        """Mark the scene as complete, and say what the user should know of the input."""
        if self._scene.num_chunks == 0:
            nothing = UserError(
                f"no frame came into {self._path} ({end.reason}); check the path and input.start"
            )
            raise end.error or nothing
        if not self._scene.is_complete:
            self._publish(end)
        if self._video is not None:
            tell(*self._video.notes)

    def _publish(self, end: StreamEnd | None) -> None:
        assert self._video is not None
        self._scene.publish(self._video, None if end is None else end.reason, self.folder.left_out)


def _chunk_line(number: int, frames: range, seconds: float, seam: Seam | None) -> str:
    """Return what the user reads about a chunk."""
    line = f"chunk {number}: frames {frames.start} to {frames.stop - 1}, {seconds:.1f} s"
    if seam is None:
        return line
    quality = seam.quality
    line += f"; seam {'trusted' if quality.trusted else 'not trusted'} ({quality.method}"
    if quality.inlier_share is not None and quality.residual_rms is not None:
        line += f", {quality.inlier_share:.2f} of {quality.num_points} fit, rms {quality.residual_rms:.3g}"
    return f"{line}, scale {quality.scale:.3f})"


def _open_pipe(output: Path, recipe: ReconstructionRecipe) -> Spool:
    """Return the spool of this process's standard input; it is yet to be started."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError(
            "input - reads images from a pipe, and there is none; write: ffmpeg ... | scal3r reconstruct - OUT --follow"
        )
    folder = recipe.follow.spool or output.with_name(f"{output.name}.frames")
    # Not sys.stdin.buffer: a thread that waits inside it would block the end of the interpreter.
    stream = io.FileIO(sys.stdin.fileno(), closefd=False)
    return Spool(stream, folder, overwrite=recipe.export.overwrite)


def _owned(output: Path) -> AbstractContextManager[None]:
    return owned(lock_beside(output), f"scene {output}")


def _refuse_no_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"input {folder} is no folder; --follow needs a folder of images, or - for a pipe")


def _one_process_only() -> UserError:
    return UserError("--follow runs on one process only; start it without torchrun")
