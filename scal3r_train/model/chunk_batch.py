"""Chunks of equal shape travelling through the network together.

Shapes: B sequences, K chunks, S frames, P tokens of a frame (special first), C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from scal3r_train.model.pixel_values import NestedChunks
from scal3r_train.model.rope import TokenPositions


class MotionEstimate(NamedTuple):
    """The camera motion that a patch encoder measured, frames in temporal order.

    Attributes:
        poses: [B, K, S, 9] pose encodings of cam_from_chunk, in a unit of the encoder's own; their fields of view are
            those it was given, if it was.
        steps: [B, K, S, L, 3, 4] prev_from_cur, each frame's motion to the one before, as each level of the encoder
            left it, coarse to fine; the identity for a chunk's first frame.
        inverse_depth: [B, K, S, h, w] in the poses' unit.
        fov: [B, K, S] horizontal field of view that the encoder sees itself, in radians, equal for all of a chunk.
        focal_evidence: [B, K, 2] information and pull on the log of the focal length that was used, of all
            neighbours of a chunk (geometry/direct_alignment.py).
    """

    poses: Tensor
    steps: Tensor
    inverse_depth: Tensor
    fov: Tensor
    focal_evidence: Tensor

    def with_chunks_of(self, num_sequences: int) -> MotionEstimate:
        """Return fields [B * K, 1, ...], each chunk a sequence of its own, as [B, K, ...]."""
        return MotionEstimate(
            *(rearrange(field, "(b k) 1 ... -> b k ...", b=num_sequences) for field in self)
        )


@dataclass(frozen=True)
class ChunkBatch:
    """Equal chunks and the tokens the network has computed for them.

    Attributes:
        tokens: [B, K, S, P, C], or the images [B, K, S, 3, H, W] before the patch encoder.
        positions: where the P tokens of a frame are.
        sequences: for each of the B rows, which sequence of the call it belongs to.
        chunk_mask: [B, K] bool, False for padding chunks; None when all chunks are real.
        motion: what the patch encoder measured of the camera's motion; None when it does not.
    """

    tokens: Tensor
    positions: TokenPositions
    sequences: tuple[int, ...]
    chunk_mask: Tensor | None
    motion: MotionEstimate | None = None

    def with_tokens(self, tokens: Tensor) -> ChunkBatch:
        """Return the batch with other tokens."""
        return replace(self, tokens=tokens)


@dataclass(frozen=True)
class ImageBatch:
    """Equal chunks of images, and where they came from.

    Attributes:
        images: [B, K, S, 3, H, W].
        sequences: which sequence each row belongs to.
        places: for nested input, (sequence, chunk) of each of the K chunks of the single row; empty for tensor input.
        chunk_mask: [B, K] bool or None.
        fov: [B, K] horizontal field of view in radians where it is known, else None.
    """

    images: Tensor
    sequences: tuple[int, ...]
    places: tuple[tuple[int, int], ...]
    chunk_mask: Tensor | None
    fov: Tensor | None = None

    def one_row_per_chunk(self, first: int) -> ImageBatch:
        """Return the batch as if each chunk were a sequence of its own, [B * K, 1, ...], numbered from `first`."""
        images = rearrange(self.images, "b k ... -> (b k) 1 ...")
        mask, fov = (
            None if each is None else rearrange(each, "b k -> (b k) 1")
            for each in (self.chunk_mask, self.fov)
        )
        return ImageBatch(images, tuple(range(first, first + len(images))), self.places, mask, fov)


def reference_index(num_frames: int) -> int:
    """Return the temporal index of a chunk's reference frame, ceil(S / 2) - 1 (docs/numerics.md#chunks)."""
    return (num_frames + 1) // 2 - 1


def reference_first_order(num_frames: int) -> list[int]:
    """Return the processing order of a chunk's frames: the reference frame, then the others in temporal order."""
    reference = reference_index(num_frames)
    return [reference, *range(reference), *range(reference + 1, num_frames)]


def reference_first(x: Tensor, dim: int) -> Tensor:
    """Return x, whose axis `dim` is the frames of a chunk in temporal order, in processing order.

    One copy on the device: a list of indices would have to travel there first, and its gradient is a scatter.
    """
    num_frames = x.shape[dim]
    reference = reference_index(num_frames)
    before, first, after = x.split([reference, 1, num_frames - reference - 1], dim)
    return torch.cat([first, before, after], dim)


def in_temporal_order(x: Tensor, dim: int) -> Tensor:
    """Return x, whose axis `dim` is the frames of a chunk in processing order, in temporal order."""
    num_frames = x.shape[dim]
    reference = reference_index(num_frames)
    first, before, after = x.split([1, reference, num_frames - reference - 1], dim)
    return torch.cat([before, first, after], dim)


