"""Ground truth in the form that the model predicts it, in units of the scene's scale.

Everything is in the coordinates of its own chunk and divided by the scale: the mean distance of the valid points to
the origin of the chunk they belong to, s = (sum m |X|) / (sum m), of the chunk or of the whole sequence; or 1, where
the data have a unit that a picture shows, as the height of the camera above a road. Sum and count are kept apart
because both are separable: of a sequence, those of all chunks, wherever they are, are summed over the context group.
Points, depth and translations are divided alike (VGGT's scene normalisation, without its 1e-3 in the denominator).
Predictions are never rescaled: the model learns the unit.
Shapes: B sequences, K chunks, S frames, H W pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.data.sequence import SequenceBatch
from scal3r_train.geometry.camera import world_points_from_depth
from scal3r_train.geometry.pose_encoding import encode_pose
from scal3r_train.losses.terms import masked, per_chunk

Scope = Literal["chunk", "sequence"]
Unit = Literal["chunk", "sequence", "data"]
SumOver = Callable[[Tensor], Tensor]
MIN_SCALE, MAX_SCALE = 1e-6, 1e6


def distance_sums(points: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of |X| over the valid points of each chunk, and their number: two float64 tensors [B, K].

    points [B, K, S, H, W, 3] in the chunk's coordinates; mask [B, K, S, H, W] bool, True where a point is
    valid. Invalid points may hold anything. float64, because sums over chunks in another order must agree.
    """
    distance = torch.linalg.vector_norm(points, dim=-1)
    distance = torch.where(mask, distance, torch.zeros_like(distance))
    return distance.flatten(2).sum(-1, dtype=torch.float64), mask.flatten(2).sum(-1, dtype=torch.float64)


def mean_distance(distance_sum: Tensor, count: Tensor) -> Tensor:
    """The scale s = distance_sum / count of any shape; exactly 1 where there is no point to measure (count
    0).
    """
    return torch.where(count > 0, distance_sum / count.clamp(min=1), torch.ones_like(distance_sum))


@dataclass(frozen=True)
class Targets:
    """What the losses compare with. Padding chunks are zero in every field and False in every mask.

    pose_encoding [B, K, S, 9] (translation in scene units), depth [B, K, S, H, W], world_points [B, K, S, H,
    W, 3] (chunk coordinates, zero where invalid), mask [B, K, S, H, W] bool: pixels with depth, chunk_mask
    [B, K] bool: real chunks, scale [B, K]: scene units -> batch units, has_scale [B, K] bool: real chunks
    whose scale was measured. Without any depth the scale is 1 and means nothing: such a chunk teaches
    rotation and field of view only, neither depth nor translation.
    """

    pose_encoding: Tensor
    depth: Tensor
    world_points: Tensor
    mask: Tensor
    scale: Tensor
    has_scale: Tensor
    chunk_mask: Tensor


def build_targets(
    batch: SequenceBatch, unit: Unit, sum_over_group: SumOver, min_valid_pixels: int = 100
) -> Targets:
    """Build the targets of the chunks this rank holds, without autocast and without gradient.

    unit: whose mean distance is the unit of length; "data": nobody's, the data's own unit stays. "sequence" calls
    sum_over_group once, with [B, 2]: the element-wise sum over the ranks of the context group, which all hold chunks
    of the same B sequences in the same order. A chunk with fewer than min_valid_pixels pixels of depth counts as one
    without depth. No value is read back from the device: the batch must have passed require_finite, which is cheap on
    the CPU, and whoever uses the targets gives their scale to require_sane_scale once it waits for the device anyway.
    """
    with torch.no_grad(), torch.autocast(batch.depth.device.type, enabled=False):
        mask = valid_pixels(batch, min_valid_pixels)
        points = world_points_from_depth(batch.depth, batch.intrinsics, batch.extrinsics)
        points = masked(points, mask[..., None])
        scale, has_scale = measure_scale(points, mask, batch, unit, sum_over_group)
        scale = scale.to(batch.depth.dtype)
        height, width = batch.depth.shape[-2:]
        encoding = encode_pose(batch.extrinsics, batch.intrinsics, (height, width))
        encoding[..., :3] /= scale[..., None, None]
        return Targets(
            pose_encoding=masked(encoding, per_chunk(batch.chunk_mask, encoding)),
            depth=masked(batch.depth / per_chunk(scale, batch.depth), mask),
            world_points=points / per_chunk(scale, points),
            mask=mask,
            scale=scale,
            has_scale=has_scale,
            chunk_mask=batch.chunk_mask,
        )


def valid_pixels(batch: SequenceBatch, min_valid_pixels: int) -> Tensor:
    """Pixels [B, K, S, H, W] with depth, in real chunks that have at least min_valid_pixels of them."""
    mask = (batch.depth > 0) & per_chunk(batch.chunk_mask, batch.depth)
    has_enough = mask.flatten(2).sum(-1) >= min_valid_pixels
    return mask & per_chunk(has_enough, mask)


def measure_scale(
    points: Tensor, mask: Tensor, batch: SequenceBatch, unit: Unit, sum_over_group: SumOver
) -> tuple[Tensor, Tensor]:
    """Scale [B, K] float64 of every chunk (1 if unmeasured) and, bool, whether it is real and measured."""
    distance_sum, count = distance_sums(points, mask)
    if unit == "data":
        return torch.ones_like(distance_sum), (count > 0) & batch.chunk_mask
    if unit == "sequence":
        sums = sum_over_group(torch.stack([distance_sum.sum(1), count.sum(1)], dim=-1))
        distance_sum, count = (column[:, None].expand_as(count) for column in sums.unbind(-1))
    return mean_distance(distance_sum, count), (count > 0) & batch.chunk_mask


def require_finite(batch: SequenceBatch) -> None:
    """Raise UserError naming the first sequence and field with a NaN or an infinity in a real chunk."""
    fields = {"depth": batch.depth, "extrinsics": batch.extrinsics, "intrinsics": batch.intrinsics}
    is_bad = torch.stack(
        [(~torch.isfinite(field).flatten(2).all(-1) & batch.chunk_mask).any(1) for field in fields.values()]
    )
    if is_bad.any():
        field, sequence = is_bad.nonzero()[0].tolist()
        raise UserError(
            f"{list(fields)[field]} of sequence {batch.sequence_ids[sequence]!r} contain NaN or infinity; "
            "correct or remove it (`scal3r data check` finds the frame)"
        )


def require_sane_scale(scales: Sequence[float], sequence_ids: Sequence[str]) -> None:
    """Raise UserError naming the first sequence whose scale cannot be right: outside [1e-6, 1e6] or NaN.

    scales: the scale [B, K] of B sequences flattened, as numbers; sequence_ids: their B names.
    """
    for place, scale in enumerate(scales):
        if not MIN_SCALE <= scale <= MAX_SCALE:
            name = sequence_ids[place * len(sequence_ids) // len(scales)]
            raise UserError(
                f"mean distance {scale:g} of sequence {name!r} is outside [{MIN_SCALE:g}, {MAX_SCALE:g}]; check the "
                "unit of its depth"
            )
