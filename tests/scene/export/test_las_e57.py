"""LAS, LAZ and E57 as laspy and pye57 read them: on the right millimetre of the Earth, colours and confidence too."""

import sys
from pathlib import Path

import laspy
import numpy as np
import pye57
import pyproj
import pytest
from scipy.spatial.transform import Rotation

from scal3r_train import cli
from scal3r_train.scene.scene import Scene, load_scene
from tests.scene.export.conftest import Run
from tests.scene.export.scenes import make_scene

ORIGIN = (50.7753, 6.0839, 173.25)
MILLIMETRE = 1e-3
SCALE = {
    "source": "gps",
    "metres_per_unit": 2.0,
    "relative_std": 0.01,
    "num_measurements": 9,
    "num_given": 9,
}


def placed_scene(folder: Path) -> tuple[Path, np.ndarray]:
    """A scene with a place on the Earth, and enu_from_world [3, 4]."""
    rotation = Rotation.from_euler("xyz", [-85, 3, 40], degrees=True).as_matrix()
    enu_from_world = np.column_stack([rotation, [120.5, -340.25, 7.125]])
    rows = tuple(tuple(row) for row in enu_from_world.tolist())
    georeference = dict(zip(("latitude_deg", "longitude_deg", "altitude_m"), ORIGIN, strict=True))
    place = {**georeference, "enu_from_world": rows}
    return make_scene(folder, georeference=place, scale=SCALE, units="metres"), enu_from_world


def in_utm(scene: Scene, enu_from_world: np.ndarray, epsg: int) -> np.ndarray:
    """Points of a scene in UTM by PROJ alone."""
    enu = scene.positions.astype(np.float64) @ enu_from_world[:, :3].T + enu_from_world[:, 3]
    pipeline = (
        "+proj=pipeline +step +inv +proj=topocentric +ellps=WGS84 "
        f"+lat_0={ORIGIN[0]} +lon_0={ORIGIN[1]} +h_0={ORIGIN[2]} +step +inv +proj=cart +ellps=WGS84"
    )
    longitude, latitude, height = pyproj.Transformer.from_pipeline(pipeline).transform(*enu.T)
    east, north = pyproj.Transformer.from_crs(4979, epsg, always_xy=True).transform(longitude, latitude)
    return np.stack([east, north, height], -1)


@pytest.mark.parametrize("form", ["las", "laz"])
def test_las_is_on_the_right_millimetre(tmp_path: Path, export: Run, form: str) -> None:
    folder, enu_from_world = placed_scene(tmp_path / "scene")
    scene = load_scene(folder)
    path = export(folder, form, name=f"out.{form}")
    with laspy.open(path) as reader:
        cloud, header = reader.read(), reader.header
    assert (str(header.version), header.point_format.id, len(cloud)) == ("1.4", 7, len(scene.positions))
    assert header.are_points_compressed == (form == "laz")
    epsg = header.parse_crs().to_epsg()
    assert epsg == 32632
    truth = in_utm(scene, enu_from_world, epsg)
    assert np.abs(truth).max() > 5e6  # where float32 knows half a metre
    assert np.abs(cloud.xyz - truth).max() < MILLIMETRE
    np.testing.assert_array_equal(header.offsets, np.round(header.offsets))
    assert np.abs(np.array(header.offsets) - truth.mean(axis=0)).max() < 10
    colours = np.stack([cloud.red, cloud.green, cloud.blue], -1)
    np.testing.assert_array_equal(colours // 257, scene.colours)
    np.testing.assert_array_equal(cloud["confidence"], scene.confidence)
    np.testing.assert_allclose(cloud.intensity, 65535 * (1 - 1 / scene.confidence), atol=0.51)
    np.testing.assert_allclose([header.mins, header.maxs], [cloud.xyz.min(0), cloud.xyz.max(0)], atol=1e-9)


def test_e57_is_on_the_right_millimetre(tmp_path: Path, export: Run) -> None:
    folder, enu_from_world = placed_scene(tmp_path / "scene")
    scene = load_scene(folder)
    reader = pye57.E57(str(export(folder, "e57", name="out.e57")))
    try:
        local = reader.read_scan_raw(0)
        placed = reader.read_scan(0, intensity=True, colors=True, ignore_missing_fields=True)
        header = reader.get_header(0)
        bounds = [header.xMinimum, header.zMaximum]
        text = reader.root["coordinateMetadata"].value()
    finally:
        reader.close()
    truth = in_utm(scene, enu_from_world, 32632)
    whole = np.stack([placed[f"cartesian{axis}"] for axis in "XYZ"], -1)
    assert np.abs(whole - truth).max() < MILLIMETRE
    near = np.stack([local[f"cartesian{axis}"] for axis in "XYZ"], -1)
    assert np.abs(near).max() < 20
    np.testing.assert_allclose(bounds, [near[:, 0].min(), near[:, 2].max()])
    colours = np.stack([placed[f"color{name}"] for name in ("Red", "Green", "Blue")], -1)
    np.testing.assert_array_equal(colours, scene.colours)
    np.testing.assert_array_equal(placed["intensity"], scene.confidence)
    assert pyproj.CRS.from_wkt(text).to_epsg() == 32632


def test_a_scene_without_a_place_keeps_its_axes_but_for_z_up(scene: Path, export: Run) -> None:
    ours = load_scene(scene)
    cloud = laspy.read(export(scene, "las", "--max-points", 500, name="out.las"))
    assert len(cloud) == 500
    assert cloud.header.parse_crs() is None
    z_up = ours.positions[:, [0, 2, 1]] * np.array([1, 1, -1])
    gaps = np.linalg.norm(cloud.xyz[:, None] - z_up[None], axis=2).min(axis=1)
    assert gaps.max() < 1e-5
    reader = pye57.E57(str(export(scene, "e57", name="out.e57")))
    whole = reader.read_scan(0, ignore_missing_fields=True)
    reader.close()
    np.testing.assert_allclose(np.stack([whole[f"cartesian{axis}"] for axis in "XYZ"], -1), z_up)


def test_a_cloud_without_points_is_a_file_without_points(tmp_path: Path, export: Run) -> None:
    folder = make_scene(tmp_path / "scene", num_points=0)
    assert len(laspy.read(export(folder, "laz", name="out.laz"))) == 0
    reader = pye57.E57(str(export(folder, "e57", name="out.e57")))
    assert reader.get_header(0).point_count == 0
    reader.close()


@pytest.mark.parametrize(("form", "package"), [("las", "laspy"), ("laz", "lazrs"), ("e57", "pye57")])
def test_a_missing_package_is_one_line(
    scene: Path,
    tmp_path: Path,
    form: str,
    package: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert cli.main(["export", str(scene), str(tmp_path / "out"), "--to", form]) == 2
    assert f"--to {form} needs {package}: pip install 'scal3r_train[geo]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
