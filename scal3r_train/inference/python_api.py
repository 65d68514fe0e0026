"""`from scal3r_train import reconstruct`: images to a scene in one line, for notebooks and scripts."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scal3r_train.config import UserError, load_mapping, merge_mappings, validate_mapping
from scal3r_train.data.index.source import Images, sequence_of
from scal3r_train.inference.image_processing_scal3r import Scal3RImageProcessor
from scal3r_train.inference.input.video import Video
from scal3r_train.inference.reconstruct import is_done
from scal3r_train.inference.reconstruct import reconstruct as reconstruct_into
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.model.configuration_scal3r import PROCESSOR_FILE
from scal3r_train.model.load_model import load_model_as_set
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.model.weight_files import checkpoint_folder, folder_sha256
from scal3r_train.parallel.host_memory import launched_sizes
from scal3r_train.parallel.process import current_process
from scal3r_train.scene.scene import Scene, load_scene
from scal3r_train.text_file import parse_json

SOURCE = "reconstruct()"
LOADED_WITH_THE_MODEL = ("checkpoint", "memory", "newton_schulz_dtype", "attention", "compile")


def reconstruct(
    images: Images,
    model: str | PathLike[str] | Scal3RModel = "scal3r-tiny",
    out: str | PathLike[str] | None = None,
    recipe: str | PathLike[str] | None = None,
    **overrides: Any,
) -> Scene:
    """Return the scene of a video: cameras, intrinsics and points.

        scene = reconstruct("drive.mp4", "checkpoints/scal3r", input__stride=2, schedule={"chunk_size": 30})

    Size and chunks start from what the model's folder says in preprocessor_config.json; a recipe, then overrides,
    change that and everything else. Runs on one process; on several: `scal3r reconstruct` under torchrun.

    Args:
        images: a folder, a video, INDEX.parquet#sequence_id, or a list of paths, PIL images, arrays and tensors
            ([H, W, 3] or [3, H, W]; uint8, or floating point in [0, 1]), in temporal order.
        model: a folder, `scal3r-tiny`, or a model in memory, which runs where it is.
        out: scene folder to write, with report.html; if it holds this very scene already, that is returned. None: a
            temporary folder, gone when this returns; depth maps (`export__save_depth=True`) need a folder.
        recipe: file or name of a reconstruction recipe.
        overrides: keys of the recipe (docs/reconstruct.md). A double underscore is the dot of the command line; a
            section may be given as a dictionary.

    Raises:
        UserError: images, model, folder or settings cannot be used; one line, and nothing new is left behind.
    """
    launched = launched_sizes()
    if current_process().world_size > 1 or (launched is not None and launched.world_size > 1):
        raise UserError(f"{SOURCE} runs on one process; start `scal3r reconstruct` under torchrun instead")
    settings, sha256 = _settings(model, recipe, overrides, keeps=out is not None)
    record = sequence_of(images)
    loaded = (
        model
        if isinstance(model, Scal3RModel)
        else load_model_as_set(settings.model, current_process().device)
    )
    if out is None:
        with TemporaryDirectory(prefix="scal3r-") as folder:
            return _scene(reconstruct_into(record, loaded, settings, Path(folder) / "scene"))
    if is_done(Path(out), settings, Video.choose(record, settings.input, loaded.config), sha256):
        return load_scene(out)
    return _scene(reconstruct_into(record, loaded, settings, Path(out), sha256))


def _scene(scene: Scene | None) -> Scene:
    assert scene is not None, "the main process has it"
    return scene


def _settings(
    model: str | PathLike[str] | Scal3RModel,
    recipe: str | PathLike[str] | None,
    overrides: Mapping[str, Any],
    *,
    keeps: bool,
) -> tuple[ReconstructionRecipe, str | None]:
    """Return all settings, and the hash of the model's folder, None for a model in memory."""
    given = load_mapping(recipe)
    for name, value in overrides.items():
        given = merge_mappings(given, _nested(name, value))
    if not keeps:
        given = merge_mappings(given, {"export": {"report": False}})
    if isinstance(model, Scal3RModel):
        if late := sorted(set(given.get("model", {})) & set(LOADED_WITH_THE_MODEL)):
            raise UserError(
                f"{SOURCE}: model.{late[0]} is for loading; give the model's folder, not the model"
            )
        return validate_mapping(ReconstructionRecipe, given, SOURCE), None
    folder = checkpoint_folder(Path(model))
    mapping = merge_mappings(_processor_settings(folder), given)
    mapping = merge_mappings(mapping, {"model": {"checkpoint": str(folder)}})
    return validate_mapping(ReconstructionRecipe, mapping, SOURCE), folder_sha256(folder)


def _nested(name: str, value: Any) -> dict[str, Any]:
    """Return {"a": {"b": value}} for a__b or a.b; keys of a dictionary as well."""
    if isinstance(value, Mapping):
        parts: dict[str, Any] = {}
        for key, inner in value.items():
            parts = merge_mappings(parts, _nested(str(key), inner))
        value = parts
    *sections, key = name.replace("__", ".").split(".")
    nested = {key: value}
    for section in reversed(sections):
        nested = {section: nested}
    return nested


def _processor_settings(folder: Path) -> dict[str, Any]:
    """Return the recipe that a model's image processor stands for; empty where the folder has none."""
    path = folder / PROCESSOR_FILE
    if not path.is_file():
        return {}
    try:
        processor = Scal3RImageProcessor(**parse_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be used: {error}; save it again or remove it") from None
    return {
        "input": {
            "resize": {
                "kind": processor.image_side,
                "size": processor.image_size,
                "multiple": processor.patch_size,
            }
        },
        "schedule": {"chunk_size": processor.chunk_size, "overlap": processor.overlap},
    }
