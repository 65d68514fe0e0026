from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from tests.data_tools.miniature import Miniature

INCH = 0.0254
TILT = Rotation.from_euler("x", 6, degrees=True).as_matrix()  # the image plane against the stored camera
Z_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
FIRST = 3


def write(folder: Path, scene: Miniature) -> None:
    """Inches, z up, OpenGL cameras, a tilted lens; a pose that is not finite and one whose image was withheld."""
    height, width = scene.hw
    root = folder / "ai_037_002"
    detail, images = root / "_detail" / "cam_00", root / "images"
    for name in (detail, images / "scene_cam_00_final_preview", images / "scene_cam_00_geometry_hdf5"):
        name.mkdir(parents=True)
    rotation = Z_UP @ scene.world_from_cam[:, :3, :3] @ TILT @ np.diag([1.0, -1, -1])
    position = scene.world_from_cam[:, :3, 3] @ Z_UP.T / INCH
    numbers = np.arange(scene.num_frames + 2) + FIRST
    rotation = np.concatenate([rotation, rotation[-2:]])
    position = np.concatenate([position, position[-1:], position[-1:] * np.nan])
    for name, values in (("positions", position), ("orientations", rotation), ("frame_indices", numbers)):
        write_hdf5(detail / f"camera_keyframe_{name}.hdf5", values)
    (root / "_detail" / "metadata_scene.csv").write_text(
        f"parameter_name,parameter_value\nmeters_per_asset_unit,{INCH}\n"
    )
    for i, number in enumerate([*numbers[:-2], numbers[-1]]):
        shown = min(i, scene.num_frames - 1)
        stem = f"frame.{number:04d}"
        preview = images / "scene_cam_00_final_preview"
        Image.fromarray(scene.images[shown]).save(preview / f"{stem}.tonemap.jpg", quality=95)
        Image.fromarray(scene.images[shown]).save(preview / f"{stem}.color.jpg")
        length = scene.length[shown].astype(np.float16)
        length[:3] = np.nan
        write_hdf5(images / "scene_cam_00_geometry_hdf5" / f"{stem}.depth_meters.hdf5", length)
    fx, fy, cx, cy = scene.intrinsics[0]
    k = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    table = {"ai_037_002": projection(k, scene.hw), "ai_001_001": projection(np.eye(3), scene.hw)}
    write_projections(folder / "metadata_camera_parameters.csv", table, scene.hw)


def projection(k: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """OpenGL's 4x4 matrix, near 1, far 1000, of the tilted lens."""
    height, width = hw
    device_from_pixel = np.array([[2 / width, 0, -1], [0, -2 / height, 1], [0, 0, 1]])
    rows = device_from_pixel @ k @ TILT @ np.diag([1.0, -1, -1])
    matrix = np.zeros((4, 4))
    matrix[[0, 1, 3], :3] = rows
    matrix[2] = [0, 0, -1.002002, -2.002002]
    return matrix


def write_projections(path: Path, matrices: dict[str, np.ndarray], hw: tuple[int, int]) -> None:
    names = [f"M_proj_{i}{j}" for i in range(4) for j in range(4)]
    lines = [
        ",".join(["scene_name", "settings_output_img_height", "camera_physical_bmpaperture_tex", *names])
    ]
    for scene, matrix in matrices.items():
        lines.append(
            ",".join([scene, str(float(hw[0])), '"AColor(0, 0, 0, 0)"', *map(repr, matrix.ravel().tolist())])
        )
    path.write_text("\n".join(lines) + "\n")


def write_hdf5(path: Path, values: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("dataset", data=values)
