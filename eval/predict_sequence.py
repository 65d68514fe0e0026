"""First stage of `scal3r eval`: reconstructs a sequence with one run of a scal3r method, as a scene folder.

What is complete is not made again. A failure of the method is returned; one of the machine (a full disk) is raised.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import torch

from scal3r_eval.methods import Run, scene_folder
from scal3r_eval.recipe import EvalRecipe, Scal3RMethod
from scal3r_eval.sequences import EvalSequence
from scal3r_train.config import UserError, load_config
from scal3r_train.inference.input.video import Video
from scal3r_train.inference.reconstruct import complete_line, is_done, reconstruct
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.load_model import checkpoint_sha256, load_model_as_set
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.model.weight_files import checkpoint_folder
from scal3r_train.os_errors import is_of_the_machine
from scal3r_train.parallel.collectives import from_main, gather_to_all, raise_on_all_ranks
from scal3r_train.parallel.process import current_process

RESET_PEAK = "5"  # what /proc/self/clear_refs takes for it


class Predictor:
    """Reconstructs sequences with one run of a scal3r method; its model is loaded when it is first needed."""

    def __init__(self, run: Run, recipe: EvalRecipe) -> None:
        """Check the checkpoint and resolve the reconstruction recipe; every process must.

        Raises:
            UserError: on all processes, when one of them cannot be used.
        """
        assert isinstance(run.settings, Scal3RMethod)
        self._run = run
        self._model: Scal3RModel | None = None
        self.recipe = reconstruction_recipe(run, recipe)
        self.sha256 = from_main(lambda: checkpoint_sha256(run.source))

    def predict(self, sequence: EvalSequence) -> str | None:
        """Make sure that the scene of a sequence is there, complete and of this recipe, checkpoint and input.

        Every process must call this. Returns why it failed, None when it did not.

        Raises:
            UserError: the disk is full or the model cannot be loaded, which no other sequence would change.
        """
        output = scene_folder(self._run, sequence)
        recipe = self.recipe
        if sequence.length is not None:
            frames = recipe.input.model_copy(update={"max_frames": sequence.length})
            recipe = recipe.model_copy(update={"input": frames})
        with raise_on_all_ranks():
            done = current_process().is_main and self._is_done(sequence, recipe, output)
        if any(gather_to_all(done)):
            return None
        with raise_on_all_ranks():
            model = self._loaded()
        forget_peak_memory()
        # Of a scene that is there something is different; the partial folder beside it goes on if it fits.
        recipe = recipe.model_copy(update={"export": recipe.export.model_copy(update={"overwrite": True})})
        try:
            reconstruct(sequence.record, model, recipe, output, self.sha256)
        except UserError as error:
            if any(gather_to_all(is_of_the_machine(error))):
                raise  # it stops every sequence alike, which is no failure of the method
            return str(error)
        except torch.OutOfMemoryError as error:
            if current_process().world_size > 1:
                raise  # the peers wait inside a collective; the launcher ends them
            return f"out of memory: {str(error).splitlines()[0]}"
        return None

    def free(self) -> None:
        """Forget the model."""
        self._model = None

    def _loaded(self) -> Scal3RModel:
        if self._model is None:
            settings = self.recipe.model.model_copy(update={"checkpoint": self._run.source})
            self._model = load_model_as_set(settings, current_process().device)
        return self._model

    def _is_done(self, sequence: EvalSequence, recipe: ReconstructionRecipe, output: Path) -> bool:
        if not output.is_dir():
            return False
        # The configuration alone says how frames are sized; weights are not read for what is done.
        config = Scal3RConfig.from_pretrained(checkpoint_folder(self._run.source))
        video = Video.choose(sequence.record, recipe.input, config)
        try:
            done = is_done(output, recipe, video, self.sha256)
            if done:
                complete_line(output, recipe)
            return done
        finally:
            video.close()


def reconstruction_recipe(run: Run, recipe: EvalRecipe) -> ReconstructionRecipe:
    """Return how a run reconstructs: its recipe, changed by the protocol, the frames, then by the method.

    Raises:
        UserError: the recipe is missing, or a change does not fit.
    """
    settings = run.settings
    assert isinstance(settings, Scal3RMethod)
    changes = [
        *recipe.protocol.overrides,
        *recipe.sequences.frame_overrides,
        f"model.checkpoint={json.dumps(str(run.source))}",
        *([] if settings.memory is None else [f"model.memory={settings.memory}"]),
        *settings.overrides,
    ]
    return load_config(ReconstructionRecipe, settings.recipe or recipe.protocol.reconstruction, changes)


def forget_peak_memory() -> None:
    """Begin to measure the most memory anew, as `peak_memory` reports it; elsewhere than on Linux it goes on."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text(RESET_PEAK, encoding="ascii")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
