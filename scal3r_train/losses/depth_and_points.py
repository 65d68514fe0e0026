"""The losses of the depth map and the point map: confidence-weighted residuals, plain residuals, spatial terms.

With a residual r >= 0 and the head's confidence c > 0 per pixel (|depth error|, or the distance of two points):
    confidence = r c - alpha log c          regression = r
(the aleatoric loss of DUSt3R, MASt3R and VGGT; the plain residual is added so that a head cannot win by
lowering c).

Outlier filter, one per chunk: element losses are capped, then those above a quantile of the chunk's valid
elements are dropped. VGGT takes the quantile over the batch of a rank; per chunk makes the loss independent
of which chunks happen to share a rank. Ties with the quantile are kept.

Spatial terms compare neighbouring pixels: for depth the gradient of the residual, for points the angle between
normals. Both look at a map subsampled by a stride, so that several strides see several scales. Facts from VGGT's
published training (strides 1, 2, 4, 8 for depth; 1, 2, 4 for normals), computed here in float32 or wider.

Shapes: B sequences, K chunks, S frames, H W pixels. Masks are bool, True = supervised. Depths are z-depths, points
are in the chunk's coordinates, both in scene units (divided by the scale).
"""

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from scal3r_train.config import StrictModel
from scal3r_train.losses.terms import LossTerm, WeightedTerm, cap, masked, masked_term, working_precision

# Edges of a point map shorter than this (scene units) and normals whose edges meet at a smaller sine than
# this are too short to have a direction: they are scaled down instead of normalised, which bounds their
# gradient.
MIN_EDGE = 1e-6
MIN_SINE = 1e-3


class RegressionSettings(StrictModel):
    """Settings of the confidence and regression terms and of their outlier filter."""

    confidence_weight: float = Field(
        default=1.0, ge=0, description="factor of the confidence-weighted residual [factor]"
    )
    regression_weight: float = Field(default=1.0, ge=0, description="factor of the plain residual [factor]")
    confidence_alpha: float = Field(default=0.2, gt=0, description="reward for high confidence [scene units]")
    max_element_loss: float = Field(
        default=100.0, gt=0, description="cap of one element's loss [scene units]"
    )
    outlier_quantile: float = Field(
        default=0.98, gt=0, le=1, description="elements above this quantile are dropped; 1: none [share]"
    )
    outlier_min_elements: int = Field(
        default=1000, ge=1, description="a chunk with at most so many elements is not filtered [elements]"
    )


def regression_terms(
    residual: Tensor, confidence: Tensor, mask: Tensor, settings: RegressionSettings
) -> tuple[LossTerm, LossTerm]:
    """The confidence and the regression term of residuals [B, K, S, H, W], zero and finite where mask is
    False.
    """
    # A masked pixel must not reach log(c): whatever it holds, its gradient has to be zero and not 0 / 0.
    confidence = torch.where(mask, confidence, torch.ones_like(confidence))
    weighted = residual * confidence - settings.confidence_alpha * confidence.log()
    return filtered_term(weighted, mask, settings), filtered_term(residual, mask, settings)


def filtered_term(values: Tensor, mask: Tensor, settings: RegressionSettings) -> LossTerm:
    """Cap the element losses [B, K, ...], drop each chunk's outliers, and sum what is left."""
    values = cap(values, settings.max_element_loss)
    if settings.outlier_quantile < 1:
        mask = mask & ~outliers(values.detach(), mask, settings)
    return masked_term(values, mask)


def outliers(values: Tensor, mask: Tensor, settings: RegressionSettings) -> Tensor:
    """True for finite values [B, K, ...] above the chunk's quantile (the floor(q (n - 1))-th of n valid
    values).

    Non-finite values are never called outliers: they have to reach the finiteness vote.
    """
    count = mask.flatten(2).sum(-1, keepdim=True)
    rank = (settings.outlier_quantile * (count.double() - 1)).floor().clamp(min=0).long()
    ordered = values.masked_fill(~mask, torch.inf).flatten(2).sort(dim=-1).values
    threshold = ordered.gather(-1, rank).reshape(*values.shape[:2], *([1] * (values.dim() - 2)))
    is_filtered = (count > settings.outlier_min_elements).reshape_as(threshold)
    return is_filtered & torch.isfinite(values) & (values > threshold)


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