def batch_images(
    images: Tensor | NestedChunks,
    chunk_mask: Tensor | None,
    chunks_per_pass: int | None = None,
    fov: Tensor | float | None = None,
) -> list[ImageBatch]:
    """Group the chunks of a call into batches of equal shape.

    Args:
        images: checked [B, K, S, 3, H, W], or one list per sequence of chunks [S, 3, H, W] that may differ in S, H
            and W. A sequence whose chunks are all held by other processes is an empty list.
        chunk_mask: [B, K] bool, False for padding; only for tensor input (lists need no padding).
        chunks_per_pass: the most chunks of a sequence in one batch; None for all that are equal.
        fov: known horizontal field of view of all chunks; or [B, K] of each, only for tensor input.

    Raises:
        ValueError: the mask or the fields of view do not fit the images.
    """
    if fov is not None and not (isinstance(fov, Tensor) and fov.ndim):
        fov = float(fov)
        if not 0 < fov < math.pi:
            raise ValueError(f"fov must be between 0 and pi radians, got {fov:g}")
    if isinstance(images, Tensor):
        if isinstance(fov, float):
            fov = torch.full(images.shape[:2], fov, device=images.device)
        for name, given in (("chunk_mask", chunk_mask), ("fov", fov)):
            if given is not None and given.shape != images.shape[:2]:
                raise ValueError(f"{name} must be {list(images.shape[:2])}, got {list(given.shape)}")
        size = chunks_per_pass or images.shape[1]
        parts = images.split(size, dim=1)
        masks, fovs = (
            [None] * len(parts) if each is None else each.split(size, dim=1) for each in (chunk_mask, fov)
        )
        sequences = tuple(range(images.shape[0]))
        return [
            ImageBatch(part, sequences, (), mask, of_part)
            for part, mask, of_part in zip(parts, masks, fovs, strict=True)
        ]
    if chunk_mask is not None:
        raise ValueError("chunk_mask goes with tensor input; leave padding chunks out of a list")
    if isinstance(fov, Tensor):
        raise ValueError("fov of every chunk goes with tensor input; a list takes one number for all chunks")
    return [
        batch
        for sequence, chunks in enumerate(images)
        for batch in _batch_sequence(sequence, chunks, chunks_per_pass, fov)
    ]


def _batch_sequence(
    sequence: int, chunks: Sequence[Tensor], chunks_per_pass: int | None, fov: float | None
) -> list[ImageBatch]:
    places_by_shape: dict[torch.Size, list[int]] = {}
    for place, chunk in enumerate(chunks):
        places_by_shape.setdefault(chunk.shape, []).append(place)
    return [
        ImageBatch(
            images=torch.stack([chunks[place] for place in places])[None],
            sequences=(sequence,),
            places=tuple((sequence, place) for place in places),
            chunk_mask=None,
            fov=None if fov is None else torch.full((1, len(places)), fov, device=chunks[0].device),
        )
        for equal in places_by_shape.values()
        for places in _runs(equal, chunks_per_pass or len(equal))
    ]


def _runs(places: list[int], size: int) -> list[list[int]]:
    return [places[start : start + size] for start in range(0, len(places), size)]


def unbatch(
    values: Sequence[Tensor], batches: Sequence[ImageBatch], num_sequences: int
) -> Tensor | list[list[Tensor]]:
    """Return per-chunk values, [B, K, ...] for each batch, in the form of the call's input."""
    if batches and not batches[0].places:
        return values[0] if len(values) == 1 else torch.cat(list(values), dim=1)
    nested: list[dict[int, Tensor]] = [{} for _ in range(num_sequences)]
    for value, batch in zip(values, batches, strict=True):
        for column, (sequence, place) in enumerate(batch.places):
            nested[sequence][place] = value[0, column]
    return [[chunks[place] for place in sorted(chunks)] for chunks in nested]


def unbatch_rows(
    parts: Sequence[Tensor], batches: Sequence[ImageBatch], num_sequences: int, *, of_frames: bool
) -> Tensor | list[list[Tensor]]:
    """Return values with one row for each chunk, or frame of one, in the form of the call's input.

    Args:
        parts: [rows, ...] in the order of the batches, whose rows may be spread over several parts.
        batches: of the call.
        num_sequences: B.
        of_frames: whether rows are frames.

    Returns:
        [B * K, ...] or [B * K * S, ...], the very tensor where there is one part; for nested lists [...] or [S, ...] of
        every chunk.
    """
    if len(parts) == 1 and not batches[0].places:
        return parts[0]
    num_axes = 3 if of_frames else 2
    leading = [batch.images.shape[:num_axes] for batch in batches]
    rows = torch.cat(list(parts)).split([shape.numel() for shape in leading])
    values = [part.unflatten(0, shape) for part, shape in zip(rows, leading, strict=True)]
    found = unbatch(values, batches, num_sequences)
    return found.flatten(0, num_axes - 1) if isinstance(found, Tensor) else found
