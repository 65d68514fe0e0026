"""What the network says about every chunk that this process holds. First cut: they all pass together.

With several processes each holds some chunks of the video, the memories sum over all of them, and every
process keeps what it predicted. Each chunk has its own coordinate frame, near the camera of its reference
frame, and its own scale. Cameras are OpenCV, extrinsics are cam_from_chunk [3, 4].

Shapes: S frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.geometry.pointmap import world_points_from_depth
from scal3r_train.geometry.pose_encoding import decode_pose
from scal3r_train.model.modeling_scal3r import Scal3RModel, Scal3ROutput

PointSource = Literal["depth", "head"]
MAX_UINT8 = 255


@dataclass(frozen=True, eq=False)
class ChunkPrediction:
    """Cameras and dense geometry of one chunk, on the CPU, frames in temporal order.

    Attributes:
        extrinsics: [S, 3, 4] float64 cam_from_chunk.
        intrinsics: [S, 3, 3] float64 in pixels of the processed images.
        depth, depth_conf: [S, H, W] z-depth in the chunk's units and its confidence.
        world_points, world_points_conf: [S, H, W, 3] and [S, H, W] of the point head, None when not run.
    """

    extrinsics: Tensor
    intrinsics: Tensor
    depth: Tensor
    depth_conf: Tensor
    world_points: Tensor | None = None
    world_points_conf: Tensor | None = None

    @property
    def num_frames(self) -> int:
        """S, the number of frames."""
        return self.depth.shape[0]

    def frames(self, frames: slice) -> ChunkPrediction:
        """Return the prediction of some consecutive frames only, in memory of its own."""
        return ChunkPrediction(
            self.extrinsics[frames].clone(),
            self.intrinsics[frames].clone(),
            self.depth[frames].clone(),
            self.depth_conf[frames].clone(),
            None if self.world_points is None else self.world_points[frames].clone(),
            None if self.world_points_conf is None else self.world_points_conf[frames].clone(),
        )

    def points(self, source: PointSource) -> tuple[Tensor, Tensor]:
        """Return points [S, H, W, 3] float64 in chunk coordinates and their confidence [S, H, W].

        "depth" unprojects the depth map through the predicted camera, "head" is the point head's own map.
        """
        if source == "head":
            assert self.world_points is not None
            assert self.world_points_conf is not None
            return self.world_points.double(), self.world_points_conf
        points = world_points_from_depth(self.depth.double(), self.intrinsics, self.extrinsics)
        return points, self.depth_conf


def predict_chunks(
    model: Scal3RModel,
    images: Mapping[int, Tensor],
    points: PointSource = "depth",
    precision: Literal["float32", "bfloat16"] = "float32",
) -> dict[int, ChunkPrediction]:
    """Return the prediction for each of this process's chunks, by chunk number.

    Every process connected by the model's memories must call this, also with no chunks at all.

    Args:
        model: in evaluation mode.
        images: [S, 3, H, W] uint8 RGB by chunk number; floats are made here, on the model's device.
        points: "head" runs the point head too.
        precision: of encoder and attention.
    """
    weight = next(model.parameters())
    chunks = [chunk.to(weight.device).to(weight.dtype) / MAX_UINT8 for chunk in images.values()]
    heads = ["camera", "depth", *(["points"] if points == "head" else [])]
    autocast = precision == "bfloat16"
    with torch.no_grad(), torch.autocast(weight.device.type, torch.bfloat16) if autocast else nullcontext():
        output = model([chunks], heads=heads)
    return {
        number: _chunk_prediction(output, place, (chunk.shape[-2], chunk.shape[-1]))
        for place, (number, chunk) in enumerate(zip(images, chunks, strict=True))
    }


def _chunk_prediction(output: Scal3ROutput, place: int, image_hw: tuple[int, int]) -> ChunkPrediction:
    """Return one chunk of the only sequence of a call."""

    def of_chunk(values: Sequence[Sequence[Tensor]] | Tensor | None) -> Tensor | None:
        return None if values is None else values[0][place].cpu()

    pose_encoding = of_chunk(output.pose_encoding)
    depth, depth_conf = of_chunk(output.depth), of_chunk(output.depth_conf)
    assert pose_encoding is not None
    assert depth is not None
    assert depth_conf is not None
    extrinsics, intrinsics = decode_pose(pose_encoding.double(), image_hw)
    return ChunkPrediction(
        extrinsics,
        intrinsics,
        depth,
        depth_conf,
        of_chunk(output.world_points),
        of_chunk(output.world_points_conf),
    )


def refuse_non_finite(predictions: Mapping[int, ChunkPrediction], ranges: Sequence[range]) -> None:
    """Raise a UserError that names the first chunk, frame and field holding NaN or infinity."""
    for number, prediction in predictions.items():
        for field, values in vars(prediction).items():
            if values is None:
                continue
            bad = ~values.isfinite().flatten(1).all(dim=1)
            if bad.any():
                place = int(bad.nonzero()[0])
                raise UserError(
                    f"the model predicts NaN or infinity in {field} of chunk {number}, frame "
                    f"{ranges[number][place]}; check the checkpoint and the images, or use precision float32"
                )
