"""Scal3R's image processor for transformers: images in, `pixel_values` of chunks out, and back to cameras and points.

Which frames, at which size, cut how, is decided by the code that `scal3r reconstruct` runs (input/video.py,
chunking.py), so the model sees the same pixels to the bit.

Shapes: K chunks, S frames of a chunk, N frames of the input, H W pixels of the processed images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import AutoImageProcessor, BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import ImagesKwargs

from scal3r_train.config import UserError, validate_mapping
from scal3r_train.data.camera.resize import PixelMap, ResizeRule
from scal3r_train.data.index.source import Images, sequence_of
from scal3r_train.geometry.camera import invert_extrinsics
from scal3r_train.geometry.pose_encoding import decode_pose
from scal3r_train.inference.alignment.neighbours import align_neighbours
from scal3r_train.inference.alignment.placed_frames import PlacedFrames
from scal3r_train.inference.alignment.placement import Placement
from scal3r_train.inference.chunking import Layout, ScheduleSettings
from scal3r_train.inference.input.settings import InputSettings
from scal3r_train.inference.input.video import Video
from scal3r_train.inference.prediction import ChunkPrediction, PointSource, refuse_non_finite
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.model.configuration_scal3r import PROCESSOR_AUTO_MAP, Scal3RConfig
from scal3r_train.model.modeling_scal3r import Scal3ROutput

MAX_UINT8 = 255
# Keys of a recipe's `input` section: which frames, and their cameras. Masks are for whole runs.
INPUT_KEYS = (
    "image_hw", "start", "stop", "start_s", "stop_s", "fps", "stride", "max_frames", "timestamps", "intrinsics",
)  # fmt: skip
SOURCE = "image processor"


@dataclass(frozen=True, eq=False)
class InputFrames:
    """What is needed to go back from the model's images to the input.

    Attributes:
        frame_indices: [N] int64, frames of the input that are used.
        names: of their N images.
        timestamps: [N] float64 seconds, or the numbers of the frames where the input has no times.
        image_hw: height and width at which they are processed.
        pixel_map: processed_xy = input_xy * scale + offset of every frame: the resize and the crop.
        chunks: frames of every chunk, of 0..N.
        schedule: how they were cut.
        intrinsics: [N, 3, 3] float64 known cameras in pixels of the processed images, or None.
    """

    frame_indices: np.ndarray
    names: tuple[str, ...]
    timestamps: np.ndarray
    image_hw: tuple[int, int]
    pixel_map: PixelMap
    chunks: tuple[range, ...]
    schedule: ScheduleSettings
    intrinsics: Tensor | None

    @property
    def original_hw(self) -> np.ndarray:
        """[N, 2] int64 height and width of the input images, upright."""
        return self.pixel_map.input_hw.numpy()


class Scal3RInputs(BatchFeature):
    """`pixel_values` for the model, so that `model(**inputs)` works, and what `post_process` needs beside them.

    Attributes:
        frames: the way back to the input.
    """

    frames: InputFrames

    def __init__(self, data: Mapping[str, Any], frames: InputFrames) -> None:
        """Hold both."""
        super().__init__(dict(data))
        self.frames = frames

    def __getstate__(self) -> dict[str, Any]:
        return {"data": self.data, "frames": self.frames}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.data, self.frames = state["data"], state["frames"]


@dataclass(frozen=True, eq=False)
class FrameGeometry:
    """Cameras and dense geometry of some frames, as arrays. Cameras are OpenCV's: x right, y down, z forward.

    Attributes:
        frame_indices: [S] int64 of the input's frames.
        cam_from_world, world_from_cam: [S, 3, 4] float64, the one inverse to the other.
        intrinsics: [S, 3, 3] float64 in pixels of the *input* images, centre of the top-left pixel (0.5, 0.5).
        depth, depth_conf: [S, H, W] float32 z-depth, in units of the world, and its confidence (>= 1).
        points, points_conf: [S, H, W, 3] float32 in the world, and [S, H, W] their confidence.
    """

    frame_indices: np.ndarray
    cam_from_world: np.ndarray
    world_from_cam: np.ndarray
    intrinsics: np.ndarray
    depth: np.ndarray
    depth_conf: np.ndarray
    points: np.ndarray
    points_conf: np.ndarray


class Scal3RImageProcessorKwargs(ImagesKwargs, total=False):
    """What a call may change of a processor's settings."""

    image_size: int
    image_side: Literal["long_side", "width"]
    patch_size: int
    chunk_size: int
    overlap: int


