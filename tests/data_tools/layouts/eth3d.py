from pathlib import Path

import numpy as np
from PIL import Image

from tests.data_tools.lens_rays import colmap_camera, images_line, rays_of
from tests.data_tools.miniature import Miniature, make_miniature, pinhole_rays, render

HW = (160, 240)
PARAMETERS = [172.0, 171.5, 121.2, 79.1, 0.02, -0.015, 4e-4, -3e-4, 0.006, 0.001, 3e-4, -2e-4]
Z_UP_FROM_WORLD = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def scene() -> Miniature:
    rays = rays_of(colmap_camera("THIN_PRISM_FISHEYE", PARAMETERS, HW))
    focal, offset = (PARAMETERS[0], PARAMETERS[1]), (PARAMETERS[2] - HW[1] / 2, PARAMETERS[3] - HW[0] / 2)
    return make_miniature(num_frames=10, hw=HW, focal=focal, centre_offset=offset, rays=rays)


def write(folder: Path, scene: Miniature) -> None:
    """Photos and depth, where a third was not scanned; the last photo was taken with the camera on its side. Of
    the undistorted ones two are there."""
    place = folder / "relief_2"
    for name in ("images/dslr_images", "images/dslr_images_undistorted", "ground_truth_depth/dslr_images"):
        (place / name).mkdir(parents=True)
    posed, turn = scene.moved(Z_UP_FROM_WORLD), np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    lines, undistorted = "", ""
    numbers = (180.0, 180.0, 120.0, 80.0)
    rays = rays_of(colmap_camera("THIN_PRISM_FISHEYE", PARAMETERS, HW))
    for i, image in enumerate(scene.images):
        name = f"DSC_{286 + i:04d}.JPG"
        pose, depth = posed.cam_from_world[i], scene.depth[i].astype(np.float32)
        if i == scene.num_frames - 1:
            pose = turn @ pose
            image, depth, _ = render(turn @ scene.cam_from_world[i], rays)
        depth = np.array(depth, np.float32)
        depth[:, :80] = np.inf
        Image.fromarray(image).save(place / "images" / "dslr_images" / name, quality=98, subsampling=0)
        depth.tofile(place / "ground_truth_depth" / "dslr_images" / name)
        if i < 2:
            flat, _, _ = render(scene.cam_from_world[i], pinhole_rays(np.array(numbers), HW))
            Image.fromarray(flat).save(
                place / "images" / "dslr_images_undistorted" / name, quality=98, subsampling=0
            )
        lines += images_line(i + 1, pose, 0, f"dslr_images/{name}")
        undistorted += images_line(i + 1, posed.cam_from_world[i], 0, f"dslr_images_undistorted/{name}")
    parameters = " ".join(map(str, PARAMETERS))
    for kind, camera, images in (
        ("dslr_calibration_jpg", f"THIN_PRISM_FISHEYE {HW[1]} {HW[0]} {parameters}", lines),
        (
            "dslr_calibration_undistorted",
            f"PINHOLE {HW[1]} {HW[0]} {' '.join(map(str, numbers))}",
            undistorted,
        ),
    ):
        (place / kind).mkdir()
        (place / kind / "cameras.txt").write_text(f"# Camera list\n0 {camera}\n")
        (place / kind / "images.txt").write_text("# Image list\n" + images)
        (place / kind / "points3D.txt").write_text("# 3D point list\n")
