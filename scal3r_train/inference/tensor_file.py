"""Tensors as one safetensors file that appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from scal3r_train.config import UserError, atomic_output


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], what: str) -> None:
    """Write tensors atomically; a UserError says what could not be written, and where."""
    try:
        with atomic_output(path) as temporary:
            save_file(tensors, temporary, metadata)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(f"{path.parent} cannot take {what}: {reason}; make room and run again") from error
