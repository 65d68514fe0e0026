"""Frames of a sequence: from files to pixels, depth and a camera that fit together.

One frame: decode -> masks -> undo lens distortion -> ray length to z -> drop depth that is too far -> turn upright.
`read_frames` brings all frames of a window to one size. `read_pixels` serves training: it decodes at no more
resolution than is needed, and gives a frame without depth where the depth file is broken.
Shapes: S frames, H W pixels; sizes are (height, width).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.data.camera.rectify import (
    DistortedCamera,
    pinhole_intrinsics,
    undistorted,
    undistorted_nearest,
)
from scal3r_train.data.camera.resize import PixelMap, ResizeAndCrop, ResizeRule, half_pixel_intrinsics
from scal3r_train.data.io.depth_codec import CODECS, SKY, decode_depth, zero_beyond
from scal3r_train.data.io.frame_files import read_file, video_frame
from scal3r_train.data.io.image_codec import at_size, decode_image, decode_mask
from scal3r_train.data.io.video_frames import read_video_frame
from scal3r_train.data.sequence import Frames, SequenceRecord
from scal3r_train.geometry.camera import intrinsics_matrices, invert_extrinsics

# One clockwise quarter turn: what was right is below, what was below is left.
TURNED_FROM_CAMERA = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
REDUCTIONS = (8, 4, 2)  # of JPEG files while they are decoded; only whole ones, so that pixels stay in place


@dataclass(frozen=True)
class FrameCamera:
    """The pinhole camera of one frame, undistorted and upright.

    Attributes:
        intrinsics: [4] float64 fx fy cx cy with pixel centres at half integers, None when unknown.
        extrinsics: [3, 4] float64 cam_from_world, None when unknown.
    """

    intrinsics: np.ndarray | None
    extrinsics: np.ndarray | None


def read_frames(
    record: SequenceRecord,
    frame_indices: Sequence[int],
    image_hw: tuple[int, int] | ResizeRule,
    *,
    with_depth: bool = True,
) -> Frames:
    """Read some frames of a sequence, resized to one size, cameras along with them.

    image_hw: the size (H, W), or the rule that gives it from the size of the sequence's first image. Depth is read
    when the sequence has any and with_depth is set. Raises UserError naming the file that cannot be used.
    """
    indices = [int(index) for index in frame_indices]
    assert indices, "no frames asked for"
    assert 0 <= min(indices) <= max(indices) < record.num_frames, f"frames {indices} of {record.num_frames}"
    target_hw = image_hw.target_hw(record.upright_hw(0)) if isinstance(image_hw, ResizeRule) else image_hw
    multiple = image_hw.cover_multiple if isinstance(image_hw, ResizeRule) else 1
    images, depths, covers = [], [], []
    for index in indices:
        image = read_frame_image(record, index)
        cover = ResizeAndCrop.plan((image.shape[0], image.shape[1]), target_hw, multiple)
        images.append(torch.from_numpy(cover.image(image).transpose(2, 0, 1).copy()))
        covers.append(cover)
        if with_depth and record.depth:
            depth = read_frame_depth(record, index)
            resized = np.zeros(target_hw, np.float32) if depth is None else cover.depth(depth)
            depths.append(torch.from_numpy(np.ascontiguousarray(resized)))
    pixel_map = PixelMap.stack([cover.pixel_map() for cover in covers])
    cameras = [frame_camera(record, index) for index in indices]
    intrinsics, extrinsics = _stacked(cameras)
    return Frames(
        images=torch.stack(images).float() / 255,
        intrinsics=None if intrinsics is None else pixel_map.processed_intrinsics(intrinsics),
        extrinsics=extrinsics,
        depth=torch.stack(depths) if depths else None,
        frame_indices=torch.tensor(indices),
        timestamps=torch.as_tensor(record.timestamp[indices], dtype=torch.float64),
        pixel_map=pixel_map,
    )


def read_frame_image(record: SequenceRecord, index: int, reduction: int = 1) -> np.ndarray:
    """Return the image of a frame [H, W, 3] uint8 RGB, undistorted and upright.

    reduction: 1, 2, 4 or 8; a JPEG file without a lens is decoded at that part of its size. Raises UserError naming the
    file that cannot be read.
    """
    camera = _distorted_camera(record, index)
    image = read_stored_image(record, index, reduction if camera is None else 1)
    if camera is not None:
        image = undistorted(image, camera)
    return _turned(image, record.quarter_turns)


def read_stored_image(record: SequenceRecord, index: int, reduction: int = 1) -> np.ndarray:
    """Return the image of a frame [H, W, 3] uint8 RGB as it is stored, lens and all; else as `read_frame_image`."""
    if record.decoded is not None:
        return record.decoded[index]
    name = record.image[index]
    if (video := video_frame(record, name)) is not None:
        return read_video_frame(*video)
    return decode_image(read_file(record, name), record.root / name, reduction)


def read_frame_depth(record: SequenceRecord, index: int) -> np.ndarray | None:
    """Return z-depth [H, W] float32 of a frame, 0 invalid, -1 sky, at the resolution of the file; None without one.

    It is that of the image of `read_frame_image`: undistorted and upright. Raises UserError naming the file that
    cannot be read.
    """
    if not record.depth or not record.depth[index]:
        return None
    name, size = record.depth[index], record.image_size[index]
    depth = decode_depth(
        read_file(record, name), record.depth_codec, record.root / name, (int(size[0]), int(size[1]))
    )
    depth = _without_masked(record, index, depth)
    if (camera := _distorted_camera(record, index)) is not None:
        depth = undistorted_nearest(depth, camera)
    if CODECS[record.depth_codec].is_ray_length:
        pinhole = _pinhole(record, index)
        assert pinhole is not None, "ray lengths need intrinsics"
        to_depth = np.tile([depth.shape[1] / size[1], depth.shape[0] / size[0]], 2)
        depth = z_from_ray_length(depth, pinhole * to_depth)
    if record.depth_scale != 1:
        depth = np.where(depth > 0, depth * np.float32(record.depth_scale), depth)
    return _turned(_without_far(record, depth), record.quarter_turns)


def read_frame_mask(record: SequenceRecord, index: int) -> np.ndarray | None:
    """Return which pixels of the image of `read_frame_image` are neither masked nor sky, [H, W] bool; None: no masks.

    Raises UserError naming the file that cannot be read.
    """
    height, width = record.image_size[index].tolist()
    valid = None
    for names, rule in ((record.sky_mask, record.sky_mask_rule), (record.mask, record.mask_rule)):
        if names and names[index]:
            data = read_file(record, names[index])
            good = ~at_size(decode_mask(data, rule, record.root / names[index]), (height, width))
            valid = good if valid is None else valid & good
    return None if valid is None else mask_as_read(record, index, valid)


def mask_as_read(record: SequenceRecord, index: int, valid: np.ndarray) -> np.ndarray:
    """Return valid pixels of an image file [H, W] bool as those of `read_frame_image`: undistorted and upright."""
    if (camera := _distorted_camera(record, index)) is not None:
        valid = undistorted_nearest(valid.astype(np.uint8), camera) > 0
    return _turned(valid, record.quarter_turns)


def frame_camera(record: SequenceRecord, index: int) -> FrameCamera:
    """Return the camera of the image of `read_frame_image`."""
    intrinsics = _pinhole(record, index)
    extrinsics = None if record.cam_from_world is None else record.cam_from_world[index]
    height, width = (int(side) for side in record.image_size[index])
    for _ in range(record.quarter_turns % 4):
        if intrinsics is not None:
            fx, fy, cx, cy = intrinsics
            intrinsics = np.array([fy, fx, height - cy, cx])
        extrinsics = None if extrinsics is None else TURNED_FROM_CAMERA @ extrinsics
        height, width = width, height
    return FrameCamera(intrinsics, extrinsics)


def upright_poses(record: SequenceRecord) -> np.ndarray:
    """Return cam_from_world [S, 3, 4] of the images as they stand upright. The record has poses."""
    assert record.cam_from_world is not None, "no poses"
    return np.linalg.matrix_power(TURNED_FROM_CAMERA, record.quarter_turns % 4) @ record.cam_from_world


def true_world_from_cam(record: SequenceRecord) -> Tensor:
    """Return world_from_cam [S, 3, 4] float64 of the upright images, as a reconstruction states them.

    Frames without a pose have NaN, as the index does. The record has poses.
    """
    return invert_extrinsics(torch.from_numpy(upright_poses(record)).double())


def z_from_ray_length(length: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Distance from the camera's centre [H, W] -> z coordinate; what is not positive stays.

    intrinsics: fx fy cx cy in pixels of this array, pixel centres at half integers.
    """
    fx, fy, cx, cy = intrinsics
    x = (np.arange(length.shape[1]) + 0.5 - cx) / fx
    y = (np.arange(length.shape[0])[:, None] + 0.5 - cy) / fy
    return np.where(length > 0, length / np.sqrt(1 + x * x + y * y), length).astype(np.float32)


