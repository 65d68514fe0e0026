"""`scal3r push`: which weights of a run are published."""

from __future__ import annotations

from pathlib import Path

from scal3r_train.config import UserError
from scal3r_train.model import hub_upload
from scal3r_train.model.weight_files import CONFIG_NAME
from scal3r_train.shipped import find_checkpoint
from scal3r_train.training.checkpointing.checkpoint import read_manifest

MODEL = "model"


def main(given: Path, repo_id: str, *, private: bool, is_dry_run: bool) -> int:
    """Publish a folder of weights, or those of a run; returns 0.

    Raises:
        UserError: there are none, or as `push_folder`.
    """
    hub_upload.check_repo_id(repo_id)
    return hub_upload.main(weights_of(given), repo_id, private=private, is_dry_run=is_dry_run)


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
    for checkpoint in sorted(folder.glob("checkpoints/step_????????"), reverse=True):
        try:
            read_manifest(checkpoint)
        except UserError:
            continue
        return checkpoint / MODEL
    raise UserError(
        f"{given} holds no weights ({CONFIG_NAME} beside .safetensors) and no complete checkpoint of a run; give RUN, "
        "RUN/model, or convert a released checkpoint first (`scal3r convert`)"
    )
