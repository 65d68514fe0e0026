"""One vector a frame, by which frames are compared to find places seen twice; made in passing and kept as files.

The default is made from the patch tokens that the model computes anyway (`frame_descriptor`); thumbnails and a SALAD
network are made from the images. Every frame has the descriptor that its provider chunk gives it.

Shapes: S frames, P tokens of a frame, N patches (row-major), C channels, D numbers of a descriptor, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scal3r_train.inference.network.chunk_runner import ChunkRunner
from scal3r_train.inference.run import ReconstructionRun
from scal3r_train.inference.tensor_file import save_tensors
from scal3r_train.model.chunk_batch import in_temporal_order
from scal3r_train.model.salad import load_place_recognizer

NUM_BANDS = 3
THUMBNAIL_SIDE = 64
FRAMES_PER_CALL = 8  # of the network or the function that makes descriptors from images


def frame_descriptor(patch_tokens: Tensor) -> Tensor:
    """Return mean and standard deviation of a frame's patch tokens in three bands, [S, 6C] float32 on their device.

    The bands are the upper, middle and lower third of the patches (with fewer than three patches, one band each).
    They keep what is above what, which a place seen again shares, and forget what is left of what, which changes
    with the camera's heading. Meant for the output of the patch encoder: it depends on the frame alone, not on its
    chunk (the "correlation" encoder apart). Compare descriptors as `retrieval.comparison_space` does, never raw.

    Args:
        patch_tokens: [S, N, C] of any floating dtype, without special tokens.
    """
    bands = patch_tokens.float().tensor_split(min(NUM_BANDS, patch_tokens.shape[1]), dim=1)
    parts = [(band.mean(dim=1), band.std(dim=1, correction=0)) for band in bands]
    return torch.cat([part for pair in parts for part in pair], dim=1)


def thumbnail_descriptor(images: Tensor) -> Tensor:
    """Return grey thumbnails of 64 x 64 without their mean and of unit norm, [S, 4096] float32.

    docs/numerics.md#loop-candidates.

    A uniform image gives zeros, which resemble nothing.

    Args:
        images: [S, 3, H, W] uint8 RGB.
    """
    thumbnails = np.empty((len(images), THUMBNAIL_SIDE**2), np.float32)
    for row, image in zip(thumbnails, images.cpu(), strict=True):
        grey = cv2.cvtColor(np.ascontiguousarray(image.movedim(0, -1).numpy()), cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA)
        row[:] = small.reshape(-1)
    descriptors = torch.from_numpy(thumbnails)
    return torch.nn.functional.normalize(descriptors - descriptors.mean(dim=1, keepdim=True), dim=1)


class FrameDescriptors:
    """Descriptors of the frames of this process's chunks, one file a chunk; those of an earlier run are used."""

    def __init__(self, run: ReconstructionRun, chunk_runner: ChunkRunner) -> None:
        """Keep the files in a folder of the run; `chunk_runner` embeds chunks that `describe` was not called for."""
        self._settings, self._runner = run.recipe.loop_closure, chunk_runner
        self._video, self._layout = run.video, run.layout
        self._folder = run.work_folder / "descriptors"
        self._describe_images: Callable[[Tensor], Tensor] | None = None

    def describe(self, chunk: int, tokens: Tensor) -> None:
        """Keep the descriptors of a chunk's frames from its tokens before the first segment, [S, P, C], if wanted.

        The tokens are in processing order (reference frame first).
        """
        if self._settings.descriptor == "tokens":
            patches = in_temporal_order(tokens[:, self._runner.config.num_special_tokens :], dim=0)
            self._save(chunk, frame_descriptor(patches[self._provided(chunk)]))

    def of(self, chunk: int) -> Tensor:
        """Return the descriptors of the frames that a chunk provides, [S, D] float32 on the CPU."""
        try:
            return load_file(self._path(chunk))["descriptors"]
        except (OSError, SafetensorError):
            pass
        if self._settings.descriptor == "tokens":
            state = self._runner.embed(self._video.images(self._layout.ranges[chunk]))
            self.describe(chunk, state.tensors["tokens"])
        else:
            self._save(chunk, self._from_images(self._layout.provided[chunk]))
        return load_file(self._path(chunk))["descriptors"]

    @property
    def measures_motion(self) -> bool:
        """Whether the network measures the motion between neighbouring frames, so that their order matters."""
        return self._runner.config.has_motion

    @torch.no_grad()
    def _from_images(self, frames: range) -> Tensor:
        if self._describe_images is None:
            self._describe_images = thumbnail_descriptor
            if self._settings.descriptor == "salad":
                assert self._settings.salad_checkpoint is not None
                device = next(self._runner.model.parameters()).device
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
