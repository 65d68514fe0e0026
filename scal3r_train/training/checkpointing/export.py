"""From a checkpoint's pieces to a `save_pretrained` folder, on one process, whatever engine wrote them."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import save_torch_state_dict

from scal3r_train.config import permit_as_new
from scal3r_train.data.sampling.curriculum import CurriculumSettings
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.training.checkpointing.checkpoint_files import WEIGHT, StateReader

ARCHITECTURE = "Scal3RModel"


def export_model(
    config: Scal3RConfig,
    reader: StateReader,
    parameters: Mapping[str, Any],
    kind: str,
    folder: Path,
    max_shard_size: str,
) -> None:
    """Write the weights (`kind` weight or ema) of a checkpoint as a folder that `from_pretrained` reads.

    transformers' own `save_pretrained` wants a live model, which under ZeRO-3 and FSDP2 no process has.

    Args:
        config: of the network.
        reader: the checkpoint's tensors.
        parameters: of every parameter, its `shape`.
        kind: parameters without this kind (frozen ones have no average) are written as they are.
        folder: to write.
        max_shard_size: as "5GB"; larger weights go into several files and an index.
    """
    state = {}
    for name, entry in parameters.items():
        shape = entry["shape"]
        found = kind if reader.has(kind, name) else WEIGHT
        state[name] = reader.read(found, name, 0, math.prod(shape)).view(shape)
    written = copy.deepcopy(config)
    written.architectures = [ARCHITECTURE]
    written.save_pretrained(folder)
    save_torch_state_dict(state, folder, max_shard_size=max_shard_size, metadata={"format": "pt"})
    permit_as_new(*folder.glob("*.safetensors"))


def processor_settings(stages: Sequence[CurriculumSettings], patch_size: int) -> dict[str, int]:
    """Return `Scal3RImageProcessor`'s settings for images as the model saw them: the largest, in the longest chunks."""
    sizes = [side for stage in stages for size in stage.resolution for side in (size.height, size.width)]
    settings = {"image_size": max(sizes), "patch_size": patch_size}
    chunk_size = max(size for stage in stages for size in stage.chunk_size)
    overlap = max(overlap for stage in stages for overlap in stage.overlap) or chunk_size // 2
    return {**settings, "chunk_size": chunk_size, "overlap": overlap} if chunk_size > 1 else settings


def replace_folder(source: Path, target: Path) -> None:
    """Put a copy of a folder in the place of another, so that readers see the old one or the whole new one."""
    make_folder(target, lambda partial: shutil.copytree(source, partial))


def make_folder(target: Path, fill: Callable[[Path], object]) -> None:
    """Put what `fill` writes in the place of a folder; it is given the name of one that does not exist yet."""
    partial, old = target.with_name(f".{target.name}.partial"), target.with_name(f".{target.name}.old")
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fill(partial)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)
