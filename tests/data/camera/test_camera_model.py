"""Lenses bend rays as the libraries that define them say."""

import cv2
import numpy as np
import pytest

from scal3r_train.data.camera.camera_model import CAMERA_MODELS, MODELS, distort

FX, FY, CX, CY = 51.0, 49.0, 60.5, 39.25
K = np.array([[FX, 0, CX], [0, FY, CY], [0, 0, 1]])

# What projectaria_tools 2.3 says of (x / z, y / z): the lens of Aria Synthetic Environments, and one with all terms.
ARIA = (
    (
        (297.6375381033778, 357.6599197217746, 349.1922497127481),
        (
            0.3650890375644368, -0.1738082418112771, -0.7534945484033189, 2.434788882752295, -2.57786220300886,
            0.8788483538598834, 0.0008005198595407136, -0.000294237814554143, 0, 0, 0, 0,
        ),
        {
            (0.3, -0.2): (446.9022018311351, 289.7066320775966),
            (-0.9, 0.4): (114.78766309614332, 457.1501499735093),
            (0.05, 1.1): (371.0118018137251, 637.9009355756751),
            (-1.0, -1.0): (120.81477339686106, 111.9327208930969),
        },
    ),
    (
        (152.7, 177.3, 174.6),
        (0.40, -0.48, 0.25, 1.2, -1.75, 0.65, 0.0004, -0.0009, 0.0008, -0.0001, -0.0011, 0.0002),
        {
            (0.3, -0.2): (223.1489617140477, 144.01056058721318),
            (-0.9, 0.4): (50.36388960963713, 230.84623311439285),
            (0.05, 1.1): (184.38759278241056, 326.558750180691),
            (0.6, 0.7): (263.04017371521604, 274.27102625455314),
        },
    ),
)  # fmt: skip


def rays(largest: float) -> np.ndarray:
    """Points of the pinhole image plane [200, 2], the centre among them."""
    points = np.random.default_rng(0).uniform(-largest, largest, (200, 2))
    points[0] = 0
    return points


def pixels(model: str, coefficients: list[float], points: np.ndarray) -> np.ndarray:
    return distort(points, model, np.array(coefficients)) * [FX, FY] + [CX, CY]


def in_front(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points, np.ones((len(points), 1))], 1)


@pytest.mark.parametrize("num", [4, 5, 8])
def test_opencv(num: int) -> None:
    lens = [0.12, -0.05, 0.003, -0.002, 0.02, 0.04, -0.01, 0.005][:num]
    points = rays(0.9)
    expected, _ = cv2.projectPoints(in_front(points), np.zeros(3), np.zeros(3), K, np.array(lens))
    assert np.abs(pixels("opencv", lens, points) - expected[:, 0]).max() < 1e-9


def test_opencv_fisheye() -> None:
    lens = [0.05, -0.02, 0.01, -0.003]
    points = rays(2.0)
    expected, _ = cv2.fisheye.projectPoints(
        in_front(points)[:, None], np.zeros((3, 1)), np.zeros((3, 1)), K, np.array(lens)
    )
    assert np.abs(pixels("opencv_fisheye", lens, points) - expected[:, 0]).max() < 1e-9


@pytest.mark.parametrize(
    ("model", "ours", "lens"),
    [
        (
            "THIN_PRISM_FISHEYE",
            "thin_prism_fisheye",
            [0.1, -0.02, 0.001, -0.002, 0.003, -0.001, 0.0005, -0.0007],
        ),
        ("OPENCV_FISHEYE", "opencv_fisheye", [0.05, -0.02, 0.01, -0.003]),
        ("FULL_OPENCV", "opencv", [0.12, -0.05, 0.003, -0.002, 0.02, 0.04, -0.01, 0.005]),
        ("OPENCV", "opencv", [0.12, -0.05, 0.003, -0.002]),
    ],
)
def test_colmap(model: str, ours: str, lens: list[float]) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    camera = pycolmap.Camera(model=model, width=120, height=80, params=[FX, FY, CX, CY, *lens])
    points = rays(0.8)
    assert np.abs(pixels(ours, lens, points) - camera.img_from_cam(in_front(points))).max() < 1e-9


@pytest.mark.parametrize(("intrinsics", "lens", "known"), ARIA)
def test_aria(
    intrinsics: tuple[float, ...], lens: tuple[float, ...], known: dict[tuple[float, ...], tuple]
) -> None:
    f, cx, cy = intrinsics
    got = distort(np.array(list(known)), "fisheye624", np.array(lens)) * f + [cx, cy]
    assert np.abs(got - np.array(list(known.values()))).max() < 1e-9


def test_aria_against_its_tools() -> None:
    calibration = pytest.importorskip("projectaria_tools.core.calibration")
    sophus = pytest.importorskip("projectaria_tools.core.sophus")
    for (f, cx, cy), lens, _ in ARIA:
        camera = calibration.CameraCalibration(
            "camera-rgb", calibration.CameraModelType.FISHEYE624, np.array([f, cx, cy, *lens]), sophus.SE3(), 704, 704,
            None, np.pi, "",
        )  # fmt: skip
        points = rays(1.2)
        expected = np.array([camera.project_no_checks(point) for point in in_front(points)])
        assert np.abs(distort(points, "fisheye624", np.array(lens)) * f + [cx, cy] - expected).max() < 1e-9


@pytest.mark.parametrize("model", CAMERA_MODELS)
def test_the_axis_goes_through_the_principal_point_and_shapes_stay(model: str) -> None:
    num = MODELS[model][0] if model in MODELS else 0
    lens = np.random.default_rng(0).normal(size=num) * 0.01
    assert np.abs(distort(np.zeros((3, 4, 2)), model, lens)).max() < 1e-12
    points = rays(0.5).reshape(10, 20, 2)
    assert distort(points, model, lens).shape == points.shape
    assert np.isfinite(distort(points, model, lens)).all()


def test_trailing_coefficients_may_be_left_out() -> None:
    points = rays(0.5)
    whole = distort(points, "opencv", np.array([0.1, -0.02, 0, 0, 0, 0, 0, 0]))
    assert np.array_equal(distort(points, "opencv", np.array([0.1, -0.02])), whole)
