import gzip
import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data_tools.miniature import Miniature

SCALE = 2.7  # COLMAP's unit is arbitrary
LEFT_ROW = np.diag([-1.0, -1, 1])  # PyTorch3D's camera: x left, y up


def write(folder: Path, scene: Miniature) -> None:
    """One sequence of one category, and one with poor cameras; the last image was not downloaded."""
    height, width = scene.hw
    name, poor = "110_13051_23361", "106_12648_23157"
    root = folder / "apple" / name
    for kind in ("images", "depths", "depth_masks", "masks"):
        (root / kind).mkdir(parents=True)
    (folder / "apple" / "set_lists").mkdir()
    half = min(height, width) / 2
    frames = []
    for i in range(scene.num_frames):
        stem = f"frame{i + 1:06d}"
        Image.fromarray(scene.images[i]).save(root / "images" / f"{stem}.jpg", quality=95)
        depth = (scene.depth[i] * SCALE).astype(np.float16)
        depth[:, :20] *= 3  # not to be trusted
        depth[-10:] = 0
        mask = np.full(scene.hw, 255, np.uint8)
        mask[:, :20] = 0
        Image.fromarray(depth.view(np.uint16)).save(root / "depths" / f"{stem}.jpg.geometric.png")
        Image.fromarray(mask).save(root / "depth_masks" / f"{stem}.png")
        Image.fromarray(255 - mask).save(root / "masks" / f"{stem}.png")
        fx, fy, cx, cy = scene.intrinsics[i]
        pose = scene.cam_from_world[i]
        frames.append(
            {
                "sequence_name": name,
                "frame_number": i + 1,
                "frame_timestamp": 0.1 * i if i else 0.0,
                "image": {"path": f"apple/{name}/images/{stem}.jpg", "size": [height, width]},
                "depth": {
                    "path": f"apple/{name}/depths/{stem}.jpg.geometric.png",
                    "scale_adjustment": 1.0,
                    "mask_path": f"apple/{name}/depth_masks/{stem}.png",
                },
                "mask": {"path": f"apple/{name}/masks/{stem}.png", "mass": 1234.0},
                "viewpoint": {
                    "R": (LEFT_ROW @ pose[:, :3]).T.tolist(),
                    "T": (LEFT_ROW @ pose[:, 3] * SCALE).tolist(),
                    "focal_length": [fx / half, fy / half],
                    "principal_point": [(width / 2 - cx) / half, (height / 2 - cy) / half],
                    "intrinsics_format": "ndc_isotropic",
                },
            }
        )
    (root / "images" / f"frame{scene.num_frames:06d}.jpg").unlink()
    others = [frame | {"sequence_name": poor} for frame in frames[:3]]
    sequences = [
        {"sequence_name": name, "category": "apple", "viewpoint_quality_score": 0.9},
        {"sequence_name": poor, "category": "apple", "viewpoint_quality_score": 0.2},
    ]
    for file, rows in (("frame_annotations.jgz", others + frames), ("sequence_annotations.jgz", sequences)):
        (folder / "apple" / file).write_bytes(gzip.compress(json.dumps(rows).encode()))
