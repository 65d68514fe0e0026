"""The unit of a scene: the mean distance of its valid points to the origin of the chunk they belong to.

s = (sum m |X|) / (sum m). Sum and count are returned apart, because both are separable: added up over chunks,
and over the ranks of a context group, they give the scale of a whole sequence. Normalised geometry is
geometry / s, for points, depth and translations alike (VGGT's scene normalisation, without its 1e-3 in the
denominator). Shapes: B sequences, K chunks, S frames, H W pixels.
"""

import torch
from torch import Tensor


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
