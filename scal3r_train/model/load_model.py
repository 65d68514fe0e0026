"""Loading a trained model for reconstruction, or one line saying why it cannot be loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from transformers.utils import logging

from scal3r_train.config import StrictModel, UserError
from scal3r_train.model.configuration_scal3r import MemoryUse, Scal3RConfig, changes_of_memory
from scal3r_train.model.kernels import AttentionName, use_kernels
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.model.weight_files import checkpoint_folder, folder_sha256

IterationDtype = Literal["working", "bfloat16"]
MEMORY_WEIGHTS = "aggregator.memory_units."
PATCH_ENCODER_WEIGHTS = "aggregator.patch_embed."


class LoadedModelSettings(StrictModel):
    """Which network predicts, and how."""

    checkpoint: Path | None = Field(
        None,
        description="Folder written by training, by `scal3r convert` or by save_pretrained; or scal3r-tiny, the "
        "shipped one.",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Dtype of the encoder and the attention blocks; memories and heads stay in float32 (with "
        "bfloat16 on CUDA: with TF32 products).",
    )
    memory: MemoryUse | None = Field(
        None,
        description="What chunks learn of each other: of the whole video, each of itself alone, or without memories; "
        "null: as trained.",
    )
    newton_schulz_dtype: IterationDtype | None = Field(
        None,
        description="Dtype of the memories' orthogonalisation: working, that of the memories; bfloat16, as in the "
        "release; null: as the checkpoint's config.json says.",
    )
    attention: AttentionName = Field(
        "sdpa", description="Kernel of attention, by transformers' name; flash kernels need their package."
    )
    compile: bool = Field(False, description="torch.compile each block; worth its minutes for long videos.")


def load_config(folder: Path, memory: MemoryUse | None = None) -> Scal3RConfig:
    """Return the sizes of a checkpoint's network, with its memories used as `memory` says (`LoadedModelSettings`).

    Raises:
        UserError: its config.json is damaged or of another model.
    """
    try:
        with _quiet_transformers():
            return Scal3RConfig.from_pretrained(folder, local_files_only=True, **changes_of_memory(memory))
    except Exception as error:  # whatever is wrong with the file, transformers names it
        raise UserError(f"checkpoint {folder} cannot be loaded: {_first_line(error)}") from error


def load_model(
    checkpoint: Path | None,
    device: torch.device,
    memory: MemoryUse | None = None,
    newton_schulz_dtype: IterationDtype | None = None,
) -> Scal3RModel:
    """Return the checkpoint's model on `device`, in evaluation mode and without gradients.

    `memory` and `newton_schulz_dtype` change how its memories are used (`LoadedModelSettings`); with `memory` "off"
    their weights are left out.

    Raises:
        UserError: no folder is given, it does not exist, or it does not hold exactly this model's weights in
            safetensors files.
    """
    folder = checkpoint_folder(checkpoint)
    changes = changes_of_memory(memory)
    if newton_schulz_dtype is not None:
        changes["newton_schulz_dtype"] = newton_schulz_dtype
    loaded: Any  # transformers annotates the model alone
    try:
        with _quiet_transformers():
            loaded = Scal3RModel.from_pretrained(
                folder,
                output_loading_info=True,
                use_safetensors=True,
                local_files_only=True,
                **changes,
            )
    except Exception as error:  # whatever is wrong with the files, transformers and safetensors name it
        raise UserError(f"checkpoint {folder} cannot be loaded: {_first_line(error)}") from error
    model: Scal3RModel
    model, loading = loaded
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = sorted(str(key) for key in loading[what])
        if memory == "off" and what == "unexpected_keys":
            names = [name for name in names if not name.startswith(MEMORY_WEIGHTS)]
        if names:
            kind = what.removesuffix("_keys")
            raise UserError(
                f"checkpoint {folder} does not fit its config.json: {len(names)} {kind} tensors, "
                f"such as {names[0]}; convert or save it again"
            )
    return model.requires_grad_(requires_grad=False).eval().to(device)


def load_model_as_set(settings: LoadedModelSettings, device: torch.device) -> Scal3RModel:
    """Return the model of a recipe's section, ready to predict; UserError as `load_model` and `use_kernels`."""
    model = load_model(settings.checkpoint, device, settings.memory, settings.newton_schulz_dtype)
    use_kernels(model, settings.attention, compile_blocks=settings.compile)
    return model


def checkpoint_sha256(checkpoint: Path | None) -> str:
    """Return one hash over a checkpoint's configuration and weights; names the model in what it predicts."""
    return folder_sha256(checkpoint_folder(checkpoint))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers from writing bars and reports to stderr: what matters is checked and said here."""
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()
