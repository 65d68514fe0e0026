"""Depth loss: confidence-weighted residual, plain residual, and the residual's gradient at several strides.

Shapes: B sequences, K chunks, S frames, H W pixels. Depths are z-depths in scene units (divided by the
scale).
"""

from pydantic import Field, PositiveInt
from torch import Tensor

from scal3r_train.losses.residuals import RegressionSettings, gradient_term, regression_terms
from scal3r_train.losses.terms import WeightedTerm, masked, working_precision


class DepthLossSettings(RegressionSettings):
    """Settings of the depth loss."""

    weight: float = Field(default=1.0, ge=0, description="factor of the whole depth loss; 0 leaves it out")
    gradient_weight: float = Field(
        default=1.0, ge=0, description="factor of the gradient terms' mean over the strides"
    )
    gradient_strides: tuple[PositiveInt, ...] = Field(
        default=(1, 2, 4, 8), description="pixel strides of the gradient terms"
    )


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
