"""Spatial loss terms: the gradient of a residual map, and the angle between the normals of two point maps.

Both look at a map subsampled by a stride, so that several strides see several scales. Facts from VGGT's
published training (strides 1, 2, 4, 8 for depth; 1, 2, 4 for normals), computed here in float32 or wider.
Shapes: B sequences, K chunks, S frames, H W pixels. Masks are bool, True = supervised.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from scal3r_train.losses.terms import LossTerm, cap, masked, masked_term

# Edges of a point map shorter than this (scene units) and normals whose edges meet at a smaller sine than
# this are too short to have a direction: they are scaled down instead of normalised, which bounds their
# gradient.
MIN_EDGE = 1e-6
MIN_SINE = 1e-3


def gradient_term(residual: Tensor, mask: Tensor, stride: int, max_element_loss: float) -> LossTerm:
    """Absolute differences of neighbouring residuals [B, K, S, H, W] at a stride, per valid pixel.

    residual = prediction - truth (signed), zero where mask is False. A difference counts where both
    neighbours are valid; the count is that of the valid pixels on the strided grid, as each pixel stands for
    one step in x and one in y.
    """
    residual, mask = residual[..., ::stride, ::stride], mask[..., ::stride, ::stride]
    step_x, step_y = residual.diff(dim=-1).abs(), residual.diff(dim=-2).abs()
    along_x = masked_term(cap(step_x, max_element_loss), mask[..., 1:] & mask[..., :-1])
    along_y = masked_term(cap(step_y, max_element_loss), mask[..., 1:, :] & mask[..., :-1, :])
    return LossTerm(total=along_x.total + along_y.total, count=mask.flatten(2).sum(-1).to(residual.dtype))


def normal_term(predicted: Tensor, truth: Tensor, mask: Tensor, stride: int) -> LossTerm:
    """1 - cosine between the surface normals of two point maps [B, K, S, H, W, 3] at a stride.

    Every pixel has four normals, one for each pair of adjacent neighbours. One counts where the pixel and
    both of its neighbours are valid and the true surface has a direction there.
    """
    mask = mask[..., ::stride, ::stride]
    predicted_normals, _, _ = corner_normals(predicted[..., ::stride, ::stride, :], mask)
    true_normals, valid, sine = corner_normals(truth[..., ::stride, ::stride, :], mask)
    loss = 1 - (predicted_normals * true_normals).sum(-1)
    return masked_term(loss.movedim(0, 2), (valid & (sine > MIN_SINE)).movedim(0, 2))


def corner_normals(points: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unit normals of the four corners around each pixel, their validity and the sine between their edges.

    points [..., H, W, 3] and mask [..., H, W] to normals [4, ..., H, W, 3], validity and sine [4, ..., H, W].
    The corners are (up, left), (left, down), (down, right), (right, up).
    """
    padded, padded_mask = F.pad(points, (0, 0, 1, 1, 1, 1)), F.pad(mask, (1, 1, 1, 1))
    height, width = mask.shape[-2:]
    edges, valid = [], []
    # Row and column where the window begins that shows every pixel's upper, left, lower and right neighbour.
    for row, column in ((0, 1), (1, 0), (2, 1), (1, 2)):
        window = (..., slice(row, row + height), slice(column, column + width))
        valid.append(padded_mask[window] & mask)
        edge = masked(padded[(*window, slice(None))] - points, valid[-1][..., None])
        edges.append(F.normalize(edge, dim=-1, eps=MIN_EDGE))
    following = edges[1:] + edges[:1]
    normals = torch.stack([torch.linalg.cross(a, b, dim=-1) for a, b in zip(edges, following, strict=True)])
    both_valid = torch.stack([a & b for a, b in zip(valid, valid[1:] + valid[:1], strict=True)])
    return F.normalize(normals, dim=-1, eps=MIN_SINE), both_valid, torch.linalg.vector_norm(normals, dim=-1)
