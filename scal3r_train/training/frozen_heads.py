"""Which heads a run leaves as they are."""

from __future__ import annotations

from scal3r_train.losses.objective import ObjectiveSettings
from scal3r_train.model.modeling_scal3r import Scal3RModel


def freeze_untrained_heads(model: Scal3RModel, losses: ObjectiveSettings) -> None:
    """Freeze heads whose loss has no weight: engines wait for the gradient of every trainable parameter."""
    weights = (
        (model.camera_head, losses.camera.weight),
        (model.depth_head, losses.depth.weight),
        (model.point_head, losses.points.weight),
    )
    for head, weight in weights:
        if head is not None and weight == 0:
            head.requires_grad_(False)
