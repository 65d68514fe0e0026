from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tests.data_tools.miniature import Miniature, homogeneous, make_miniature

OPTIONS = ("cameras=[0]",)


def scene() -> Miniature:
    return make_miniature(has_sky=True)


def write(folder: Path, scene: Miniature) -> None:
    """Two cameras in one table; images of the left one only, the last of them not there; sky is 655.35 m."""
    variation = folder / "Scene01" / "15-deg-left"
    rgb, depth = (variation / "frames" / kind / "Camera_0" for kind in ("rgb", "depth"))
    rgb.mkdir(parents=True)
    depth.mkdir(parents=True)
    intrinsic = ["frame cameraID K[0,0] K[1,1] K[0,2] K[1,2]"]
    names = [f"r{row},{column}" if column < 4 else f"t{row}" for row in (1, 2, 3) for column in (1, 2, 3, 4)]
    extrinsic = ["frame cameraID " + " ".join(names) + " 0 0 0 1"]
    for i in range(scene.num_frames):
        fx, fy, cx, cy = scene.intrinsics[i]
        for camera, shift in ((0, 0.0), (1, -0.532725)):
            pose = homogeneous(scene.cam_from_world[i])
            pose[0, 3] += shift
            intrinsic.append(f"{i} {camera} {fx} {fy} {cx - 0.5} {cy - 0.5}")
            extrinsic.append(f"{i} {camera} " + " ".join(f"{value:.9g}" for value in pose.ravel()))
        counts = np.where(np.isinf(scene.depth[i]), 65535, np.rint(scene.depth[i] * 100)).astype(np.uint16)
        if i < scene.num_frames - 1:
            Image.fromarray(scene.images[i]).save(rgb / f"rgb_{i:05d}.jpg", quality=95)
            cv2.imwrite(str(depth / f"depth_{i:05d}.png"), counts)
    (variation / "intrinsic.txt").write_text("\n".join(intrinsic) + "\n")
    (variation / "extrinsic.txt").write_text("\n".join(extrinsic) + "\n")
    (variation / "colors.txt").write_text("Category r g b\nTerrain 210 0 200\n")
