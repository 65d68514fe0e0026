from pathlib import Path

import numpy as np
from PIL import Image

from tests.data_tools.lens_rays import colmap_camera, images_line, rays_of
from tests.data_tools.miniature import Miniature, make_miniature

HW, PARAMETERS = (120, 160), [130.0, 128.0, 82.3, 58.3, 0.05, -0.06, -0.001, 0.0006]
HEADER = "# Camera list with one line of data per camera:\n#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]\n"
IMAGES_HEADER = "# Image list with two lines of data per image:\n#   IMAGE_ID, QW, QX, QY, QZ, TX, ...\n"


def scene() -> Miniature:
    camera = colmap_camera("OPENCV", PARAMETERS, HW)
    return make_miniature(hw=HW, focal=(130.0, 128.0), centre_offset=(2.3, -1.7), rays=rays_of(camera))


def write(folder: Path, scene: Miniature) -> None:
    """A workspace of two folders: the images, calibrated at twice their size, and the model in sparse/0 as text.

    Images stand in the order in which they were registered; one is not there, one has no points, one no pose.
    """
    (folder / "images" / "left").mkdir(parents=True)
    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    numbers = [f"{value:.10g}" for value in (*(2 * scene.intrinsics[0]), *PARAMETERS[4:])]
    cameras = f"3 OPENCV {2 * HW[1]} {2 * HW[0]} {' '.join(numbers)}\n"
    (model / "cameras.txt").write_text(HEADER + cameras)
    lines = []
    for i, image in enumerate(scene.images):
        name = f"left/frame {i + 1}.png"
        Image.fromarray(image).save(folder / "images" / name)
        line = images_line(i + 1, scene.cam_from_world[i], 3, name)
        lines.append(line.split("\n")[0] + "\n\n" if i == 3 else line)
    lines.append(images_line(90, np.eye(4)[:3], 3, "left/gone.png"))
    lines.append("91 nan nan nan nan 0 0 0 3 left/frame 1.png\n\n")
    (model / "images.txt").write_text(IMAGES_HEADER + "".join(lines[::-1]))
    (model / "points3D.txt").write_text("# 3D point list\n")
