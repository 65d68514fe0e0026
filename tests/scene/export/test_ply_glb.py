"""Point files: trimesh opens them, and readers that know the format alone find every number."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh

from scal3r_train.scene.export import glb
from scal3r_train.scene.scene import load_scene
from tests.scene.export.conftest import Run
from tests.scene.export.scenes import make_scene
from tests.scene.test_ply import independent_ply


def independent_glb(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """POSITION and COLOR_0 of every mesh, one value at a time, after checking what the specification demands."""
    content = path.read_bytes()
    assert struct.unpack_from("<4sII", content) == (b"glTF", 2, len(content))
    length, kind = struct.unpack_from("<I4s", content, 12)
    assert kind == b"JSON"
    assert length % 4 == 0
    document = json.loads(content[20 : 20 + length])
    binary_length, kind = struct.unpack_from("<I4s", content, 20 + length)
    assert kind == b"BIN\0"
    binary = content[28 + length :]
    assert len(binary) == binary_length == document["buffers"][0]["byteLength"]
    found: dict[str, dict[str, np.ndarray]] = {}
    for mesh in document["meshes"]:
        (primitive,) = mesh["primitives"]
        found[mesh["name"]] = {"mode": np.array(primitive["mode"])}
        for name, number in primitive["attributes"].items():
            accessor = document["accessors"][number]
            assert (accessor["componentType"], accessor["type"]) == (5126, "VEC3")
            view = document["bufferViews"][accessor["bufferView"]]
            assert view["byteStride"] % 4 == 0
            start = view["byteOffset"] + accessor.get("byteOffset", 0)
            rows = [
                struct.unpack_from("<3f", binary, start + row * view["byteStride"])
                for row in range(accessor["count"])
            ]
            values = np.array(rows)
            if name == "POSITION":
                np.testing.assert_array_equal(values.min(axis=0), accessor["min"])
                np.testing.assert_array_equal(values.max(axis=0), accessor["max"])
            found[mesh["name"]][name] = values
    return found


def srgb(linear: np.ndarray) -> np.ndarray:
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded).astype(np.uint8)


def test_trimesh_opens_the_ply(scene: Path, export: Run) -> None:
    path = export(scene, "ply", name="out.ply")
    cloud = trimesh.load(path)
    ours = load_scene(scene)
    np.testing.assert_array_equal(cloud.vertices, ours.positions)
    np.testing.assert_array_equal(cloud.colors[:, :3], ours.colours)
    rows = independent_ply(path)
    assert [row["confidence"] for row in rows] == ours.confidence.tolist()


def test_a_thinned_ply(scene: Path, export: Run) -> None:
    ours = load_scene(scene)
    confident = export(scene, "ply", "--min-confidence", 5, name="a.ply")
    np.testing.assert_array_equal(trimesh.load(confident).vertices, ours.positions[ours.confidence >= 5])
    assert len(trimesh.load(export(scene, "ply", "--max-points", 77, name="b.ply")).vertices) == 77
    thinned = trimesh.load(export(scene, "ply", "--voxel-size", 2, name="c.ply")).vertices
    cells = np.unique(np.floor(ours.positions / 2), axis=0)
    np.testing.assert_array_equal(np.unique(np.floor(np.asarray(thinned) / 2), axis=0), cells)
    assert len(thinned) == len(cells)


def test_glb_holds_points_upright_in_linear_colours(scene: Path, export: Run) -> None:
    ours = load_scene(scene)
    points = independent_glb(export(scene, "glb", name="out.glb"))["points"]
    assert points["mode"] == 0
    np.testing.assert_array_equal(points["POSITION"], ours.positions * np.float32([1, -1, -1]))
    np.testing.assert_array_equal(srgb(points["COLOR_0"]), ours.colours)


def test_glb_draws_what_the_cameras_see(scene: Path, export: Run) -> None:
    ours = load_scene(scene)
    lines = independent_glb(export(scene, "glb", name="out.glb"))["cameras"]
    assert lines["mode"] == 1
    segments = (lines["POSITION"] * [1, -1, -1]).reshape(-1, 2, 3)
    num_frames = len(ours.frames)
    assert len(segments) == 8 * num_frames + num_frames - 1
    centres = ours.world_from_cam[:, :, 3].numpy()
    depth = np.median(np.linalg.norm(np.diff(centres, axis=0), axis=1))
    for frame in range(num_frames):
        # The far ends of the first four segments of a camera project onto the corners of its image.
        start, ends = segments[4 * frame : 4 * frame + 4, 0], segments[4 * frame : 4 * frame + 4, 1]
        np.testing.assert_allclose(start, np.tile(centres[frame], (4, 1)), rtol=1e-6)
        rotation = ours.world_from_cam[frame, :, :3].numpy()
        in_camera = (ends - centres[frame]) @ rotation
        np.testing.assert_allclose(in_camera[:, 2], depth, rtol=1e-5)
        pixels = in_camera / in_camera[:, 2:] @ ours.intrinsics[frame].numpy().T
        height, width = ours.frames[frame].image_hw
        np.testing.assert_allclose(
            pixels[:, :2], [[0, 0], [width, 0], [width, height], [0, height]], atol=1e-3
        )
    np.testing.assert_allclose(segments[-1], centres[-2:], rtol=1e-6)


def test_the_path_is_torn_where_the_trajectory_is(
    tmp_path: Path, export: Run, capsys: pytest.CaptureFixture
) -> None:
    folder = make_scene(tmp_path / "scene", breaks=(1,))
    segments = glb.camera_lines(load_scene(folder))[8 * 5 :]
    centres = load_scene(folder).world_from_cam[:, :, 3].numpy()
    np.testing.assert_array_equal(segments, np.stack([centres[[0, 1, 3]], centres[[1, 2, 4]]], axis=1))
    export(folder, "glb", name="out.glb")
    assert "torn before frame 3" in capsys.readouterr().err


def test_trimesh_opens_the_glb(scene: Path, export: Run) -> None:
    loaded = trimesh.load(export(scene, "glb", name="out.glb"))
    ours = load_scene(scene)
    (cloud,) = [part for part in loaded.geometry.values() if isinstance(part, trimesh.PointCloud)]
    np.testing.assert_array_equal(cloud.vertices, ours.positions * np.float32([1, -1, -1]))
    assert np.abs(cloud.colors[:, :3] / 255 - glb.LINEAR[ours.colours]).max() <= 0.5 / 255 + 1e-6
    (lines,) = [part for part in loaded.geometry.values() if isinstance(part, trimesh.path.Path3D)]
    assert len(lines.vertices) == 2 * (8 * 5 + 4)


def test_a_glb_without_points_and_one_frame(tmp_path: Path, export: Run) -> None:
    one = make_scene(
        tmp_path / "scene",
        0,
        names=("a.png",),
        sizes=((48, 64),),
        chunks=((0, 1),),
        provided_frames=((0, 1),),
    )
    found = independent_glb(export(one, "glb", name="out.glb"))
    assert list(found) == ["cameras"]
    assert len(found["cameras"]["POSITION"]) == 16


def test_more_points_than_a_glb_can_hold(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from scal3r_train import cli

    monkeypatch.setattr(glb, "MAX_BYTES", 20_000)
    assert cli.main(["export", str(scene), str(tmp_path / "o.glb"), "--to", "glb"]) == 2
    assert "at most 833 points" in capsys.readouterr().err
    assert not list(tmp_path.glob("*o.glb*"))