def _pinhole(record: SequenceRecord, index: int) -> np.ndarray | None:
    """Return fx fy cx cy [4] of the undistorted image with pixel centres at half integers, None when unknown."""
    if record.intrinsics is None:
        return None
    camera = _distorted_camera(record, index)
    if camera is not None:
        return np.array(pinhole_intrinsics(camera))
    return half_pixel_intrinsics(record.intrinsics[index], record.pixel_centre)


def _distorted_camera(record: SequenceRecord, index: int) -> DistortedCamera | None:
    """Return the camera of a frame, None when there is no distortion to undo."""
    if record.camera_model in ("", "pinhole") or record.intrinsics is None:
        return None
    lens = () if record.distortion is None else tuple(record.distortion[index].tolist())
    if record.camera_model == "opencv" and not any(lens):
        return None
    fx, fy, cx, cy = half_pixel_intrinsics(record.intrinsics[index], record.pixel_centre).tolist()
    height, width = record.image_size[index].tolist()
    return DistortedCamera(record.camera_model, (fx, fy, cx, cy), lens, (height, width))


def _without_masked(record: SequenceRecord, index: int, depth: np.ndarray) -> np.ndarray:
    hw = depth.shape[0], depth.shape[1]
    for names, rule, value in (
        (record.sky_mask, record.sky_mask_rule, SKY),
        (record.mask, record.mask_rule, np.float32(0)),
    ):
        if names and names[index]:
            data = read_file(record, names[index])
            marked = at_size(decode_mask(data, rule, record.root / names[index]), hw)
            depth = np.where(marked, value, depth)
    return depth


