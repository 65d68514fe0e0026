"""Circuits: the line that is driven, and how. Compared with closed forms of a stadium."""

from pathlib import Path
from xml.etree.ElementTree import fromstring

import numpy as np
import pytest
from scipy.spatial import cKDTree

from scal3r_data_tools.preparing.circuits import drive, plan, route, torcs
from scal3r_data_tools.preparing.circuits.ac3d import read_ac3d
from scal3r_train.config import UserError
from tests.data_tools.tiny_circuit import LAP, RADIUS, ROAD_Y, SHIFT, STRAIGHT, WIDTH, stadium, write_torcs


def load(folder: Path, **options: object) -> route.Route:
    write_torcs(folder, **options)
    return torcs.load_circuit(folder / "tracks" / "road" / "tiny", folder)[1]


def distance_to_stadium(points: np.ndarray) -> np.ndarray:
    dense = stadium(np.arange(0, LAP, 0.02))[0] + SHIFT
    return cKDTree(dense).query(points[:, [0, 2]] * [1, -1])[0]


def test_course_of_straights_and_arcs(tmp_path: Path) -> None:
    write_torcs(tmp_path)
    description = plan.read_description(tmp_path / "tracks" / "road" / "tiny" / "tiny.xml")
    line = plan.course(description)
    assert distance_to_stadium(np.insert(line + SHIFT, 1, 0, 1) * [1, 1, -1]).max() < 0.02
    assert line[0] == pytest.approx([0, 0])
    ahead = line[10] - line[0]
    assert ahead[0] > 0 and abs(ahead[1]) < 1e-9


def test_changing_radius_turns_by_the_angle_that_is_given() -> None:
    segment = fromstring(
        '<section name="x"><attstr name="type" val="rgt"/><attnum name="radius" val="20"/>'
        '<attnum name="end radius" val="60"/><attnum name="arc" unit="deg" val="90"/></section>'
    )
    pieces = plan._pieces(segment, 4.0, Path("x.xml"))
    assert len(pieces) == int(40 * np.pi / 2 / 4) + 1
    assert sum(length * curvature for length, curvature in pieces) == pytest.approx(-np.pi / 2)
    assert pieces[0][1] == pytest.approx(-1 / 20) and pieces[-1][1] == pytest.approx(-1 / 60)


def test_course_that_does_not_close_is_refused(tmp_path: Path) -> None:
    write_torcs(tmp_path)
    path = tmp_path / "tracks" / "road" / "tiny" / "tiny.xml"
    path.write_text(path.read_text().replace('val="180"', 'val="170"', 1))
    with pytest.raises(UserError, match="does not close by"):
        plan.course(plan.read_description(path))


def test_strips_and_plan_give_the_same_line(tmp_path: Path) -> None:
    """One track with its road's strips and one without, whose description must be laid on the mesh."""
    by_strips = load(tmp_path / "a")
    by_plan = load(tmp_path / "b", has_strips=False, start=12.3)
    for line in (by_strips, by_plan):
        assert distance_to_stadium(line.points).max() < 0.1
        assert line.points[:, 1] == pytest.approx(np.full(len(line.points), ROAD_Y))
        assert line.width == pytest.approx(WIDTH)
        ahead = line.points[5] - line.points[0]
        assert ahead[0] > 4.9, "driven along x at the start"
        assert line.right[2] == pytest.approx([0, 0, 1], abs=0.02)


def test_strips_of_another_name_or_with_a_gap_are_not_taken(tmp_path: Path) -> None:
    write_torcs(tmp_path)
    folder = tmp_path / "tracks" / "road" / "tiny"
    world, _ = torcs.load_circuit(folder, tmp_path)
    meshes = read_ac3d(folder / "tiny.acc")
    assert torcs.strip_route(meshes, world) is not None
    assert torcs.strip_route(meshes[1:], world) is None


def test_resampling_a_closed_square() -> None:
    square = np.array([[0, 0, 0], [4, 0, 0], [4, 0, 4], [0, 0, 4], [0, 0, 0]], float)
    for points in (square, square[:-1]):
        got = route.resampled(points, 1.0)
        assert len(got) == 16
        assert got[:5, 0].tolist() == [0, 1, 2, 3, 4] and got[-1].tolist() == [0, 0, 1]


def test_heights_of_a_slope_and_a_bridge() -> None:
    slope = np.array([[[0, 0, 0], [10, 10, 0], [0, 0, 10]], [[10, 10, 10], [10, 10, 0], [0, 0, 10]]], float)
    bridge = slope * [1, 0, 1] + [0, 20, 0]
    points = np.array([[2.5, 4], [7, 9], [11, 5]])
    got = route.heights_below(points, np.concatenate([bridge, slope]))
    assert [heights.tolist() for heights in got] == [pytest.approx([2.5, 20]), pytest.approx([7, 20]), []]


def test_steadiest_heights_pass_below_a_bridge() -> None:
    road = np.sin(np.linspace(0, 2 * np.pi, 40, endpoint=False))
    candidates = [np.array([height]) for height in road]
    for i in range(10, 14):
        candidates[i] = np.array([-5.0, road[i], 6.0])
    candidates[20] = np.array([])
    got = route.steadiest(candidates)
    assert np.delete(got, 20) == pytest.approx(np.delete(road, 20))
    assert got[20] == pytest.approx((road[19] + road[21]) / 2)
    with pytest.raises(ValueError, match="no surface"):
        route.steadiest([np.array([])] * 3)


