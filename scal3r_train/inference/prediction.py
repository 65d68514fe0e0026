"""What the network predicts for one chunk, in memory and as a file that is read in parts.

Each chunk has its own coordinate frame, near the camera of its reference frame, and its own scale. Cameras are OpenCV,
extrinsics are cam_from_chunk [3, 4]. The files are written once and are still there after a kill.

Shapes: S frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open
from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.geometry.camera import world_points_from_depth
from scal3r_train.inference.tensor_file import save_tensors

PointSource = Literal["depth", "head"]
FIELDS = ("extrinsics", "intrinsics", "depth", "depth_conf", "world_points", "world_points_conf", "valid")


@dataclass(frozen=True, eq=False)
class ChunkPrediction:
    """Cameras and dense geometry of one chunk, on the CPU, frames in temporal order.

    Attributes:
        extrinsics: [S, 3, 4] float64 cam_from_chunk.
        intrinsics: [S, 3, 3] float64 in pixels of the processed images.
        depth, depth_conf: [S, H, W] z-depth in the chunk's units and its confidence.
        world_points, world_points_conf: [S, H, W, 3] and [S, H, W] of the point head, None when not run.
        valid: [S, H, W] bool, False where a mask excludes a pixel; None: all pixels count.
    """

    extrinsics: Tensor
    intrinsics: Tensor
    depth: Tensor
    depth_conf: Tensor
    world_points: Tensor | None = None
    world_points_conf: Tensor | None = None
    valid: Tensor | None = None

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
            None if self.valid is None else self.valid[frames].clone(),
        )

    @property
    def usable(self) -> Tensor:
        """Pixels with a depth that no mask excludes, [S, H, W] bool."""
        return self.depth > 0 if self.valid is None else (self.depth > 0) & self.valid

    def with_known(self, intrinsics: Tensor | None, valid: Tensor | None) -> ChunkPrediction:
        """Return the prediction with the user's cameras [S, 3, 3], if any, and masks [S, H, W]."""
        return replace(self, intrinsics=self.intrinsics if intrinsics is None else intrinsics, valid=valid)

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


def refuse_non_finite(prediction: ChunkPrediction, number: int, frames: Sequence[int]) -> None:
    """Raise a UserError that names the first frame and field of chunk `number` holding NaN or infinity."""
    for field, values in vars(prediction).items():
        if values is None:
            continue
        bad = ~values.isfinite().flatten(1).all(dim=1)
        if bad.any():
            raise UserError(
                f"the model predicts NaN or infinity in {field} of chunk {number}, frame "
                f"{frames[int(bad.nonzero()[0])]}; check the checkpoint and the images, or use precision float32"
            )


class SavedPrediction:
    """The prediction of one chunk in a file."""

    def __init__(self, path: Path) -> None:
        """Name the file."""
        self._path = path

    def frames(self, frames: slice) -> ChunkPrediction:
        """Return the prediction of some consecutive frames; nothing else is read."""
        try:
            with safe_open(self._path, "pt") as file:
                present = set(file.keys())
                tensors = {name: file.get_slice(name)[frames] for name in FIELDS if name in present}
        except (OSError, SafetensorError) as error:
            raise UserError(f"{self._path} is missing or damaged; remove its folder and run again") from error
        return ChunkPrediction(**tensors)


class PredictionFolder(Mapping[int, SavedPrediction]):
    """Predictions by chunk number."""

    def __init__(self, folder: Path) -> None:
        """Use a folder, with what it holds already."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._numbers = {int(path.stem) for path in folder.glob("*.safetensors") if path.stem.isdecimal()}

    def save(self, number: int, prediction: ChunkPrediction) -> None:
        """Write a prediction; UserError when that fails."""
        tensors = {name: value.contiguous() for name, value in vars(prediction).items() if value is not None}
        save_tensors(self._path(number), tensors, {}, "predictions")
        self._numbers.add(number)

    def __getitem__(self, number: int) -> SavedPrediction:
        if number not in self._numbers:
            raise KeyError(number)
        return SavedPrediction(self._path(number))

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._numbers))

    def __len__(self) -> int:
        return len(self._numbers)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.safetensors"
