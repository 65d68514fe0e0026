"""`scal3r reconstruct` with a source of metres: what the scene folder holds, and what is refused before the work."""

import json
from collections.abc import Callable
from pathlib import Path

import laspy
import numpy as np
import pytest
import torch

from scal3r_train.config import UserError, load_config
from scal3r_train.data.index.source import open_source
from scal3r_train.geometry.geodesy import UtmZone, geodetic_from_enu
from scal3r_train.inference.input.video import Video
from scal3r_train.inference.reconstruct import is_done, outcome_line, reconstruct
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.inference.streaming.reconstruct_stream import reconstruct_stream
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.scene.export import export_scene
from scal3r_train.scene.scene import Scene, load_scene, read_depth
from tests.inference.conftest import NUM_FRAMES

SETTINGS = [
    "input.resize.size=42",
    "export.report=false",
    "export.voxel_size=0",
    "export.save_depth=true",
    "schedule.chunk_size=8",
    "schedule.overlap=2",
    "loop_closure.enabled=false",
]
ORIGIN = np.array([50.7753, 6.0839, 173.0])

Run = Callable[..., Scene]


@pytest.fixture
def run(tiny_model: Scal3RModel, image_folder: Path, tmp_path: Path) -> Run:
    """Reconstruct with overrides into tmp_path / NAME."""

    def call(name: str, *overrides: str) -> Scene:
        recipe = load_config(ReconstructionRecipe, None, [*SETTINGS, *overrides])
        scene = reconstruct(image_folder, tiny_model, recipe, tmp_path / name, "abc")
        assert scene is not None
        return scene

    return call


def test_the_stated_distance_is_that_of_the_trajectory_and_everything_grows_alike(
    run: Run, tmp_path: Path
) -> None:
    plain, scene = run("plain"), run("metres", "alignment.metric.distance=[1, 9, 250.0]")
    centres = scene.world_from_cam[:, :, 3]
    assert float((centres[1] - centres[9]).norm()) == pytest.approx(250, rel=1e-9)
    assert scene.info.scale is not None
    factor = scene.info.scale.metres_per_unit
    torch.testing.assert_close(scene.world_from_cam[:, :, :3], plain.world_from_cam[:, :, :3])
    torch.testing.assert_close(centres, factor * plain.world_from_cam[:, :, 3])
    np.testing.assert_allclose(scene.positions, factor * plain.positions, rtol=1e-5, atol=1e-4 * factor)
    for frame in range(NUM_FRAMES):
        ours, theirs = (read_depth(tmp_path / name, frame) for name in ("metres", "plain"))
        np.testing.assert_allclose(ours, factor * theirs, rtol=1e-5)
    info = json.loads((tmp_path / "metres/scene.json").read_text())
    assert (info["units"], info["scale_source"]) == ("metres", "distance")
    assert info["scale"]["relative_std"] > 0
    assert info["georeference"] is None
    assert (plain.info.units, plain.info.scale) == ("model units", None)
    assert "% from distance" in outcome_line(tmp_path / "metres", scene.info)


def write_fixes(path: Path, scene: Scene, moved: float = 0.0) -> None:
    """A GPS track of a scene's own path, in a frame that is turned and 400 times as large."""
    centres = scene.world_from_cam[:, :, 3].numpy()
    enu = 400 * centres[:, [0, 2, 1]] * [1, 1, -1] + [moved, 0, 0]
    rows = [",".join(map(repr, row)) for row in geodetic_from_enu(enu, ORIGIN).tolist()]
    path.write_text("latitude,longitude,altitude\n" + "\n".join(rows) + "\n")


def test_a_track_places_the_scene_on_the_earth(
    run: Run, image_folder: Path, tiny_model: Scal3RModel, tmp_path: Path
) -> None:
    plain = run("plain")
    track = tmp_path / "fixes.csv"
    write_fixes(track, plain)
    scene = run("placed", f"alignment.metric.gps={track}", "alignment.metric.gps_correlation_s=0")
    place = scene.info.georeference
    assert place is not None
    first = np.array([[0.0, 0, 0]])
    zone = UtmZone.of(ORIGIN)
    path = plain.world_from_cam[:, :, 3].norm(dim=1).max() * 400
    there, truth = (zone.from_geodetic(places) for places in (place.geodetic(first), ORIGIN[None]))
    assert np.linalg.norm(there - truth) < 0.2 * path
    assert export_scene.main(tmp_path / "placed", tmp_path / "out.laz", "laz", {}) == 0
    cloud = laspy.read(tmp_path / "out.laz")
    ours = zone.from_geodetic(place.geodetic(scene.positions))
    assert np.abs(cloud.xyz - ours).max() < 1e-3
    # The same again is done already, until the file changes.
    recipe = load_config(
        ReconstructionRecipe,
        None,
        [*SETTINGS, f"alignment.metric.gps={track}", "alignment.metric.gps_correlation_s=0"],
    )
    video = Video.choose(open_source(image_folder), recipe.input, tiny_model.config)
    assert is_done(tmp_path / "placed", recipe, video, "abc")
    write_fixes(track, plain, moved=1.0)
    assert not is_done(tmp_path / "placed", recipe, video, "abc")


def test_a_source_that_does_not_fit_is_refused_before_the_work(run: Run, tmp_path: Path) -> None:
    (tmp_path / "fixes.csv").write_text("lat,lon\n50,6\n50.1,6\n50.1,6.1\n")
    for setting, message in {
        "distance=[0, 11, 2.0]": "the scene has frames 0 to 10",
        f"gps={tmp_path / 'fixes.csv'}": "has 3 fixes without times for 11 images",
        f"gps={tmp_path / 'none.csv'}": "cannot be read",
        f"poses={tmp_path / 'none.txt'}": "cannot be read as a trajectory",
        f"depth={tmp_path / 'none'}": "is no folder",
    }.items():
        with pytest.raises(UserError, match=message):
            run("refused", f"alignment.metric.{setting}")
        assert not list(tmp_path.glob("refused*"))


def test_a_stream_has_metres_only_when_it_is_refined(
    incoming: Path, tiny_model: Scal3RModel, tmp_path: Path
) -> None:
    recipe = load_config(ReconstructionRecipe, None, [*SETTINGS, "alignment.metric.distance=[1, 9, 2.5]"])
    with pytest.raises(UserError, match=r"add follow.refine=true"):
        reconstruct_stream(incoming, tiny_model, recipe, tmp_path / "scene")


def test_a_scene_of_before_has_no_metres(run: Run, tmp_path: Path) -> None:
    run("plain")
    path = tmp_path / "plain/scene.json"
    info = json.loads(path.read_text())
    del info["scale"], info["georeference"]
    path.write_text(json.dumps(info))
    assert load_scene(tmp_path / "plain").info.scale is None