def test_only_surfaces_with_room_above_are_driven_on() -> None:
    assert route.with_room(np.array([-1.0, 0.0, 0.02, 5.0])).tolist() == [0.02, 5.0]
    assert route.with_room(np.array([])).tolist() == []


def test_banked_road_is_followed() -> None:
    """A plane that falls 1 m in 4 m along z, driven along x and back."""
    corners = np.array([[-99, 99], [99, 99], [99, -99], [-99, -99]], float)
    plane = np.insert(corners, 1, -corners[:, 1] / 4, 1)
    triangles = plane[np.array([[0, 1, 2], [0, 2, 3]])]
    there = np.stack([np.arange(-30.0, 31), np.full(61, 0.125), np.full(61, -0.5)], 1)
    right = route.banked(np.concatenate([there, there[::-1] * [1, -1, -1]]), triangles, 8.0)
    assert right[30] == pytest.approx(np.array([0, -1, 4]) / np.sqrt(17), abs=1e-6)
    assert right[90] == pytest.approx(np.array([0, 1, -4]) / np.sqrt(17), abs=1e-6)


def test_cameras_look_along_the_road_from_above_it(tmp_path: Path) -> None:
    line = load(tmp_path)
    for number in range(4):
        style = drive.draw_style(np.random.default_rng(number), number)
        path = drive.camera_path(line, style, np.random.default_rng(9), 1.1, 0)
        rotation, centre = path.world_from_cam[:, :, :3], path.world_from_cam[:, :, 3]
        assert rotation @ rotation.transpose(0, 2, 1) == pytest.approx(
            np.tile(np.eye(3), (len(rotation), 1, 1))
        )
        assert np.linalg.det(rotation) == pytest.approx(np.ones(len(rotation)))
        assert (rotation[:, 1, 1] < -0.9).all(), "the image's down is the world's down"
        assert centre[:, 1] - ROAD_Y == pytest.approx(np.full(len(centre), style.height), abs=0.2)
        assert distance_to_stadium(centre).max() < WIDTH / 4 + 0.2
        steps = np.diff(path.driven)
        assert steps.min() >= 0.5 and steps.max() <= 3
        assert path.driven[-1] == pytest.approx(1.1 * line.length, abs=4)
        moved = centre[5:] - centre[:-5]
        facing = (moved * rotation[:-5, :, 2]).sum(1) / np.linalg.norm(moved, axis=1)
        assert facing.min() > 0.8
        turns = np.cross(rotation[:-1, :, 2], rotation[1:, :, 2])[:, 1].sum()
        assert np.sign(turns) == (-1 if style.is_reversed else 1), "anticlockwise, or against it"


def test_styles_keep_to_their_bounds_and_differ() -> None:
    styles = [drive.draw_style(np.random.default_rng(seed), seed) for seed in range(300)]
    for values, (low, high) in (
        ([s.height for s in styles], drive.HEIGHT_M),
        ([np.rad2deg(s.field_of_view) for s in styles], drive.FIELD_OF_VIEW_DEG),
        ([s.mean_step for s in styles], drive.STEP_M),
    ):
        assert (
            low <= min(values) < low + 0.2 * (high - low) and high - 0.2 * (high - low) < max(values) <= high
        )
    assert [s.is_reversed for s in styles[:4]] == [False, True, False, True]
    assert 0.3 < np.mean([s.fog_per_m > 0 for s in styles]) < 0.5


def test_bends_are_driven_slowly_and_laps_end_early_when_asked(tmp_path: Path) -> None:
    line = route.Route(*(array for array in (_circle(6.0), _circle(6.0) * 0 + [0, 0, 1])), 8.0)
    style = drive.draw_style(np.random.default_rng(0), 0)
    path = drive.camera_path(line, style, np.random.default_rng(0), 5, 20)
    assert len(path.driven) == 20
    assert np.diff(path.driven).max() <= max(drive.STEP_M[0], 1.1 * drive.MAX_TURN * 6)


def _circle(radius: float) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, int(2 * np.pi * radius), endpoint=False)
    return np.stack([radius * np.sin(angle), np.zeros_like(angle), radius * np.cos(angle)], 1)


@pytest.mark.parametrize("length", [0.2, 3.0, 20.0])
def test_smooth_noise_has_unit_variance(length: float) -> None:
    noise = drive.smooth_noise(np.random.default_rng(0), 40000, length)
    assert noise.std() == pytest.approx(1, abs=0.1)
    changes = np.diff(noise).std()
    expected = np.sqrt(2 * (1 - np.exp(-1 / (4 * length**2)))) if length > 0.5 else np.sqrt(2)
    assert changes == pytest.approx(expected, rel=0.05)


def test_stadium_is_what_it_says() -> None:
    points, heading = stadium(np.array([0, STRAIGHT, STRAIGHT + np.pi * RADIUS / 2, LAP]))
    assert points == pytest.approx(
        np.array([[0, 0], [STRAIGHT, 0], [STRAIGHT + RADIUS, RADIUS], [0, 0]]), abs=1e-9
    )
    assert heading[2] == pytest.approx([0, 1], abs=1e-9)
