"""Undoing a lens: what comes out is what a pinhole camera sees."""

import cv2
import numpy as np
import pytest

from scal3r_train.config import UserError
from scal3r_train.data.camera.camera_model import distort
from scal3r_train.data.camera.rectify import (
    MAX_ZOOM,
    DistortedCamera,
    pinhole_intrinsics,
    smallest_zoom,
    undistorted,
    undistorted_nearest,
)
from tests.data_tools.miniature import make_miniature, pinhole_rays, render

HW, INTRINSICS = (120, 160), (130.0, 128.0, 82.3, 58.3)
BARREL, PINCUSHION = (-0.21, 0.03, 0.001, -0.002), (0.17, 0.02, -0.001, 0.002)


def camera(lens: tuple[float, ...], model: str = "opencv", hw: tuple[int, int] = HW) -> DistortedCamera:
    return DistortedCamera(model, INTRINSICS, lens, hw)


def lens_rays(lens: tuple[float, ...]) -> np.ndarray:
    """Rays [H, W, 3] through the centres of a distorted image's pixels, by OpenCV."""
    fx, fy, cx, cy = INTRINSICS
    k = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    pixels = np.stack(np.meshgrid(np.arange(HW[1]) + 0.5, np.arange(HW[0]) + 0.5), -1).reshape(-1, 1, 2)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-13)
    plane = cv2.undistortPoints(pixels, k, np.array(lens), None, None, None, criteria).reshape(*HW, 2)
    return np.concatenate([plane, np.ones((*HW, 1))], -1)


@pytest.mark.parametrize("lens", [BARREL, PINCUSHION])
def test_undistorted_is_the_pinhole_picture(lens: tuple[float, ...]) -> None:
    scene = make_miniature(num_frames=1, hw=HW, rays=lens_rays(lens))
    pinhole = np.array(pinhole_intrinsics(camera(lens)))
    truth, depth, _ = render(scene.cam_from_world[0], pinhole_rays(pinhole, HW))
    got = undistorted(scene.images[0], camera(lens)).astype(float)
    without = np.abs(scene.images[0].astype(float) - truth).mean()
    assert np.abs(got - truth).mean() < without / 4
    # a shift of the pixel grid by half a pixel would be seen
    for shifted in (got[:, 1:] - truth[:, :-1], got[1:] - truth[:-1]):
        assert np.abs(shifted).mean() > 1.5 * np.abs(got - truth).mean()
    near = undistorted_nearest(scene.depth[0].astype(np.float32), camera(lens))
    assert np.isin(near, np.append(scene.depth[0].astype(np.float32), 0)).all()
    error = np.abs(near - depth) / depth
    assert np.median(error) < 2e-3
    assert (error < 0.02).mean() > 0.97


def test_depth_of_another_resolution() -> None:
    half = (HW[0] // 2, HW[1] // 2)
    scaled = np.array(pinhole_intrinsics(camera(BARREL))) / 2
    pose = make_miniature(num_frames=1, hw=HW).cam_from_world[0]
    _, bent, _ = render(pose, lens_rays(BARREL)[:-1:2, :-1:2] / 2 + lens_rays(BARREL)[1::2, 1::2] / 2)
    _, depth, _ = render(pose, pinhole_rays(scaled, half))
    near = undistorted_nearest(bent.astype(np.float32), camera(BARREL))
    error = np.abs(near - depth) / depth
    assert near.shape == half
    assert (error < 0.02).mean() > 0.93


def test_nearest_never_mixes_nor_makes_up() -> None:
    values = np.where(np.indices(HW).sum(0) % 2, 5.0, -1.0).astype(np.float32)
    near = undistorted_nearest(values, camera(PINCUSHION))
    assert set(np.unique(near)) <= {5.0, -1.0, 0.0}
    assert (near == 0).sum() <= 4  # where the outermost ray meets the outermost pixel's edge


@pytest.mark.parametrize("lens", [BARREL, PINCUSHION, (0.0, 0.0, 0.02, -0.03)])
def test_the_zoom_is_the_smallest_that_makes_nothing_up(lens: tuple[float, ...]) -> None:
    """Against a search over zooms with OpenCV's own projection."""
    zoom = smallest_zoom(camera(lens))
    assert 1 <= zoom < MAX_ZOOM
    assert reaches_outside(lens, zoom) < 1e-4
    if zoom > 1:
        assert reaches_outside(lens, zoom * 0.99) > 0.01
    fx, fy, cx, cy = pinhole_intrinsics(camera(lens))
    assert (fx, fy, cx, cy) == pytest.approx((INTRINSICS[0] * zoom, INTRINSICS[1] * zoom, *INTRINSICS[2:]))


def reaches_outside(lens: tuple[float, ...], zoom: float) -> float:
    """By how many pixels the pinhole image at a zoom looks beyond the borders of the distorted one."""
    fx, fy, cx, cy = INTRINSICS
    k = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    rays = pinhole_rays(np.array([fx * zoom, fy * zoom, cx, cy]), HW).reshape(-1, 3)
    pixels, _ = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), k, np.array(lens))
    return float(max(-pixels.min(), (pixels[:, 0] - [HW[1], HW[0]]).max()))


def test_a_lens_that_folds_back_is_zoomed_out_of_the_fold_or_refused() -> None:
    """Beyond the fold of a polynomial, rays further out land further in: such pixels would show things twice."""
    strong = DistortedCamera("opencv", (640.0, 640.0, 640.0, 360.0), (-0.3,), (720, 1280))
    zoom = smallest_zoom(strong)
    corner = 0.99 * np.array([639.5, 359.5]) / 640 / zoom  # the border itself is where it begins to fold
    step = corner * 1e-3
    outward = distort(corner + step, "opencv", np.array([-0.3])) - distort(corner, "opencv", np.array([-0.3]))
    assert (outward * corner).sum() > 0
    assert zoom > 1.05
    hopeless = DistortedCamera("opencv", (640.0, 640.0, 640.0, 360.0), (1e6,), (720, 1280))
    with pytest.raises(UserError, match="the lens opencv .* cannot be undone; check the distortion"):
        smallest_zoom(hopeless)
