"""Chunks in memory to predictions in memory: the segment schedule with everything on the device.

For few chunks, and for tests; `share.predict_share` does the same for videos of any length.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from scal3r_train.inference.chunk_pass import ChunkPass, Precision
from scal3r_train.inference.prediction import ChunkPrediction, PointSource
from scal3r_train.inference.schedule import SegmentSchedule
from scal3r_train.inference.state_store import DeviceStore
from scal3r_train.model.modeling_scal3r import Scal3RModel


def predict_chunks(
    model: Scal3RModel,
    images: Mapping[int, Tensor],
    points: PointSource = "depth",
    precision: Precision = "float32",
    frames_per_pass: int = 16,
) -> dict[int, ChunkPrediction]:
    """Return the prediction for each of this process's chunks, by chunk number.

    Every process connected by the model's memories must call this, also with no chunks at all.

    Args:
        model: in evaluation mode.
        images: [S, 3, H, W] uint8 RGB by chunk number; floats are made here, on the model's device.
        points: "head" runs the point head too.
        precision: of encoder and attention.
        frames_per_pass: how many frames pass frame-wise parts of the network together.
    """
    predictions: dict[int, ChunkPrediction] = {}
    schedule = SegmentSchedule(
        ChunkPass(model, points, precision), images.__getitem__, DeviceStore(), frames_per_pass
    )
    schedule.run(list(images), predictions.__setitem__)
    return predictions
