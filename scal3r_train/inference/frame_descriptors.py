"""The descriptors of this process's frames, made while their chunks pass the encoder and kept as files.

Every frame has the descriptor that its provider chunk gives it. Shapes: S frames, P tokens of a frame, C channels, D
numbers of a descriptor.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scal3r_train.inference.chunk_pass import ChunkPass
from scal3r_train.inference.frame_descriptor import frame_descriptor, thumbnail_descriptor
from scal3r_train.inference.layout import Layout
from scal3r_train.inference.loop_retrieval import LoopSettings
from scal3r_train.inference.state_store import save_tensors
from scal3r_train.inference.video import Video
from scal3r_train.model.chunk_batch import temporal_order
from scal3r_train.model.salad import load_place_recognizer

FRAMES_PER_CALL = 8


class FrameDescriptors:
    """Descriptors by chunk."""

    def __init__(
        self, settings: LoopSettings, chunk_pass: ChunkPass, video: Video, layout: Layout, folder: Path
    ) -> None:
        """Keep files in `folder`; those of an earlier run are used."""
        self._settings, self._pass, self._video, self._layout = settings, chunk_pass, video, layout
        self._folder = folder
        self._describe_images: Callable[[Tensor], Tensor] | None = None

    def saw_tokens(self, chunk: int, tokens: Tensor) -> None:
        """Take the tokens of a chunk before the first visit, [S, P, C] in processing order."""
        if self._settings.descriptor == "tokens":
            in_time = tokens[temporal_order(len(tokens)), self._pass.config.num_special_tokens :]
            self._save(chunk, frame_descriptor(in_time[self._provided(chunk)]))

    def of(self, chunk: int) -> Tensor:
        """Return the descriptors of the frames that a chunk provides, [S, D] float32 on the CPU."""
        try:
            return load_file(self._path(chunk))["descriptors"]
        except (OSError, SafetensorError):
            pass
        if self._settings.descriptor == "tokens":
            state = self._pass.embed(self._video.images(self._layout.ranges[chunk]))
            self.saw_tokens(chunk, state.tensors["tokens"])
        else:
            self._save(chunk, self._from_images(self._layout.provided[chunk]))
        return load_file(self._path(chunk))["descriptors"]

    @torch.no_grad()
    def _from_images(self, frames: range) -> Tensor:
        if self._describe_images is None:
            self._describe_images = thumbnail_descriptor
            if self._settings.descriptor == "salad":
                assert self._settings.salad_checkpoint is not None
                device = next(self._pass.model.parameters()).device
                recognizer = load_place_recognizer(self._settings.salad_checkpoint, device)
                self._describe_images = lambda images: recognizer(images.to(device))
        parts = self._video.images(frames).split(FRAMES_PER_CALL)
        return torch.cat([self._describe_images(part) for part in parts])

    def _provided(self, chunk: int) -> slice:
        start, provided = self._layout.ranges[chunk].start, self._layout.provided[chunk]
        return slice(provided.start - start, provided.stop - start)

    def _save(self, chunk: int, descriptors: Tensor) -> None:
        save_tensors(self._path(chunk), {"descriptors": descriptors.float().cpu()}, {}, "descriptors")

    def _path(self, chunk: int) -> Path:
        return self._folder / f"{chunk:06d}.safetensors"
