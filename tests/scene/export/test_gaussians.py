"""A start for Gaussian splatting: the published layout and formulas, and a data set that other programs find whole."""

import json
import shlex
import struct
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from scal3r_train import cli
from scal3r_train.scene.export import gaussians
from scal3r_train.scene.scene import load_scene
from tests.scene.export.conftest import Run
from tests.scene.export.scenes import NAMES, make_scene

# As the authors' code saves it: construct_list_of_attributes of a model of degree 3.
LAYOUT = (
    "x y z nx ny nz f_dc_0 f_dc_1 f_dc_2 "
    + " ".join(f"f_rest_{i}" for i in range(45))
    + " opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3"
)


@pytest.fixture
def photographed(tmp_path: Path) -> Path:
    return make_scene(tmp_path / "scene", 300, root=tmp_path / "photos")


def read_floats(path: Path) -> tuple[list[str], np.ndarray]:
    """Names of the properties and all values of a PLY file that holds floats only, read without our reader."""
    header, body = path.read_bytes().split(b"end_header\n", 1)
    lines = header.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    count = int(lines[2].removeprefix("element vertex "))
    names = [line.removeprefix("property float ") for line in lines[3:]]
    assert len(body) == 4 * count * len(names)
    rows = [struct.unpack_from(f"<{len(names)}f", body, 4 * number * len(names)) for number in range(count)]
    return names, np.array(rows)


def test_gaussians_have_the_published_layout_and_values(photographed: Path, export: Run) -> None:
    scene = load_scene(photographed)
    names, values = read_floats(export(photographed, "gaussians") / "gaussians.ply")
    assert " ".join(names) == LAYOUT
    column = dict(zip(names, values.T, strict=True))
    np.testing.assert_array_equal(values[:, :3], scene.positions)
    # What a renderer makes of it: SH2RGB, sigmoid and exp give back colour, opacity and radius.
    colours = 0.5 + 0.28209479177387814 * values[:, 6:9]
    np.testing.assert_allclose(colours * 255, scene.colours, atol=1e-4)
    np.testing.assert_allclose(1 / (1 + np.exp(-column["opacity"])), 0.1, atol=1e-6)
    distance = np.linalg.norm(scene.positions[:, None] - scene.positions[None].astype(np.float64), axis=-1)
    nearest = np.sort(distance, axis=1)[:, 1:4]
    for axis in range(3):
        np.testing.assert_allclose(np.exp(column[f"scale_{axis}"]), np.sqrt((nearest**2).mean(1)), rtol=1e-5)
    assert (values[:, -4:] == [1, 0, 0, 0]).all()
    assert not values[:, 3:6].any()
    assert not values[:, 9:54].any()


def test_the_data_set_beside_it_is_whole(photographed: Path, export: Run, tmp_path: Path) -> None:
    output = export(photographed, "gaussians", "--max-points", 50)
    model = pycolmap.Reconstruction(output / "sparse/0")
    assert sorted(image.name for image in model.images.values()) == sorted(NAMES)
    assert len(model.points3D) == 50
    for name in NAMES:
        assert (output / "images" / name).read_bytes() == (tmp_path / "photos" / name).read_bytes()
    transforms = json.loads((output / "transforms.json").read_text())
    assert [frame["file_path"] for frame in transforms["frames"]] == [f"images/{name}" for name in NAMES]
    assert len(read_floats(output / "gaussians.ply")[1]) == 50


def test_the_commands_that_train_it_are_printed(
    photographed: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "my splats"
    assert cli.main(["export", str(photographed), str(output), "--to", "gaussians"]) == 0
    lines = capsys.readouterr().out.splitlines()
    words = [shlex.split(line.split(":  " if "gsplat" in line else ": ")[1]) for line in lines[1:]]
    assert words[0] == ["ns-train", "splatfacto", "--data", str(output)]
    assert words[1][:5] == ["python", "simple_trainer.py", "default", "--data_dir", str(output)]


def test_a_scene_without_images_or_points_is_refused(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["export", str(scene), str(tmp_path / "o"), "--to", "gaussians"]) != 0
    assert "1.png" in capsys.readouterr().err
    empty = make_scene(tmp_path / "empty", 0, root=tmp_path / "photos")
    assert cli.main(["export", str(empty), str(tmp_path / "o"), "--to", "gaussians"]) != 0
    assert "has no points" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_points_at_one_place_have_a_finite_size() -> None:
    places = np.array([[0, 0, 0]] * 5 + [[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 2, 2]], np.float32)
    sizes = gaussians.neighbour_distance(places)
    assert (sizes > 0).all()
    assert sizes[0] < 0.01
    assert (gaussians.neighbour_distance(places[:1]) == 1).all()
    assert (gaussians.neighbour_distance(places[:5]) == 1).all()