OWN_KEYS = ("image_size", "image_side", "patch_size", "chunk_size", "overlap")


class Scal3RImageProcessor(BaseImageProcessor):
    """Images of a video to `pixel_values` [K, S, 3, H, W] of overlapping chunks, float32 RGB in [0, 1].

        inputs = processor("drive.mp4", stride=2)
        output = model(**inputs)
        scene = processor.stitch(output, inputs)

    Mean and deviation stay: the model removes them itself.
    """

    model_input_names = ["pixel_values"]
    valid_kwargs = Scal3RImageProcessorKwargs

    def __init__(
        self,
        image_size: int = 518,
        patch_size: int = 14,
        image_side: Literal["long_side", "width"] = "long_side",
        chunk_size: int = 60,
        overlap: int = 30,
        **kwargs: Any,
    ) -> None:
        """Say how images are sized and cut.

        Args:
            image_size: pixels of the side that `image_side` names, of the first image; all others follow it.
            patch_size: both sides become multiples of it.
            image_side: "long_side" or "width" (`ResizeRule`).
            chunk_size: frames of a chunk; the last may be shorter.
            overlap: frames that neighbouring chunks share.
            kwargs: what transformers adds to saved settings.

        Raises:
            UserError: the overlap is not less than the chunk; a size out of range is found at the first call.
        """
        super().__init__(**kwargs)
        self.image_size = image_size
        self.patch_size = patch_size
        self.image_side = image_side
        self.chunk_size = chunk_size
        self.overlap = overlap
        self._schedule({})

    @classmethod
    def register_for_auto_class(cls, auto_class: object = "AutoImageProcessor") -> None:
        """Do nothing, as `Scal3RConfig.register_for_auto_class`."""

    def to_dict(self) -> dict[str, Any]:
        """Return what is saved: the settings, and where the Auto class finds this one."""
        return {
            "auto_map": dict(PROCESSOR_AUTO_MAP),
            "image_processor_type": type(self).__name__,
            **{key: getattr(self, key) for key in OWN_KEYS},
        }

    def preprocess(
        self,
        images: Images,
        return_tensors: str | None = "pt",
        **options: Any,
    ) -> Scal3RInputs:
        """Return the images of all chunks, and the way back.

        Args:
            images: a folder, a video, INDEX.parquet#sequence_id, one image or a list: paths, PIL images, arrays or
                tensors, [H, W, 3] or [3, H, W], uint8 or floating point in [0, 1], in temporal order.
            return_tensors: "pt"; "np" for arrays.
            options: other values of the processor's settings for this call; which frames, and their cameras, as the
                keys of a recipe's `input` section have it (docs/input.md): `stride`, `fps`, `start`, `stop`,
                `start_s`, `stop_s`, `max_frames`, `timestamps`, `image_hw`, `intrinsics`.

        Returns:
            `pixel_values` [K, S, 3, H, W] float32 in [0, 1], or, where the last chunk is shorter, a list of one list of
            chunks [S, 3, H, W], which the model takes as well; with known cameras that share a field of view `fov`, a
            number of radians, which a model that measures motion starts from; `frames` beside it.

        Raises:
            UserError: images or options cannot be used; one line.
        """
        if return_tensors not in (None, "pt", "np"):
            raise UserError(f"return_tensors = {return_tensors!r}; it should be 'pt' or 'np'")
        resize, schedule = self._resize(options), self._schedule(options)
        chosen = {key: value for key, value in options.items() if key not in OWN_KEYS}
        if unknown := sorted(set(chosen) - set(INPUT_KEYS)):
            raise UserError(
                f"{SOURCE}: unknown option '{unknown[0]}'; known are {', '.join((*OWN_KEYS, *INPUT_KEYS))}"
            )
        settings = validate_mapping(InputSettings, {**chosen, "resize": resize.model_dump()}, SOURCE)
        sizes = _Sizes(resize.size, resize.multiple)
        with closing(Video.choose(sequence_of(images), settings, sizes)) as video:
            layout = Layout.plan(video.num_frames, schedule, num_processes=1)
            pixels = video.images(range(video.num_frames)).float() / MAX_UINT8
            frames, fov = _frames_of(video, layout, schedule), video.known_fov()
        parts = [pixels[chunk.start : chunk.stop] for chunk in layout.ranges]
        values: Any = torch.stack(parts) if len(set(map(len, parts))) == 1 else [parts]
        if return_tensors == "np":
            values = values.numpy() if isinstance(values, Tensor) else [[part.numpy() for part in parts]]
        known = {} if fov is None else {"fov": fov}
        return Scal3RInputs({"pixel_values": values, **known}, frames)

    def post_process(
        self, outputs: Scal3ROutput, inputs: Scal3RInputs, points: PointSource = "depth"
    ) -> list[FrameGeometry]:
        """Return what the model says of every chunk, in the world of that chunk: near the camera of its middle frame.

        Args:
            outputs: of the model, of `inputs`.
            inputs: of this processor.
            points: from depth and camera, or "head": the point head's own.

        Raises:
            UserError: outputs and inputs do not belong together, a head was not run, or a prediction is not finite.
        """
        frames = inputs.frames
        found = []
        for number, prediction in _predictions(outputs, frames, points).items():
            positions, confidence = prediction.points(points)
            found.append(
                _geometry(
                    frames,
                    frames.chunks[number],
                    cam_from_world=prediction.extrinsics,
                    intrinsics=prediction.intrinsics,
                    depth=(prediction.depth, prediction.depth_conf),
                    points=(positions, confidence),
                )
            )
        return found

    def stitch(
        self, outputs: Scal3ROutput, inputs: Scal3RInputs, points: PointSource = "depth"
    ) -> FrameGeometry:
        """Return all N frames once, in the world of the first frame's camera and the units of chunk 0.

        Chunks are joined by the frames that they share, and what two chunks say of a frame is fused, as in a
        reconstruction without loop closure. Arguments and errors as for `post_process`.
        """
        frames = inputs.frames
        recipe = ReconstructionRecipe(schedule=frames.schedule, points=points)
        layout = Layout.plan(len(frames.names), frames.schedule, num_processes=1)
        predictions = _predictions(outputs, frames, points)
        seams = align_neighbours(predictions, {}, layout.ranges, recipe.alignment, points)
        first = predictions[0]
        placement = Placement.along_seams(
            layout,
            [seams[number] for number in range(len(layout.ranges) - 1)],
            first.extrinsics[0],
            float(first.depth.median()),
            recipe,
        )
        placed = [
            part
            for number, prediction in predictions.items()
            for part in placement.decided_frames(number, prediction, predictions.get(number + 1), recipe)
        ]
        return _geometry(
            frames,
            range(len(frames.names)),
            cam_from_world=invert_extrinsics(_joined(placed, "world_from_cam")),
            intrinsics=_joined(placed, "intrinsics"),
            depth=(_joined(placed, "depth"), _joined(placed, "depth_conf")),
            points=(_joined(placed, "points"), _joined(placed, "confidence")),
        )

    def _resize(self, options: Mapping[str, Any]) -> ResizeRule:
        """Return how images are sized, with a call's other values."""
        kind, size, multiple = (
            options.get(key, getattr(self, key)) for key in ("image_side", "image_size", "patch_size")
        )
        return validate_mapping(ResizeRule, {"kind": kind, "size": size, "multiple": multiple}, SOURCE)

    def _schedule(self, options: Mapping[str, Any]) -> ScheduleSettings:
        """Return how they are cut, with a call's other values."""
        chunks = {key: options.get(key, getattr(self, key)) for key in ("chunk_size", "overlap")}
        return validate_mapping(ScheduleSettings, chunks, SOURCE)


