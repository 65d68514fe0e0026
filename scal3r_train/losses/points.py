"""Point-map loss: confidence-weighted and plain distance, and the angle between normals at several strides.

Shapes: B sequences, K chunks, S frames, H W pixels. Points are in the chunk's coordinates, in scene units.
"""

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from scal3r_train.losses.residuals import RegressionSettings, normal_term, regression_terms
from scal3r_train.losses.terms import WeightedTerm, masked, working_precision


class PointLossSettings(RegressionSettings):
    """Settings of the point-map loss."""

    weight: float = Field(default=1.0, ge=0, description="factor of the whole point loss; 0 leaves it out")
    normal_weight: float = Field(
        default=1.0, ge=0, description="factor of the normal terms' mean over the strides"
    )
    normal_strides: tuple[PositiveInt, ...] = Field(
        default=(1, 2, 4), description="pixel strides of the normal terms"
    )


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
