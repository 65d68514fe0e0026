from pathlib import Path

import h5py
import numpy as np
import pycolmap
from PIL import Image

from tests.data_tools.lens_rays import colmap_camera, images_line
from tests.data_tools.miniature import Miniature, make_miniature

ORIGINAL_HW, PARAMETERS = (330, 440), [360.0, 220.0, 165.0, -0.06]


def scene() -> Miniature:
    """Photos as COLMAP rectifies them: another size, the same focal length."""
    camera = colmap_camera("SIMPLE_RADIAL", PARAMETERS, ORIGINAL_HW)
    pinhole = pycolmap.undistort_camera(pycolmap.UndistortCameraOptions(), camera)
    fx, fy, cx, cy = pinhole.params
    offset = cx - pinhole.width / 2, cy - pinhole.height / 2
    hw = pinhole.height, pinhole.width
    return make_miniature(num_frames=8, hw=hw, focal=(fx, fy), centre_offset=offset)


def write(folder: Path, scene: Miniature) -> None:
    """Depth 0 where nothing is known, negative for ordinal labels; two listed photos are not in the depth package."""
    dense = folder / "0015" / "dense0"
    model = folder / "0015" / "sparse" / "manhattan" / "0"
    for path in (dense / "imgs", dense / "depths", model):
        path.mkdir(parents=True)
    cameras, images = ["# Camera list"], "# Image list\n"
    for i, image in enumerate(scene.images):
        stem = f"{3110987654 + i * 977}_{'abcdefgh'[i]}_o"
        Image.fromarray(image).save(dense / "imgs" / f"{stem}.jpg", quality=95)
        depth = scene.depth[i].astype(np.float32)
        depth[:20], depth[-10:] = 0, -1
        with h5py.File(dense / "depths" / f"{stem}.h5", "w") as file:
            file.create_dataset("depth", data=depth)
        numbers = " ".join(map(str, PARAMETERS))
        cameras.append(f"{i + 1} SIMPLE_RADIAL {ORIGINAL_HW[1]} {ORIGINAL_HW[0]} {numbers}")
        images += images_line(i + 1, scene.cam_from_world[i], i + 1, f"{stem}.jpg")
    for i in (1, 2):
        images += images_line(100 + i, np.eye(4)[:3], i, f"999_{i}_o.jpg")
    (model / "cameras.txt").write_text("\n".join(cameras) + "\n")
    (model / "images.txt").write_text(images)
