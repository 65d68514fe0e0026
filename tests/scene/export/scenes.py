"""Scene folders to export, with images, made without a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import roma
import torch
from PIL import Image

from scal3r_train.scene.point_cloud import PointCloud
from scal3r_train.scene.scene import SceneCameras, SceneFrame, SceneInfo, write_scene

SIZES = ((48, 64), (48, 64), (48, 64), (64, 48), (64, 48))
NAMES = ("a/1.png", "a/2.png", "a/10.png", "b/x.png", "b/y z.png")


def make_scene(
    folder: Path,
    num_points: int = 2000,
    *,
    names: tuple[str, ...] = NAMES,
    sizes: tuple[tuple[int, int], ...] = SIZES,
    root: Path | None = None,
    equal_intrinsics: bool = False,
    **info: object,
) -> Path:
    """Write a scene with random cameras and points, and its images where a root is given."""
    torch.manual_seed(3)
    random = np.random.default_rng(4)
    num_frames = len(names)
    folder.mkdir(parents=True)
    rotation = roma.random_rotmat(num_frames, dtype=torch.float64)
    centres = 10 * torch.randn(num_frames, 3, 1, dtype=torch.float64)
    intrinsics = torch.eye(3, dtype=torch.float64).repeat(num_frames, 1, 1)
    for frame, (height, width) in enumerate(sizes):
        f = 60.0 if equal_intrinsics else 60 + random.normal()
        intrinsics[frame, 0, 0], intrinsics[frame, 1, 1] = f, 1.01 * f
        intrinsics[frame, 0, 2], intrinsics[frame, 1, 2] = width / 2 + 1 / 3, height / 2 - 0.1
    points = PointCloud(
        random.uniform(-5, 5, (num_points, 3)),
        random.integers(0, 256, (num_points, 3), np.uint8),
        random.uniform(1, 9, num_points).astype(np.float32),
        np.linspace(0, num_frames * 14 * 28 - 1, num_points).astype(np.int64),
    )
    values: dict[str, object] = {
        "code_version": "0",
        "created": "now",
        "input": {"dataset": "images", "root": str(root or folder.parent / "nowhere")},
        "num_frames": num_frames,
        "frame_indices": tuple(range(num_frames)),
        "processed_hw": (14, 28),
        "chunks": ((0, 3), (2, 5)),
        "provided_frames": ((0, 3), (3, 5)),
        "world_from_chunk": (((1.0, 0.0, 0.0, 0.0),) * 4,) * 2,
        "seams": (),
        "num_points": num_points,
        "voxel_size": 0.1,
        "recipe": {},
        "checkpoint_sha256": None,
        "num_processes": 1,
        "timings_s": {},
        "peak_memory_bytes": {},
    }
    frames = tuple(SceneFrame(name=name, image_hw=hw) for name, hw in zip(names, sizes, strict=True))
    times = torch.arange(num_frames, dtype=torch.float64) / 30
    write_scene(
        folder,
        SceneCameras(
            SceneInfo.model_validate({**values, **info}),
            frames,
            times,
            torch.cat([rotation, centres], dim=-1),
            intrinsics,
        ),
        points,
    )
    if root is not None:
        for frame in frames:
            make_image(root / frame.name, frame.image_hw)
    return folder


def make_image(path: Path, image_hw: tuple[int, int], **saving: object) -> np.ndarray:
    """Write an image of noise, and return it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (*image_hw, 3), np.uint8)
    Image.fromarray(pixels).save(path, **saving)
    return pixels
