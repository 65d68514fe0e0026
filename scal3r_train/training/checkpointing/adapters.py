"""A run that trains adapters saves what it trains and names its base: everything else is from there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from scal3r_train.config import permit_as_new
from scal3r_train.model.load_model import checkpoint_sha256
from scal3r_train.model.lora import LoraSettings, peft_config
from scal3r_train.model.merge_adapters import AUTO_MAPPING, BASE_SHA256, WEIGHTS_NAME, stored_name
from scal3r_train.parallel.collectives import from_main
from scal3r_train.training.checkpointing.adapter_base import Base
from scal3r_train.training.checkpointing.checkpoint_files import WEIGHT, StateReader


def find_base(checkpoint: str) -> Base:
    """Return the base of a run: the main process reads its files through once. All ranks call this."""
    return Base(checkpoint, from_main(lambda: checkpoint_sha256(Path(checkpoint))))


def export_adapters(
    settings: LoraSettings,
    base: Base,
    reader: StateReader,
    parameters: Mapping[str, Any],
    kind: str,
    folder: Path,
) -> None:
    """Write the trained parameters of a checkpoint as a folder that peft reads: adapters, memories, heads.

    `PeftModel.from_pretrained(base_model, folder)` loads all of them: peft takes a tensor that is no adapter's by its
    name.

    Args:
        settings: of the adapters.
        base: whose hash is noted with the tensors.
        reader: the checkpoint's tensors.
        parameters: of every parameter, its `shape`.
        kind: weight or ema.
        folder: to write.
    """
    state = {}
    for name, entry in parameters.items():
        shape = entry["shape"]
        found = kind if reader.has(kind, name) else WEIGHT
        state[stored_name(name)] = reader.read(found, name, 0, math.prod(shape)).view(shape)
    folder.mkdir(parents=True)
    config = peft_config(settings)
    config.base_model_name_or_path, config.inference_mode = base.checkpoint, True
    config.auto_mapping = AUTO_MAPPING
    config.save_pretrained(folder)
    save_file(state, folder / WEIGHTS_NAME, metadata={"format": "pt", BASE_SHA256: base.sha256})
    permit_as_new(folder / WEIGHTS_NAME)
