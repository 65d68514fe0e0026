import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data_tools.lens_rays import colmap_camera, images_line, rays_of
from tests.data_tools.mesh_of_miniature import write_ply
from tests.data_tools.miniature import Miniature, make_miniature

SCENE = "0a5c013435"
HW, FISHEYE = (116, 174), [79.0, 79.2, 86.6, 57.4, 0.04, -0.003, 1e-3, -2e-4]
PHONE = [130.0, 130.0, 87.0, 58.0, 0.03, -0.04, 1e-4, -2e-4]
Z_UP_FROM_WORLD = np.array([[1.0, 0, 0, 0.5], [0, 0, 1, 2], [0, -1, 0, 1.5], [0, 0, 0, 1]])


def scene() -> Miniature:
    """A fisheye of about 130 degrees."""
    rays = rays_of(colmap_camera("OPENCV_FISHEYE", FISHEYE, HW))
    offset = FISHEYE[2] - HW[1] / 2, FISHEYE[3] - HW[0] / 2
    return make_miniature(
        num_frames=8, hw=HW, focal=(FISHEYE[0], FISHEYE[1]), centre_offset=offset, rays=rays
    )


def write(folder: Path, scene: Miniature) -> None:
    """Photos and video of one scene with its mesh; the last photo is flagged as bad, another is not there."""
    place, posed = folder / "data" / SCENE, scene.moved(Z_UP_FROM_WORLD)
    write_ply(place / "scans" / "mesh_aligned_0.05.ply", Z_UP_FROM_WORLD)
    dslr = place / "dslr"
    for path in (dslr / "resized_images", dslr / "resized_anon_masks", dslr / "colmap", dslr / "nerfstudio"):
        path.mkdir(parents=True)
    lines, frames = "", []
    for i, image in enumerate(scene.images):
        name = f"DSC{2000 + 7 * i:05d}"
        Image.fromarray(image).save(dslr / "resized_images" / f"{name}.JPG", quality=98, subsampling=0)
        mask = np.full(scene.hw, 255, np.uint8)
        mask[50:60, 80:90] = 0
        Image.fromarray(mask).save(dslr / "resized_anon_masks" / f"{name}.png")
        lines += images_line(i + 1, posed.cam_from_world[i], 1, f"{name}.JPG")
        pose = posed.world_from_cam[i] @ np.diag([1.0, -1, -1, 1])
        swapped = pose[[1, 0, 2, 3]] * np.array([[1], [1], [-1], [1]])
        frames.append({"file_path": f"{name}.JPG", "transform_matrix": swapped.tolist(), "is_bad": i == 7})
    lines += images_line(90, np.eye(4)[:3], 1, "DSC09999.JPG")
    _write_model(dslr / "colmap", "OPENCV_FISHEYE", FISHEYE, lines)
    names = ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "k3", "k4")
    document = dict(zip(names, FISHEYE, strict=True)) | {
        "w": HW[1],
        "h": HW[0],
        "camera_model": "OPENCV_FISHEYE",
    }
    document |= {"frames": frames[:5], "test_frames": frames[5:], "has_mask": True}
    (dslr / "nerfstudio" / "transforms.json").write_text(json.dumps(document))
    _write_phone(place / "iphone", posed)


def _write_phone(folder: Path, posed: Miniature) -> None:
    """What the phone saw is not rendered: only names and numbers matter."""
    for name in ("rgb", "rgb_masks", "colmap"):
        (folder / name).mkdir(parents=True)
    lines = ""
    for i in range(3):
        Image.fromarray(np.full((*HW, 3), 40 * i, np.uint8)).save(folder / "rgb" / f"frame_{10 * i:06d}.jpg")
        lines += images_line(i + 1, posed.cam_from_world[i], 1, f"video/frame_{10 * i:06d}.jpg")
    _write_model(folder / "colmap", "OPENCV", PHONE, lines)


def _write_model(folder: Path, model: str, parameters: list[float], lines: str) -> None:
    numbers = " ".join(map(str, parameters))
    (folder / "cameras.txt").write_text(f"# Camera list\n1 {model} {HW[1]} {HW[0]} {numbers}\n")
    (folder / "images.txt").write_text("# Image list\n" + lines)
    (folder / "points3D.txt").write_text("# 3D point list\n")
