"""`scal3r push`: which weights of a run are published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from scal3r_train.config import UserError
from scal3r_train.model.hub_upload import check_repo_id, push_folder
from scal3r_train.model.weight_files import CONFIG_NAME
from scal3r_train.notes import answer, tell
from scal3r_train.shipped import find_checkpoint
from scal3r_train.training.checkpointing.checkpoint import step_folders
from scal3r_train.training.checkpointing.manifest import read_manifest

MODEL = "model"


def main(given: Path, repo_id: str, options: Mapping[str, bool]) -> int:
    """Publish a folder of weights, or those of a run, and say what and where; returns 0.

    Args:
        given: run or folder.
        repo_id: USER/NAME on the hub.
        options: `private` and `is_dry_run` of `push_folder`.

    Raises:
        UserError: there are none, or as `push_folder`.
    """
    check_repo_id(repo_id)
    folder, is_dry_run = weights_of(given), options["is_dry_run"]
    tell(f"{'would publish' if is_dry_run else 'publishing'} {folder}")
    private = options["private"] or None  # else as the owner's settings say
    answer(*push_folder(folder, repo_id, private=private, is_dry_run=is_dry_run).splitlines())
    return 0


def weights_of(given: Path) -> Path:
    """Return the folder of weights that a folder is or holds.

    Of a run: what it left at its end, else what its newest complete checkpoint exported; of a checkpoint its own.

    Raises:
        UserError: there are none.
    """
    folder = find_checkpoint(given)
    if not folder.is_dir():
        raise UserError(f"{given} is no folder; give a run or a folder of weights")
    for found in (folder, folder / MODEL):
        if (found / CONFIG_NAME).is_file():
            return found
    for checkpoint in sorted(step_folders(folder / "checkpoints"), reverse=True):
        try:
            read_manifest(checkpoint)
        except UserError:
            continue
        return checkpoint / MODEL
    raise UserError(
        f"{given} holds no weights ({CONFIG_NAME} beside .safetensors) and no complete checkpoint of a run; give RUN, "
        "RUN/model, or convert a released checkpoint first (`scal3r convert`)"
    )