@dataclass(frozen=True)
class _Sizes:
    image_size: int
    patch_size: int


def _frames_of(video: Video, layout: Layout, schedule: ScheduleSettings) -> InputFrames:
    everything = range(video.num_frames)
    return InputFrames(
        frame_indices=np.array(video.frame_indices, np.int64),
        names=tuple(frame.name for frame in video.scene_frames),
        timestamps=video.timestamps.numpy(),
        image_hw=video.image_hw,
        pixel_map=video.pixel_map_of(everything),
        chunks=layout.ranges,
        schedule=schedule,
        intrinsics=video.known_intrinsics(everything),
    )


def _predictions(
    outputs: Scal3ROutput, frames: InputFrames, points: PointSource
) -> dict[int, ChunkPrediction]:
    """Return the outputs of every chunk; UserError when they are not of these frames, or not all there."""
    if not isinstance(outputs, Scal3ROutput):
        raise UserError("outputs are not the model's Scal3ROutput; call the model with return_dict=True")
    needed = ["pose_encoding", "depth", "depth_conf"]
    if points == "head":
        needed += ["world_points", "world_points_conf"]
    of_sequence: dict[str, Sequence[Tensor]] = {}
    for name in needed:
        value = outputs[name] if name in outputs else None
        if value is None:
            raise UserError(f"outputs hold no {name}: that head was not run, or the model has none")
        if len(value) != 1 or len(value[0]) != len(frames.chunks):
            raise UserError(
                f"outputs are of {len(value)} sequences of {len(value[0])} chunks, inputs of one of "
                f"{len(frames.chunks)}; give those of the same call"
            )
        of_sequence[name] = value[0]
    predictions = {}
    for number, chunk in enumerate(frames.chunks):
        encoding, *maps = (of_sequence[name][number].detach().cpu() for name in needed)
        if maps[0].shape != (len(chunk), *frames.image_hw):
            raise UserError(
                f"outputs of chunk {number} are {list(maps[0].shape)}, inputs {[len(chunk), *frames.image_hw]}; give "
                "those of the same call"
            )
        extrinsics, intrinsics = decode_pose(encoding.double(), frames.image_hw)
        prediction = ChunkPrediction(extrinsics, intrinsics, *(each.float() for each in maps))
        refuse_non_finite(prediction, number, chunk)
        known = None if frames.intrinsics is None else frames.intrinsics[chunk.start : chunk.stop]
        predictions[number] = prediction.with_known(known, None)
    return predictions


