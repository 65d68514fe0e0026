"""Towns: exactness of what is rendered, by slow reference implementations and by geometry."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from scal3r_train.config import UserError
from scal3r_train.data.synthetic.render import CameraRays, cast_rays, visible_windows
from scal3r_train.data.synthetic.settings import draw_blackouts, read_blackouts, write_blackouts
from scal3r_train.data.synthetic.town import TownDrive, TownSettings, render_town
from scal3r_train.geometry.camera import (
    compose_extrinsics,
    invert_extrinsics,
    pixel_centres,
    project,
    transform_points,
    unproject,
)

SETTINGS = TownSettings(num_frames=12, height=28, width=42, fog_share=0.0)
# cam_from_world of frame 5 of town 6 with these settings, written down before towns could be driven steadily
TOWN_6_FRAME_5 = [
    [-0.9536590740528471, 0.3007301014263269, -0.00978655060669486, 10.015443705899221],
    [0.0034696982684341363, -0.02153197668696581, -0.9997621392980822, 2.003819030685072],
    [-0.30086929333282303, -0.9534661924137967, 0.019490722237634355, 0.1788603498602065],
]


@pytest.fixture(scope="module")
def drive() -> TownDrive:
    return TownDrive(SETTINGS, 3)


def slow_depth(drive: TownDrive, frame: int, row: int, column: int) -> float:
    """z-depth at a pixel centre, one ray and one object at a time, face by face, in float64; inf for sky.

    A box is six faces whose planes are met one by one, a cylinder a mantle and two discs: no slab method.
    """
    focal, town, extrinsics = drive.focal, drive.town, drive.extrinsics[frame]
    world_from_cam = extrinsics[:, :3].T
    origin = -world_from_cam @ extrinsics[:, 3]
    pixel = [(column + 0.5 - SETTINGS.width / 2) / focal, (row + 0.5 - SETTINGS.height / 2) / focal, 1.0]
    direction = world_from_cam @ np.array(pixel)
    hits = [math.inf]
    if direction[2] < 0:
        hits.append(-origin[2] / direction[2])
    for i in range(len(town.centre)):
        (cos, sin), (low, high), half = town.axis[i], town.z_range[i], town.half_size[i]
        turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
        o = turn @ (origin - np.array([*town.centre[i], 0]))
        d = turn @ direction
        for z in (low, high):
            t = (z - o[2]) / d[2]
            x, y = (o + t * d)[:2]
            inside = (
                math.hypot(x, y) < half[0] if town.is_cylinder[i] else abs(x) < half[0] and abs(y) < half[1]
            )
            if inside and t > 0:
                hits.append(t)
        if town.is_cylinder[i]:
            roots = np.roots([d[0] ** 2 + d[1] ** 2, 2 * (o[:2] @ d[:2]), o[:2] @ o[:2] - half[0] ** 2])
            candidates = [t.real for t in roots if abs(t.imag) < 1e-12]
        else:
            candidates = []
            for axis in (0, 1):
                for side in (-half[axis], half[axis]):
                    t = (side - o[axis]) / d[axis]
                    if abs((o + t * d)[1 - axis]) < half[1 - axis]:
                        candidates.append(t)
        hits += [t for t in candidates if t > 0 and low < (o + t * d)[2] < high]
    return min(hits)


def test_depth_matches_a_slow_reference(drive: TownDrive) -> None:
    rng = np.random.default_rng(1)
    frames = list(drive.render())
    num_solid = 0
    for _ in range(60):
        frame, row, column = rng.integers(12), rng.integers(28), rng.integers(42)
        expected = slow_depth(drive, frame, row, column)
        got = frames[frame][1][row, column]
        if expected > SETTINGS.max_depth_m:
            assert got == 0
        else:
            assert got == pytest.approx(expected, rel=1e-4)
            num_solid += 1
    assert num_solid > 30


def test_windows_hold_all_that_is_seen(drive: TownDrive) -> None:
    """Casting with windows as large as the image finds the same surfaces: nothing is culled that shows."""
    rays = CameraRays.quincunx(drive.focal, SETTINGS.height, SETTINGS.width)
    extrinsics = drive.extrinsics[5]
    directions = rays.world_directions(extrinsics[:, :3].T)
    depth, surface = cast_rays(drive.town, rays, extrinsics, directions)
    windows = {window.number: window for window in visible_windows(drive.town, rays, extrinsics)}
    seen = set(np.unique(surface[surface >= 0]).tolist())
    assert seen <= set(windows)
    assert len(seen) > 5
    for number in seen:
        _, rows, columns = np.nonzero(surface == number)
        window = windows[number]
        assert window.rows.start <= rows.min() <= rows.max() < window.rows.stop
        assert window.columns.start <= columns.min() <= columns.max() < window.columns.stop
        assert depth[surface == number].min() >= window.nearest - 1e-4


def test_depth_and_poses_agree_between_frames() -> None:
    """Points of one frame, moved into another, lie on its surfaces; with the motion inverted they do not."""
    frames = render_town(SETTINGS, 1)
    assert frames.depth is not None and frames.intrinsics is not None and frames.extrinsics is not None
    a, b = 2, 6
    points = unproject(frames.depth[a].double(), frames.intrinsics[a])[frames.depth[a] > 0]
    b_from_a = compose_extrinsics(frames.extrinsics[b], invert_extrinsics(frames.extrinsics[a]))

    def median_error(motion: torch.Tensor) -> float:
        moved = transform_points(motion, points)
        moved = moved[moved[:, 2] > 0.5]
        pixels = project(moved, frames.intrinsics[b]).floor().long()
        inside = ((pixels >= 0) & (pixels < torch.tensor([42, 28]))).all(-1)
        z = frames.depth[b].double()[pixels[inside, 1], pixels[inside, 0]]
        error = (moved[inside, 2] - z).abs() / z
        return float(error[z > 0].median())

    assert median_error(b_from_a) < 0.02
    assert median_error(invert_extrinsics(b_from_a)) > 0.1


def test_images_move_as_geometry_says() -> None:
    """Warping the next frame back by depth and motion explains the picture better than leaving it in place."""
    settings = SETTINGS.model_copy(update={"height": 56, "width": 84})
    frames = render_town(settings, 2)
    assert frames.depth is not None and frames.intrinsics is not None and frames.extrinsics is not None
    points = unproject(frames.depth[4].double(), frames.intrinsics[4]).reshape(-1, 3)
    motion = compose_extrinsics(frames.extrinsics[5], invert_extrinsics(frames.extrinsics[4]))
    pixels = project(transform_points(motion, points), frames.intrinsics[5]).reshape(1, 56, 84, 2)
    grid = (pixels / torch.tensor([84.0, 56.0]) * 2 - 1).float()
    warped = torch.nn.functional.grid_sample(frames.images[5:6], grid, align_corners=False)[0]
    valid = (frames.depth[4] > 0) & (grid[0].abs() < 1).all(-1)
    moved = (warped - frames.images[4]).abs().mean(0)[valid].mean()
    still = (frames.images[5] - frames.images[4]).abs().mean(0)[valid].mean()
    assert moved < 0.5 * still


def test_same_key_same_pixels() -> None:
    first, again, other = render_town(SETTINGS, 4), render_town(SETTINGS, 4), render_town(SETTINGS, 5)
    assert torch.equal(first.images, again.images)
    assert first.extrinsics is not None and again.extrinsics is not None
    assert torch.equal(first.extrinsics, again.extrinsics)
    assert not torch.equal(first.images, other.images)
    reseeded = render_town(SETTINGS.model_copy(update={"seed": 1}), 4)
    assert not torch.equal(first.images, reseeded.images)


def test_shapes_ranges_and_rigid_poses() -> None:
    frames = render_town(SETTINGS, 0)
    assert frames.images.shape == (12, 3, 28, 42)
    assert 0 <= frames.images.min() < frames.images.max() <= 1
    assert frames.extrinsics is not None and frames.depth is not None and frames.intrinsics is not None
    rotation = frames.extrinsics[:, :, :3]
    eye = torch.eye(3, dtype=torch.float64).expand(12, 3, 3)
    torch.testing.assert_close(rotation @ rotation.transpose(1, 2), eye)
    assert (torch.linalg.det(rotation) > 0).all()
    assert (frames.intrinsics[:, :2, 2] == torch.tensor([21.0, 14.0])).all()
    centres = pixel_centres(28, 42, torch.float64).mean((0, 1))
    torch.testing.assert_close(
        frames.intrinsics[0, :2, 2], centres
    )  # the image's centre in half-integer pixels


@pytest.mark.parametrize("closed_share", [0.0, 1.0])
def test_paths_turn_and_keep_clear_of_houses(closed_share: float) -> None:
    settings = SETTINGS.model_copy(update={"num_frames": 240, "closed_share": closed_share})
    drive = TownDrive(settings, 0)
    position = -np.einsum("sji,sj->si", drive.extrinsics[:, :, :3], drive.extrinsics[:, :, 3])
    step = np.linalg.norm(np.diff(position, axis=0), axis=1)
    assert step.max() < 1.05 * settings.max_speed_m
    assert np.abs(np.diff(np.unwrap(drive.path.frame_pose()[1]))).sum() > math.radians(180)
    town = drive.town
    for centre, half, (cos, sin) in zip(town.centre, town.half_size, town.axis, strict=True):
        local = (position[:, :2] - centre) @ np.array([[cos, -sin], [sin, cos]])
        distance = np.linalg.norm(np.maximum(np.abs(local) - half, 0), axis=1).min()
        assert distance > 1.0
    if closed_share == 1:  # a little more than one lap
        assert drive.path.frame_arc[-1] == pytest.approx(1.08 * drive.path.length, rel=0.1)
        assert np.linalg.norm(position[-1] - position, axis=1)[:60].min() < 2


def test_blackouts_hide_the_picture_only() -> None:
    settings = SETTINGS.model_copy(update={"blackout_share": 1.0, "blackout_frames": 3})
    dark, plain = render_town(settings, 2), render_town(SETTINGS, 2)
    is_black = dark.images.amax((1, 2, 3)) == 0
    assert is_black.sum() == 3 and not is_black[0]
    assert torch.equal(dark.images[~is_black], plain.images[~is_black])
    assert dark.depth is not None and plain.depth is not None
    assert torch.equal(dark.depth, plain.depth)


def test_fog_black_outs_hide_the_sky_too() -> None:
    """A cloud seen through the fog would tell the rotation."""
    settings = SETTINGS.model_copy(
        update={"blackout_share": 1.0, "blackout_frames": 3, "blackout_fog_m": 0.3, "wobble_deg": 5.0}
    )
    clear = settings.model_copy(update={"blackout_share": 0.0})
    drive, foggy, plain = TownDrive(settings, 2), render_town(settings, 2), render_town(clear, 2)
    hidden = torch.from_numpy(drive.is_hidden)
    assert hidden.sum() == 3
    assert torch.equal(foggy.images[~hidden], plain.images[~hidden])
    assert foggy.images[hidden].std((2, 3)).max() < 0.01 < plain.images[hidden].std((2, 3)).min()
    assert foggy.images[hidden].mean() > 0.5


def test_black_outs_lie_one_in_each_part() -> None:
    settings = TownSettings(num_frames=64, blackout_share=1.0, blackouts=2, blackout_frames=12)
    starts = set()
    for number in range(20):
        is_hidden = draw_blackouts(np.random.default_rng(number), settings)
        edges = np.flatnonzero(np.diff(is_hidden.astype(int)) == 1)
        starts.add(int(edges[0]))
        assert is_hidden[:32].sum() == is_hidden[32:].sum() == 12
        assert not is_hidden[0]
        assert len(edges) <= 2
    assert len(starts) > 10
    none = draw_blackouts(np.random.default_rng(0), settings.model_copy(update={"blackout_share": 0.0}))
    assert not none.any()
    short = draw_blackouts(np.random.default_rng(0), settings.model_copy(update={"num_frames": 20}))
    assert short.sum() == 10, "half of each part of ten frames"


def test_noted_black_outs_are_read_back_and_others_refused(tmp_path: Path) -> None:
    is_hidden = np.array([False, True, True, False, False])
    write_blackouts(tmp_path, is_hidden)
    assert np.array_equal(read_blackouts(tmp_path, 5), is_hidden)
    with pytest.raises(UserError, match="for each of 6 frames"):
        read_blackouts(tmp_path, 6)
    with pytest.raises(UserError, match="make the towns again"):
        read_blackouts(tmp_path / "nowhere", 5)


@pytest.mark.parametrize("max_yaw_deg", [0.2, 4.0])  # an arc, a circle driven round and round
def test_steady_drives_keep_their_speed_and_turn(max_yaw_deg: float) -> None:
    settings = SETTINGS.model_copy(
        update={"steady_share": 1.0, "wobble_deg": 0.0, "num_frames": 100, "max_yaw_deg": max_yaw_deg}
    )
    speeds, turns = [], []
    for number in range(8):
        drive = TownDrive(settings, number)
        position = -np.einsum("sji,sj->si", drive.extrinsics[:, :, :3], drive.extrinsics[:, :, 3])[:, :2]
        step = np.linalg.norm(np.diff(position, axis=0), axis=1)
        turn = np.diff(np.unwrap(drive.path.frame_pose()[1]))
        assert step == pytest.approx(step.mean(), rel=0.01)
        assert turn == pytest.approx(turn.mean(), abs=1e-3)
        # the heading is the direction of travel
        ahead = np.diff(position, axis=0) / step[:, None]
        heading = drive.path.frame_pose()[1][:-1] + turn / 2
        assert ahead == pytest.approx(np.stack([np.cos(heading), np.sin(heading)], -1), abs=0.02)
        speeds.append(step.mean())
        turns.append(np.rad2deg(turn.mean()))
    assert np.ptp(speeds) > 0.3
    assert min(turns) < 0 < max(turns)
    assert max(np.abs(turns)) < 1.02 * max_yaw_deg
    assert np.ptp(turns) > max_yaw_deg


def test_towns_of_before_are_the_same() -> None:
    """Settings that are off draw no random numbers."""
    assert TownDrive(SETTINGS, 6).extrinsics[5] == pytest.approx(np.array(TOWN_6_FRAME_5), abs=1e-9)


def test_fog_hides_far_walls_more_than_near_ground() -> None:
    clear, foggy = render_town(SETTINGS, 2), render_town(SETTINGS.model_copy(update={"fog_share": 1.0}), 2)
    assert clear.depth is not None
    change = (clear.images - foggy.images).abs().mean(1)
    near, far = (clear.depth > 0) & (clear.depth < 8), (clear.depth > 20) & (clear.depth < 60)
    assert change[far].mean() > 1.5 * change[near].mean()


def test_settings_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="min_fov_deg must not exceed"):
        TownSettings(min_fov_deg=80, max_fov_deg=60)
