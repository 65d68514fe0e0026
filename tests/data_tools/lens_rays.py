"""Rays of cameras with a lens, by COLMAP's own code: the oracle of the writers."""

import numpy as np
import pycolmap


def colmap_camera(model: str, parameters: list[float], hw: tuple[int, int]) -> pycolmap.Camera:
    return pycolmap.Camera(model=model, width=hw[1], height=hw[0], params=parameters, camera_id=1)


def rays_of(camera: pycolmap.Camera) -> np.ndarray:
    """Directions [H, W, 3] with z = 1 through the centres of the pixels."""
    columns, rows = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    plane = np.asarray(camera.cam_from_img(np.stack([columns.ravel(), rows.ravel()], -1)))
    assert np.isfinite(plane).all()
    return np.concatenate([plane, np.ones((len(plane), 1))], -1).reshape(camera.height, camera.width, 3)


def images_line(number: int, cam_from_world: np.ndarray, camera_id: int, name: str) -> str:
    """The two lines of an image in images.txt, with some points."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(cam_from_world[:, :3]).as_quat()
    pose = " ".join(f"{value:.17g}" for value in (w, x, y, z, *cam_from_world[:, 3]))
    return f"{number} {pose} {camera_id} {name}\n12.5 7.25 -1 33.0 8.0 4\n"