def _joined(placed: Sequence[PlacedFrames], name: str) -> Tensor:
    return torch.cat([getattr(part, name) for part in placed])


def _geometry(
    frames: InputFrames,
    which: range,
    *,
    cam_from_world: Tensor,
    intrinsics: Tensor,
    depth: tuple[Tensor, Tensor],
    points: tuple[Tensor, Tensor],
) -> FrameGeometry:
    """Return what is known of some frames as arrays, intrinsics [S, 3, 3] moved to the input's pixels."""
    part = slice(which.start, which.stop)
    whole = frames.pixel_map
    pixel_map = PixelMap(whole.scale[part], whole.offset[part], whole.input_hw[part])
    return FrameGeometry(
        frame_indices=frames.frame_indices[part],
        cam_from_world=cam_from_world.numpy(),
        world_from_cam=invert_extrinsics(cam_from_world).numpy(),
        intrinsics=pixel_map.input_intrinsics(intrinsics).numpy(),
        depth=depth[0].numpy(),
        depth_conf=depth[1].numpy(),
        points=points[0].float().numpy(),
        points_conf=points[1].numpy(),
    )


with suppress(ImportError):  # some versions of transformers have an AutoImageProcessor with torchvision only
    AutoImageProcessor.register(Scal3RConfig, Scal3RImageProcessor)
