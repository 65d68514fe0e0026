"""A folder as CUT3R's preprocessing writes it, from a miniature."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.data_tools.miniature import Miniature


def write_folder(folder: Path, scene: Miniature, end: str, *, outliers: bool) -> None:
    """Sky is marked where nothing is seen (its depth is garbage), every tenth column as outliers, whose depth is wrong;
    the last image has no camera, the one before a pose that is not finite."""
    for name in ("rgb", "depth", "cam", "sky_mask", *(["outlier_mask"] if outliers else [])):
        (folder / name).mkdir(parents=True)
    fx, fy, cx, cy = scene.intrinsics[0]
    for i, image in enumerate(scene.images):
        stem = f"frame_{i + 1:05d}"
        Image.fromarray(image).save(folder / "rgb" / f"{stem}{end}", quality=95)
        sky = np.isinf(scene.depth[i])
        depth = np.where(sky, 3.0, scene.depth[i]).astype(np.float32)
        if outliers:
            outlier = np.zeros(scene.hw, np.uint8)
            outlier[:, ::10] = 255
            depth[:, ::10] *= 0.5
            Image.fromarray(outlier).save(folder / "outlier_mask" / f"{stem}.png")
        np.save(folder / "depth" / f"{stem}.npy", depth)
        Image.fromarray(np.where(sky, 255, 0).astype(np.uint8)).save(folder / "sky_mask" / f"{stem}.png")
        if i == scene.num_frames - 1:
            continue
        pose = scene.world_from_cam[i] * (np.nan if i == scene.num_frames - 2 else 1)
        matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float32)
        np.savez(folder / "cam" / f"{stem}.npz", intrinsic=matrix, pose=pose.astype(np.float32))