class DepthLossSettings(RegressionSettings):
    """Settings of the depth loss."""

    weight: float = Field(
        default=1.0, ge=0, description="factor of the whole depth loss; 0 leaves it out [factor]"
    )
    gradient_weight: float = Field(
        default=1.0, ge=0, description="factor of the gradient terms' mean over the strides [factor]"
    )
    gradient_strides: tuple[PositiveInt, ...] = Field(
        default=(1, 2, 4, 8), description="strides of the gradient terms [pixels]"
    )

    @property
    def teaches(self) -> bool:
        """Whether any term has a weight."""
        gradient_weight = self.gradient_weight if self.gradient_strides else 0.0
        return self.weight * max(self.confidence_weight, self.regression_weight, gradient_weight) > 0


def depth_terms(
    depth: Tensor, confidence: Tensor, truth: Tensor, mask: Tensor, settings: DepthLossSettings
) -> dict[str, WeightedTerm]:
    """Terms `depth_confidence`, `depth_regression`, `depth_gradient_<stride>` of [B, K, S, H, W] maps."""
    depth, confidence = working_precision(depth), working_precision(confidence)
    error = masked(depth - truth, mask)
    confident, plain = regression_terms(error.abs(), confidence, mask, settings)
    terms = {
        "depth_confidence": WeightedTerm(settings.weight * settings.confidence_weight, confident),
        "depth_regression": WeightedTerm(settings.weight * settings.regression_weight, plain),
    }
    for stride in settings.gradient_strides:
        weight = settings.weight * settings.gradient_weight / len(settings.gradient_strides)
        term = gradient_term(error, mask, stride, settings.max_element_loss)
        terms[f"depth_gradient_{stride}"] = WeightedTerm(weight, term)
    return terms


class PointLossSettings(RegressionSettings):
    """Settings of the point-map loss."""

    weight: float = Field(
        default=1.0, ge=0, description="factor of the whole point loss; 0 leaves it out [factor]"
    )
    normal_weight: float = Field(
        default=1.0, ge=0, description="factor of the normal terms' mean over the strides [factor]"
    )
    normal_strides: tuple[PositiveInt, ...] = Field(
        default=(1, 2, 4), description="strides of the normal terms [pixels]"
    )

    @property
    def teaches(self) -> bool:
        """Whether any term has a weight."""
        normal_weight = self.normal_weight if self.normal_strides else 0.0
        return self.weight * max(self.confidence_weight, self.regression_weight, normal_weight) > 0


def point_terms(
    points: Tensor, confidence: Tensor, truth: Tensor, mask: Tensor, settings: PointLossSettings
) -> dict[str, WeightedTerm]:
    """Terms `points_confidence`, `points_regression`, `points_normal_<stride>`.

    points and truth [B, K, S, H, W, 3]; confidence and mask [B, K, S, H, W].
    """
    points, confidence = working_precision(points), working_precision(confidence)
    error = masked(points - truth, mask[..., None])
    distance = torch.linalg.vector_norm(error, dim=-1)
    confident, plain = regression_terms(distance, confidence, mask, settings)
    terms = {
        "points_confidence": WeightedTerm(settings.weight * settings.confidence_weight, confident),
        "points_regression": WeightedTerm(settings.weight * settings.regression_weight, plain),
    }
    for stride in settings.normal_strides:
        weight = settings.weight * settings.normal_weight / len(settings.normal_strides)
        terms[f"points_normal_{stride}"] = WeightedTerm(weight, normal_term(points, truth, mask, stride))
    return terms
