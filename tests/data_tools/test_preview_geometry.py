"""Splats, edges of depth and views of cameras, compared with what can be computed by hand."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from scal3r_data_tools.previewing.cloud import Cloud, cloud_frames, from_above, from_behind, observer_pose
from scal3r_data_tools.previewing.colours import (
    DROPPED,
    EDGE,
    INVALID,
    SKY,
    DepthScale,
    colour_depth,
    overlay,
)
from scal3r_data_tools.previewing.shown_frames import depth_edges, edges_at_tile
from scal3r_train.data.camera.resize import ResizeAndCrop
from scal3r_train.data.io.frame_io import frame_camera, upright_poses
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.geometry.drawing import MAX_SIDE, View, positions, shaded, splat, up_direction
from tests.data_tools.miniature import make_miniature, pinhole_rays

RED, BLUE = (255, 0, 0), (0, 0, 255)


def splatted(pixels: list[list[float]], distance: list[float], colours: list, side: list[float]) -> tuple:
    arrays = np.array(pixels), np.array(distance), np.array(colours, np.uint8), np.array(side)
    return splat(*arrays, (6, 8))


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_the_nearer_point_is_seen(order: list[int]) -> None:
    places, distances, colours = [[3.5, 2.5], [4.5, 2.5]], [2.0, 1.0], [RED, BLUE]
    columns = (places, distances, colours, [3.0, 1.0])
    image, seen = splatted(*([column[i] for i in order] for column in columns))
    expected = np.full((6, 8), np.inf)
    expected[1:4, 2:5] = 2.0
    expected[2, 4] = 1.0
    assert (seen == expected).all()
    assert (image[expected == 2.0] == RED).all()
    assert (image[2, 4] == BLUE).all()
    assert not image[np.isinf(expected)].any()


def test_of_points_at_one_place_the_nearest_is_seen() -> None:
    distances = [3.0, 1.0, 2.0, 1.5]
    for shift in range(4):
        turned = np.roll(distances, shift).tolist()
        colours = [BLUE if distance == 1.0 else RED for distance in turned]
        image, seen = splatted([[3.5, 2.5]] * 4, turned, colours, [1.0] * 4)
        assert seen[2, 3] == 1.0 and (image[2, 3] == BLUE).all()


def test_points_outside_behind_or_without_place_are_left_out() -> None:
    places = [[-3.0, 1.0], [9.5, 1.0], [1e30, 1.0], [np.nan, 1.0], [3.5, 3.5], [3.5, 3.5], [3.5, 3.5]]
    image, seen = splatted(places, [1, 1, 1, 1, -1, 0, np.nan], [RED] * 7, [1] * 7)
    assert not image.any()
    assert np.isinf(seen).all()
    image, _ = splatted([[0.0, 0.0]], [1.0], [RED], [2.0])
    assert (image[0, 0] == RED).all() and image.any(-1).sum() == 1
    image, _ = splatted([[20.0, 2.0]], [1.0], [RED], [100.0])  # a side is bounded
    assert not image.any() and MAX_SIDE < 15


def test_no_points_are_an_empty_picture() -> None:
    empty = np.empty((0, 2)), np.empty(0), np.empty((0, 3), np.uint8), np.empty(0)
    image, seen = splat(*empty, (4, 5))
    assert image.shape == (4, 5, 3) and not image.any()
    assert np.isinf(seen).all()


def test_a_frame_drawn_from_its_own_camera_is_its_image() -> None:
    scene = make_miniature(1)
    fx, fy, cx, cy = scene.intrinsics[0]
    points = (scene.depth[0][..., None] * pinhole_rays(scene.intrinsics[0], scene.hw)).reshape(-1, 3)
    pixels = points[:, :2] / points[:, 2:] * [fx, fy] + [cx, cy]
    colours = scene.images[0].reshape(-1, 3)
    image, seen = splat(pixels, points[:, 2], colours, np.ones(len(points)), scene.hw)
    assert (image == scene.images[0]).all()
    assert np.abs(seen - scene.depth[0]).max() < 1e-9


def test_shade_falls_behind_steps_only() -> None:
    image = np.full((20, 30, 3), 200, np.uint8)
    assert (shaded(image, np.full((20, 30), 3.0)) == 200).all()
    step = np.full((20, 30), 3.0)
    step[:, :15] = 2.0
    dark = shaded(image, step)
    assert (dark[5:15, 15] < 200).all()
    assert (dark[5:15, 5:15] == 200).all()


def test_planes_have_no_edges_whatever_their_slope() -> None:
    row, column = np.mgrid[:60, :80]
    for slope_x, slope_y in ((0, 0), (0.011, 0), (-0.002, 0.016), (0.01, -0.015)):
        inverse = 1 + slope_x * (column - 40) + slope_y * (row - 30)
        assert inverse.min() > 0.005
        assert not depth_edges((1 / inverse).astype(np.float32)).any()


def test_edges_are_the_near_side_of_jumps_and_of_the_sky() -> None:
    depth = np.full((20, 30), 4.0, np.float32)
    depth[:, 10:15] = 2.0
    depth[:, 25:] = -1
    expected = np.zeros((20, 30), bool)
    expected[:, [10, 14, 24]] = True
    assert (depth_edges(depth) == expected).all()
    depth[:, 9] = depth[:, 15] = 0  # not measured, as beside every edge of a Kinect
    expected[:, [10, 14]] = False
    assert (depth_edges(depth) == expected).all()
    assert not depth_edges(np.zeros((5, 5), np.float32)).any()


def test_thin_edges_survive_a_small_tile() -> None:
    is_edge = np.zeros((240, 320), bool)
    is_edge[:, 101] = True
    small = edges_at_tile(is_edge, ResizeAndCrop.plan((240, 320), (60, 80)))
    assert small.shape == (60, 80)
    assert small[:, 25].all() and small.sum() == 60
    large = edges_at_tile(is_edge, ResizeAndCrop.plan((240, 320), (480, 640)))
    assert large[:, 202:204].all() and large.sum() == 2 * 480


def test_colours_tell_sky_from_holes_and_near_from_far() -> None:
    depth = np.array([[1.0, 2.0, 4.0, 0.0], [-1.0, 4.0, 1.0, 0.0]], np.float32)
    scale = DepthScale(1.0, 4.0)
    is_dropped = np.zeros(depth.shape, bool)
    is_dropped[1, 3] = True
    colour = colour_depth(depth, scale, is_dropped)
    assert tuple(colour[0, 3]) == INVALID and tuple(colour[1, 0]) == SKY and tuple(colour[1, 3]) == DROPPED
    near, far = colour[0, 0].astype(int), colour[0, 2].astype(int)
    assert (near == colour[1, 2]).all() and (far == colour[1, 1]).all()
    assert near[0] > near[2] and far[2] > far[0]
    assert DepthScale.of([np.zeros((2, 2), np.float32)]) is None
    scale_of = DepthScale.of([depth])
    assert scale_of is not None and (scale_of.near, scale_of.far) == pytest.approx((1.0, 4.0))


def test_an_overlay_keeps_the_image_where_there_is_no_depth() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    depth = np.zeros((20, 30), np.float32)
    depth[:, 15:] = 2.0
    is_edge = np.zeros((20, 30), bool)
    is_edge[4, 20] = True
    mixed = overlay(image, depth, is_edge, DepthScale(1.0, 4.0))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    assert (mixed[:, :15] == grey[:, :15, None]).all()
    assert tuple(mixed[4, 20]) == EDGE
    sparse = np.zeros((20, 30), np.float32)
    sparse[10, 10], sparse[10, 11] = 1.0, 4.0
    scale = DepthScale(1.0, 4.0)
    dots = overlay(image, sparse, np.zeros_like(is_edge), scale)
    near, far = scale.colours(np.array([1.0, 4.0]))
    assert (dots[9:12, 9:12] == near).all(), "the nearer dot is in front"
    assert (dots[9:12, 12] == far).all()
    assert (dots[:8] == grey[:8, :, None]).all()


def cameras(heading_deg: np.ndarray, pitch_deg: float, position: np.ndarray) -> np.ndarray:
    """Level cameras in a world with z up: cam_from_world [S, 3, 4]; heading 0 looks along y, left is positive."""
    level = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # rows: x right, y down, z forward
    turned = Rotation.from_euler("z", -heading_deg[:, None], degrees=True).as_matrix()
    rotation = Rotation.from_euler("x", pitch_deg, degrees=True).as_matrix() @ level @ turned
    return np.concatenate([rotation, -rotation @ position[..., None]], -1)


def test_up_is_found_although_all_cameras_look_down_to_one_side() -> None:
    heading = np.linspace(-60, 60, 25)
    poses = cameras(heading, 40.0, np.zeros((25, 3)))
    assert (poses[:, 2, 2] < -0.6).all(), "they do look down"
    assert up_direction(poses) @ [0, 0, 1] > np.cos(np.radians(4))
    mean = -poses[:, 1, :3].mean(0)
    assert mean @ [0, 0, 1] / np.linalg.norm(mean) < np.cos(np.radians(30)), "the mean alone is far off"


def test_seen_from_above_left_turns_are_left() -> None:
    """A quarter circle to the left: the view is neither mirrored nor scaled, and begins left of its end."""
    angle = np.linspace(0, np.pi / 2, 30)
    position = np.stack([3 * np.cos(angle), 3 * np.sin(angle), np.full(30, 7.0)], -1)
    poses = cameras(np.degrees(angle), 10.0, position)
    view = View.of(poses)
    places = view.places(positions(poses))
    a, b = places[:-1] - places[0], places[1:] - places[0]
    area = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / 2
    assert area == pytest.approx(9 * (np.pi / 4 - 0.5), rel=2e-3)
    assert places[-1, 0] > places[0, 0]
    assert np.ptp(view.heights(positions(poses))) < 0.08
    side = view.from_side().places(positions(poses))
    assert np.abs(side[:, 0] - places[:, 0]).max() < 1e-9
    assert np.ptp(side[:, 1]) < 0.08
    assert np.linalg.det(np.stack([*view.from_side().axes, view.from_side().up])) == pytest.approx(1)


def record_of(poses: np.ndarray, **fields: object) -> SequenceRecord:
    num = len(poses)
    return SequenceRecord(
        dataset="a",
        sequence_id="b",
        root=Path("/nowhere"),
        image=tuple(f"{frame}.png" for frame in range(num)),
        image_size=np.tile([48, 64], (num, 1)),
        timestamp=np.arange(num) / 10,
        camera_model="pinhole",
        intrinsics=np.tile([50.0, 50.0, 32.0, 24.0], (num, 1)),
        cam_from_world=poses,
        **fields,
    )


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_poses_stand_upright_as_images_do(turns: int) -> None:
    poses = cameras(np.linspace(0, 50, 6), 20.0, np.random.default_rng(0).normal(size=(6, 3)))
    record = record_of(poses, quarter_turns=turns)
    for frame, pose in enumerate(upright_poses(record)):
        expected = frame_camera(record, frame).extrinsics
        assert expected is not None
        assert np.abs(pose - expected).max() < 1e-12


def test_a_cloud_takes_frames_that_see_the_same() -> None:
    """Half a metre a frame, depth of 10 m: ten frames to each side, until the camera has turned by 45 degrees."""
    position = np.stack([np.zeros(60), 0.5 * np.arange(60), np.zeros(60)], -1)
    names = tuple(f"{frame}.d" for frame in range(60))
    straight = record_of(cameras(np.zeros(60), 0.0, position), depth=names, depth_codec="pfm")
    assert cloud_frames(straight, 30, 3, 10.0) == [20, 30, 40]
    assert cloud_frames(straight, 2, 3, 10.0) == [2, 6, 12]
    heading = np.where(np.arange(60) > 33, 60.0, 0.0)
    bend = record_of(cameras(heading, 0.0, position), depth=names, depth_codec="pfm")
    assert cloud_frames(bend, 30, 2, 10.0) in ([20, 30], [30, 33])
    assert max(cloud_frames(bend, 30, 20, 10.0)) == 33
    some = dataclasses.replace(straight, depth=tuple(n if i % 5 == 0 else "" for i, n in enumerate(names)))
    assert cloud_frames(some, 30, 5, 10.0) == [20, 25, 30, 35, 40]
    covisible = np.full((60, 4), -1)
    covisible[30, :3] = [7, 50, 8]
    apart = dataclasses.replace(straight, covisible=covisible, is_ordered=False)
    assert cloud_frames(apart, 30, 3, 10.0) == [7, 30, 50]


def one_wall() -> tuple[Cloud, View]:
    """A camera at the origin of a world with z up looks along y at a wall 4 m away, red on the left."""
    poses = cameras(np.zeros(2), 0.0, np.array([[0.0, 0, 0], [0.5, 0, 0]]))
    x, z = (part.ravel() for part in np.meshgrid(np.linspace(-2, 2, 200), np.linspace(-1, 1, 100)))
    points = np.stack([x, np.full_like(x, 4.0), z], -1)
    colours = np.where(x[:, None] < 0, RED, BLUE).astype(np.uint8)
    cloud = Cloud(points, colours, np.full(len(x), 0.02), (0, 1), poses, np.array([0.6, 0.5]), 4.0)
    return cloud, View.of(poses)


def test_an_observer_sees_left_on_the_left_and_up_above() -> None:
    cloud, view = one_wall()
    assert view.up == pytest.approx([0, 0, 1])
    observer = observer_pose(cloud, view.up)
    assert observer[:, :3] @ observer[:, :3].T == pytest.approx(np.eye(3))
    assert np.linalg.det(observer[:, :3]) == pytest.approx(1)
    ahead = observer @ [0, 4.0, 0, 1]
    assert ahead[:2] == pytest.approx([0, 0], abs=1e-9) and ahead[2] > 4
    assert (observer @ [0, 4.0, 1, 1])[1] < 0 < (observer @ [1, 4.0, 0, 1])[0]
    place = -observer[:, :3].T @ observer[:, 3]
    assert place[1] < 0 < place[2], "behind and above"
    image = from_behind(cloud, view.up, (120, 160)).astype(int)
    is_red, is_blue = (
        (image[..., 0] > 100) & (image[..., 2] < 50),
        (image[..., 2] > 100) & (image[..., 0] < 50),
    )
    assert is_red.sum() > 500 and is_blue.sum() > 500
    assert np.nonzero(is_red)[1].max() <= np.nonzero(is_blue)[1].min()


def test_from_above_the_wall_is_a_line_ahead_of_the_cameras() -> None:
    """The second camera is to the right of the first, so x is right, and the wall is up the page."""
    cloud, view = one_wall()
    image = from_above(cloud, view, (120, 160)).astype(int)
    is_red, is_blue = (
        (image[..., 0] > 100) & (image[..., 2] < 50),
        (image[..., 2] > 100) & (image[..., 0] < 50),
    )
    rows = np.nonzero(is_red | is_blue)[0]
    assert rows.max() < 20
    assert np.nonzero(is_red)[1].max() <= np.nonzero(is_blue)[1].min()
    # 4.0 m from the cameras to the wall fill the 120 rows up to the margin
    width = np.ptp(np.nonzero(is_red | is_blue)[1])
    assert width == pytest.approx(4.0 * 120 / (4.0 * 1.08), abs=4)
