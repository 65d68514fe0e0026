"""Pose and depth errors of the chunks of a batch, for validation and for the batch that is trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from scal3r_train.data.sequence import SequenceBatch
from scal3r_train.geometry.pose_encoding import decode_pose
from scal3r_train.metrics.depth import abs_rel_after_median
from scal3r_train.metrics.relative_pose import pose_auc, relative_pose_errors_deg

if TYPE_CHECKING:  # recipes hold settings that lead here, and importing transformers' models takes seconds
    from scal3r_train.model.modeling_scal3r import Scal3ROutput

AUC_THRESHOLDS_DEG = (5, 30)
MEASURED_HEADS = ("camera", "depth")
ERROR_NAMES = (
    "rotation_deg",
    "direction_deg",
    *(f"auc_{limit}" for limit in AUC_THRESHOLDS_DEG),
    "abs_rel",
)


RealChunks = list[tuple[int, int]]


def real_chunks(batch: SequenceBatch) -> RealChunks:
    """Return (sequence, chunk) of the chunks that are no padding, of a batch on the CPU (else this waits)."""
    rows = batch.chunk_mask.tolist()
    return [(b, k) for b, is_real in enumerate(rows) for k in range(len(is_real)) if is_real[k]]


def chunk_errors(
    output: Scal3ROutput, batch: SequenceBatch, chunks: RealChunks, prefix: str = "val"
) -> list[dict[str, Tensor]]:
    """Return the errors of some chunks under `prefix`/name: rotation and direction in degrees, AUC, AbsRel.

    Nothing is read back from the device.
    """
    size = (batch.images.shape[-2], batch.images.shape[-1])
    rows = []
    for sequence, chunk in chunks:
        row = {}
        if isinstance(output.pose_encoding, Tensor):
            extrinsics, _ = decode_pose(output.pose_encoding[sequence, chunk], size)
            rotation, direction = relative_pose_errors_deg(extrinsics, batch.extrinsics[sequence, chunk])
            row = {"rotation_deg": rotation.mean(), "direction_deg": direction.nanmean()}
            row |= {f"auc_{limit}": pose_auc(rotation, direction, limit) for limit in AUC_THRESHOLDS_DEG}
        if isinstance(output.depth, Tensor):
            row["abs_rel"] = abs_rel_after_median(output.depth[sequence, chunk], batch.depth[sequence, chunk])
        rows.append({f"{prefix}/{name}": value for name, value in row.items()})
    return rows
