from pathlib import Path

import numpy as np
from PIL import Image

from tests.data_tools.miniature import Miniature, make_miniature

OPTIONS = ("max_depth_percentile=98", "dataset=dl3dv")


def scene() -> Miniature:
    return make_miniature(has_sky=True)


def write(folder: Path, scene: Miniature) -> None:
    """DL3DV as CUT3R processes it: sky with some depth and a mask, outliers with a mask, a damaged .npz at the end."""
    place = folder / "1K" / "0a1b7c20a92c43c6b8954b1ac909fb2f0fa8b2997b80604bc8bbec80a1cb2da3" / "dense"
    for name in ("rgb", "depth", "cam", "sky_mask", "outlier_mask"):
        (place / name).mkdir(parents=True)
    fx, fy, cx, cy = scene.intrinsics[0]
    k = np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]], np.float32)
    for i in range(scene.num_frames):
        name = f"frame_{i + 1:05d}"
        Image.fromarray(scene.images[i]).save(place / "rgb" / f"{name}.png")
        sky = np.isinf(scene.depth[i])
        outlier = np.zeros(scene.hw, bool)
        outlier[50:60, 70:90] = True
        depth = np.where(sky, 3.0, np.where(outlier, 50.0, scene.depth[i]))
        np.save(place / "depth" / f"{name}.npy", depth.astype(np.float32))
        np.savez(place / "cam" / f"{name}.npz", intrinsic=k, pose=scene.world_from_cam[i].astype(np.float32))
        for kind, mask in (("sky_mask", sky), ("outlier_mask", outlier)):
            Image.fromarray((255 * mask).astype(np.uint8)).save(place / kind / f"{name}.png")
    damaged = place / "cam" / f"frame_{scene.num_frames:05d}.npz"
    damaged.write_bytes(damaged.read_bytes()[:100])
