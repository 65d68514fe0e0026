"""How many frames pass frame-wise parts of the network together: halved when memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from scal3r_train.config import UserError
from scal3r_train.model.modeling_scal3r import Scal3RModel

Result = TypeVar("Result")


class FrameRoom:
    """Tries work again with fewer frames at a time.

    Attributes:
        frames_per_pass: how many frames pass together now.
    """

    def __init__(self, model: Scal3RModel, frames_per_pass: int) -> None:
        """Let `frames_per_pass` frames of the model pass together, until that proves too many."""
        self._model = model
        self.frames_per_pass = frames_per_pass
        model.set_frames_per_pass(frames_per_pass)

    def do(self, work: Callable[[], Result]) -> Result:
        """Do some work that leaves nothing behind when it fails, with half as many frames whenever memory runs out.

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
