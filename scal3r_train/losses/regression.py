"""Confidence-weighted and plain residuals with an outlier filter: what the depth and the point loss share.

With a residual r >= 0 and the head's confidence c > 0 per pixel:
    confidence = r c - alpha log c          regression = r
(the aleatoric loss of DUSt3R, MASt3R and VGGT; the plain residual is added so that a head cannot win by
lowering c).

Outlier filter, one per chunk: element losses are capped, then those above a quantile of the chunk's valid
elements are dropped. VGGT takes the quantile over the batch of a rank; per chunk makes the loss independent
of which chunks happen to share a rank. Ties with the quantile are kept. Shapes: B sequences, K chunks, S
frames, H W pixels.
"""

import torch
from pydantic import Field
from torch import Tensor

from scal3r_train.config import StrictModel
from scal3r_train.losses.terms import LossTerm, cap, masked_term


class RegressionSettings(StrictModel):
    """Settings of the confidence and regression terms and of their outlier filter."""

    confidence_weight: float = Field(
        default=1.0, ge=0, description="factor of the confidence-weighted residual"
    )
    regression_weight: float = Field(default=1.0, ge=0, description="factor of the plain residual")
    confidence_alpha: float = Field(
        default=0.2, gt=0, description="reward for high confidence, in scene units"
    )
    max_element_loss: float = Field(
        default=100.0, gt=0, description="cap of one element's loss, in scene units"
    )
    outlier_quantile: float = Field(
        default=0.98, gt=0, le=1, description="elements above this quantile are dropped; 1 = none"
    )
    outlier_min_elements: int = Field(
        default=1000, ge=1, description="a chunk with at most so many elements is not filtered"
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
