"""The files of a folder that `save_pretrained` and trainings write: configuration and weights, whole or in shards."""

from __future__ import annotations

from pathlib import Path

from scal3r_train.config import UserError, files_sha256
from scal3r_train.shipped import find_checkpoint
from scal3r_train.text_file import parse_json

CONFIG_NAME = "config.json"
ADAPTER_CONFIG_NAME = "adapter_config.json"
SHARD_INDEX_NAME = "model.safetensors.index.json"


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights, in the order of their names.

    Raises:
        UserError: there are none, or the index of a sharded folder is damaged or names one that is missing.
    """
    found = sorted(folder.glob("*.safetensors"))
    index = folder / SHARD_INDEX_NAME
    if index.is_file():
        try:
            named = set(parse_json(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError):
            raise UserError(f"checkpoint {index} is damaged; save or copy the folder again") from None
        missing = sorted(named - {path.name for path in found})
        if missing:
            raise UserError(
                f"checkpoint folder {folder} lacks {missing[0]}, one of {len(named)} shards; copy the whole folder"
            )
    if not found:
        raise UserError(f"checkpoint folder {folder} has no .safetensors file; pickles are not read")
    return found


def folder_sha256(folder: Path) -> str:
    """Return one hash over a checkpoint's configuration and weights; the same model in other shards has another.

    A folder of adapters has a configuration of its own.
    """
    index, adapters = folder / SHARD_INDEX_NAME, folder / ADAPTER_CONFIG_NAME
    config = adapters if adapters.is_file() else folder / CONFIG_NAME
    return files_sha256([config, *([index] if index.is_file() else []), *weight_files(folder)])


def checkpoint_folder(checkpoint: Path | None) -> Path:
    """Return the folder of a path or of a shipped checkpoint's name, after checking that it looks like one of ours."""
    if checkpoint is None:
        raise UserError("no checkpoint is given; add model.checkpoint=FOLDER or name it in the recipe")
    checkpoint = find_checkpoint(checkpoint)
    if checkpoint.is_file():
        raise UserError(f"checkpoint {checkpoint} is a file; turn it into a folder with `scal3r convert`")
    if not checkpoint.is_dir():
        raise UserError(f"checkpoint folder {checkpoint} does not exist; check the path")
    if (checkpoint / ADAPTER_CONFIG_NAME).is_file():
        raise UserError(
            f"checkpoint folder {checkpoint} holds adapters alone; merge them with "
            f"`scal3r convert {checkpoint} OUT`"
        )
    if not (checkpoint / CONFIG_NAME).is_file():
        raise UserError(f"checkpoint folder {checkpoint} has no {CONFIG_NAME}; give a save_pretrained folder")
    weight_files(checkpoint)
    return checkpoint
