import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tests.data_tools.miniature import Miniature


def write(folder: Path, scene: Miniature) -> None:
    """As NICE-SLAM offers it, with cam_params.json above the scenes."""
    results = folder / "office0" / "results"
    results.mkdir(parents=True)
    fx, fy, cx, cy = scene.intrinsics[0]
    camera = {
        "w": scene.hw[1], "h": scene.hw[0], "fx": fx, "fy": fy, "cx": cx - 0.5, "cy": cy - 0.5, "scale": 6553.5
    }  # fmt: skip
    (folder / "cam_params.json").write_text(json.dumps({"camera": camera}))
    for i, image in enumerate(scene.images):
        Image.fromarray(image).save(results / f"frame{i:06d}.jpg", quality=95)
        counts = np.rint(scene.depth[i] * 6553.5)
        cv2.imwrite(str(results / f"depth{i:06d}.png"), np.where(counts < 65535, counts, 0).astype(np.uint16))
    np.savetxt(folder / "office0" / "traj.txt", scene.world_from_cam.reshape(-1, 16))
