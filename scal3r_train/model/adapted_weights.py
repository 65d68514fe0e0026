"""The first values of a model with adapters: those of its base, read from files, and an adapter's own."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from scal3r_train.model.lora import A_PART, B_PART, BASE_PART, LoraSettings, base_name
from scal3r_train.model.stored_weights import StoredWeights


class AdaptedWeights(StoredWeights):
    """Reads a base checkpoint under the names of the adapted model; A is random, B zero.

    A's values depend on the random state when this is made and on the parameter's name: every process of a run whose
    generators were seeded alike has the same, whichever interval it asks for.
    """

    def __init__(self, checkpoint: Path | None, settings: LoraSettings) -> None:
        """Open the base's files.

        Raises:
            UserError: as `StoredWeights`.
        """
        super().__init__(checkpoint)
        self._rank = settings.rank
        self._seed = int(torch.randint(2**62, ()))

    def read_into(self, name: str, start: int, target: Tensor) -> None:
        """Copy elements from `start` on of the flattened parameter into `target`, [n], in its dtype and device."""
        if B_PART in name:
            target.zero_()
        elif A_PART in name:
            target.copy_(self._first_values(name)[start : start + target.numel()])
        else:
            super().read_into(base_name(name), start, target)

    def _first_values(self, name: str) -> Tensor:
        """Return A, flat: uniform in +-1/sqrt(in), as torch's and peft's linear layers begin."""
        _, into = self._shape(base_name(name.replace(A_PART, BASE_PART)))
        digest = hashlib.sha256(f"{self._seed}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return (2 * torch.rand(self._rank * into, generator=generator) - 1) * into**-0.5
