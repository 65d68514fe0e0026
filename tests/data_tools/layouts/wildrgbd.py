import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tests.data_tools.miniature import Miniature


def write(folder: Path, scene: Miniature) -> None:
    """K column by column; one frame without image at the end."""
    place = folder / "apple" / "scenes" / "scene_000"
    for name in ("rgb", "depth", "masks"):
        (place / name).mkdir(parents=True)
    fx, fy, cx, cy = scene.intrinsics[0]
    k = np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]])
    metadata = {"w": scene.hw[1], "h": scene.hw[0], "fps": 30, "K": k.T.ravel().tolist()}
    (place / "metadata").write_text(json.dumps(metadata))
    (folder / "apple" / "nvs_list.json").write_text(json.dumps({"train": [], "val": []}))
    lines = []
    for i in range(scene.num_frames):
        values = " ".join(f"{value:.10f}" for value in scene.world_from_cam[i].ravel())
        lines.append(f"{i} {values}")
        if i == scene.num_frames - 1:
            continue
        Image.fromarray(scene.images[i]).save(place / "rgb" / f"{i:05d}.png")
        cv2.imwrite(str(place / "depth" / f"{i:05d}.png"), np.rint(scene.depth[i] * 1000).astype(np.uint16))
        cv2.imwrite(str(place / "masks" / f"{i:05d}.png"), np.zeros(scene.hw, np.uint8))
    (place / "cam_poses.txt").write_text("\n".join(lines) + "\n")
