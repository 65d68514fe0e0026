"""What happens when the device's memory runs out: the same work again with half as many frames at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from scal3r_train.config import UserError
from scal3r_train.model.modeling_scal3r import Scal3RModel

Result = TypeVar("Result")


class OutOfMemoryBackoff:
    """Repeats work with fewer frames at a time whenever the device's memory runs out.

    Attributes:
        frames_per_pass: how many frames pass together now.
    """

    def __init__(self, model: Scal3RModel, frames_per_pass: int) -> None:
        """Let `frames_per_pass` frames of the model pass together, until that proves too many."""
        self._model = model
        self.frames_per_pass = frames_per_pass
        model.set_frames_per_pass(frames_per_pass)

    def run(self, work: Callable[[], Result]) -> Result:
        """Return what some work returns, with half as many frames a pass whenever memory runs out.

        Args:
            work: leaves nothing behind when it fails, so that it can be repeated.

        Raises:
            UserError: memory runs out one frame at a time.
        """
        while True:
            try:
                return work()
            except torch.OutOfMemoryError as error:
                if self.frames_per_pass == 1:
                    raise UserError(
                        "memory runs out even with one frame at a time; lower schedule.chunk_size or the image size"
                    ) from error
            self.frames_per_pass //= 2
            self._model.set_frames_per_pass(self.frames_per_pass)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