def _without_far(record: SequenceRecord, depth: np.ndarray) -> np.ndarray:
    limit = record.max_depth if record.max_depth > 0 else np.inf
    if record.max_depth_percentile > 0 and (depth > 0).any():
        limit = min(limit, float(np.percentile(depth[depth > 0], record.max_depth_percentile)))
    if np.isfinite(limit):
        zero_beyond(depth, limit)
    return depth


def _turned(values: np.ndarray, quarter_turns: int) -> np.ndarray:
    return np.rot90(values, -quarter_turns) if quarter_turns % 4 else values


def _stacked(cameras: Sequence[FrameCamera]) -> tuple[Tensor | None, Tensor | None]:
    """Intrinsics [S, 3, 3] and extrinsics [S, 3, 4] float64 of frames; None when unknown."""
    rows = [camera.intrinsics for camera in cameras if camera.intrinsics is not None]
    poses = [camera.extrinsics for camera in cameras if camera.extrinsics is not None]
    intrinsics = intrinsics_matrices(np.stack(rows)) if rows else None
    return intrinsics, torch.from_numpy(np.stack(poses)) if poses else None


@dataclass(frozen=True)
class FramePixels:
    """One frame, undistorted and upright.

    Attributes:
        image: [H, W, 3] uint8, perhaps smaller than the file.
        depth: [H', W'] float32 z-depth, 0 invalid, -1 sky; None without.
        fault: why the frame goes without the depth that it should have; "" when all is well.
    """

    image: np.ndarray
    depth: np.ndarray | None
    fault: str = ""


def read_pixels(record: SequenceRecord, index: int, at_least: tuple[int, int]) -> FramePixels:
    """Decode a frame from its files.

    at_least: H, W that a larger image may be reduced to. Raises UserError naming the image file when it cannot be read
    or is not of the size that the index says.
    """
    hw = record.upright_hw(index)
    fitting = (
        n
        for n in REDUCTIONS
        if all(have % n == 0 and have >= n * want for have, want in zip(hw, at_least, strict=True))
    )
    image = read_frame_image(record, index, next(fitting, 1))
    if hw[0] * image.shape[1] != hw[1] * image.shape[0] or image.shape[0] > hw[0]:
        raise UserError(
            f"image {record.root / record.image[index]} has {image.shape[1]}x{image.shape[0]} pixels, the index says "
            f"{hw[1]}x{hw[0]}; index the data set again"
        )
    try:
        return FramePixels(image, read_frame_depth(record, index))
    except UserError as error:
        return FramePixels(image, None, str(error))
