"""The weights of a checkpoint folder, read interval by interval: nobody has to hold the whole model to load it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from scal3r_train.config import UserError
from scal3r_train.model.weight_files import checkpoint_folder, weight_files


class StoredWeights:
    """Reads parameters out of the safetensors files of a `save_pretrained` folder.

    The files are mapped into memory, so that processes of one machine share the pages that they read.

    Attributes:
        num_bytes_read: bytes of weights that have been copied out so far.
    """

    def __init__(self, checkpoint: Path | None) -> None:
        """Open the files.

        Raises:
            UserError: it is no checkpoint folder, or a file cannot be read.
        """
        self.folder = checkpoint_folder(checkpoint)
        self.num_bytes_read = 0
        self._file_of: dict[str, Any] = {}
        for path in weight_files(self.folder):
            try:
                file = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise UserError(f"checkpoint {path} cannot be read: {error}; copy or save it again") from None
            self._file_of |= dict.fromkeys(file.keys(), file)

    def require_fit(self, model: nn.Module, unused: str | None = None) -> None:
        """Check that the files hold exactly the model's parameters, and maybe others whose names start with `unused`.

        Raises:
            UserError: the first parameter that is missing, surplus, or of another shape.
        """
        stored = [name for name in self._file_of if unused is None or not name.startswith(unused)]
        if differences := self._differences(model.state_dict(), stored):
            raise UserError(
                f"checkpoint {self.folder} does not fit its config.json: {differences}; convert or save it again"
            )

    def fill(self, model: nn.Module, part: str) -> None:
        """Copy the parameters whose names start with `part` into a model that may differ in all others.

        Raises:
            UserError: the first such parameter that the files or the model lack, or that has another shape.
        """
        wanted = {name: value for name, value in model.state_dict().items() if name.startswith(part)}
        stored = [name for name in self._file_of if name.startswith(part)]
        if differences := self._differences(wanted, stored):
            raise UserError(
                f"{part}* of checkpoint {self.folder} does not fit the new network: {differences}; give the network "
                "the sizes in that folder's config.json"
            )
        for name, value in wanted.items():
            self.read_into(name, 0, value.view(-1))

    def _differences(self, expected: Mapping[str, Tensor], stored: Collection[str]) -> str:
        """Say how the names and shapes of the stored tensors differ from the expected ones; empty where they agree."""
        missing = sorted(expected.keys() - set(stored))
        unexpected = sorted(set(stored) - expected.keys())
        mismatched = sorted(
            name for name in expected.keys() & set(stored) if self._shape(name) != tuple(expected[name].shape)
        )
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("mismatched", mismatched)):
            if names:
                return f"{len(names)} {kind} tensors, such as {names[0]}"
        return ""

    def read_into(self, name: str, start: int, target: Tensor) -> None:
        """Copy elements from `start` on of the flattened parameter into `target`, [n], in its dtype and device."""
        if target.numel() == 0:
            return
        shape, stop = self._shape(name), start + target.numel()
        if not shape:
            values = self._file_of[name].get_tensor(name).view(1)
            first = 0
        else:
            lead = next((place for place, length in enumerate(shape) if length > 1), len(shape) - 1)
            row = math.prod(shape[lead + 1 :])
            rows = slice(start // row, -(-stop // row))
            values = self._file_of[name].get_slice(name)[(*[slice(0, 1)] * lead, rows)]
            first = rows.start * row
        self.num_bytes_read += values.numel() * values.element_size()
        target.copy_(values.reshape(-1)[start - first : stop - first])

    def _shape(self, name: str) -> Sequence[int]:
        return tuple(self._file_of[name].get_slice(name).get_shape())
