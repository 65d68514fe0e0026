"""Quirks of Co3Dv2, Hypersim, SceneNet RGB-D, Taskonomy and Mapillary: options, halves, damage."""

import gzip
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from scal3r_data_tools.formats import json_files
from scal3r_data_tools.registry import ADAPTERS
from scal3r_train.config import UserError, load_config
from scal3r_train.data.io.frame_io import read_frame_depth, read_frame_image
from scal3r_train.data.io.image_codec import read_image, read_image_size
from scal3r_train.data.sequence import SequenceRecord
from tests.data_tools.layouts import co3d_v2, hypersim, mapillary, scenenet_rgbd, taskonomy
from tests.data_tools.miniature import Miniature, make_miniature


def index(name: str, folder: Path, *options: str) -> list[SequenceRecord]:
    adapter = ADAPTERS[name]
    return list(adapter.records(folder, load_config(adapter.options, None, options)))


def small() -> Miniature:
    return make_miniature(num_frames=4, hw=(24, 32), focal=(26, 26), centre_offset=(0.5, -1))


def rewrite_annotations(folder: Path, change) -> None:
    path = folder / "apple" / "frame_annotations.jgz"
    rows = json.loads(gzip.decompress(path.read_bytes()))
    path.write_bytes(gzip.compress(json.dumps([change(row) for row in rows]).encode()))


def test_co3d_sequences_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    co3d_v2.write(tmp_path, small())
    (good,) = index("co3d_v2", tmp_path)
    assert good.sequence_id == "apple/110_13051_23361"
    assert good.num_missing == 1
    assert "3 frames of sequences with poor cameras" in capsys.readouterr().err
    (one_category,) = index("co3d_v2", tmp_path / "apple")
    assert one_category.image == good.image
    assert one_category.root == good.root
    both = index("co3d_v2", tmp_path, "min_viewpoint_quality=null")
    assert [record.sequence_id for record in both] == ["apple/106_12648_23157", good.sequence_id]
    (tmp_path / "apple" / "sequence_annotations.jgz").unlink()
    with pytest.raises(UserError, match=r"sequence_annotations\.jgz does not exist"):
        index("co3d_v2", tmp_path)


def test_co3d_units_of_intrinsics_and_frames_without_camera(tmp_path: Path) -> None:
    co3d_v2.write(tmp_path, small())
    (isotropic,) = index("co3d_v2", tmp_path)

    def change(row: dict) -> dict:
        view = row["viewpoint"]
        for key in ("focal_length", "principal_point"):
            view[key] = (np.array(view[key]) * 24 / np.array([32, 24])).tolist()
        camera = {**view, "intrinsics_format": "ndc_norm_image_bounds"}
        return row | {"viewpoint": None if row["frame_number"] == 1 else camera}

    rewrite_annotations(tmp_path, change)
    (bounds,) = index("co3d_v2", tmp_path)
    assert bounds.num_missing == 2
    assert bounds.intrinsics == pytest.approx(isotropic.intrinsics[1:])


def test_co3d_depth_scales(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    co3d_v2.write(tmp_path, small())
    depth = read_frame_depth(index("co3d_v2", tmp_path)[0], 0)

    def change(row: dict) -> dict:
        scale = 3.0 if row["frame_number"] == 2 else 2.0
        return row | {"depth": {**row["depth"], "scale_adjustment": scale}}

    rewrite_annotations(tmp_path, change)
    (record,) = index("co3d_v2", tmp_path)
    assert "1 frames have another depth scale than 2 and lose their depth" in capsys.readouterr().err
    assert [bool(name) for name in record.depth] == [True, False, True]
    assert [bool(name) for name in record.mask] == [True, False, True]
    assert read_frame_depth(record, 0) == pytest.approx(2 * depth)


def test_long_lists_are_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_files, "BLOCK_BYTES", 7)
    rows = [{"name": "\u00e4" * i, "in": {"list": [i, {}, "]}"]}} for i in range(20)]
    text = json.dumps(rows, ensure_ascii=False, indent=1).encode()
    path = tmp_path / "rows.jgz"
    for data in (text, gzip.compress(text)):
        path.write_bytes(data)
        assert list(json_files.stream_list(path)) == rows
    for data in (
        text[:-30],
        gzip.compress(text)[:-30],
        gzip.compress(text[:-30]),
        b"[{]",
        b"{}",
        b"[1]",
        b"",
    ):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"rows\.jgz cannot be read: ."):
            list(json_files.stream_list(path))


def test_hypersim_lenses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hypersim.write(tmp_path, small())
    (record,) = index("hypersim", tmp_path)
    assert (record.sequence_id, record.num_missing) == ("ai_037_002/cam_00", 2)
    assert index("hypersim", tmp_path / "ai_037_002")[0].image == record.image  # the table lies beside it
    skewed = np.array([[26.0, 3, 16], [0, 26, 12], [0, 0, 1]])
    table = {"ai_037_002": hypersim.projection(skewed, (24, 32))}
    hypersim.write_projections(tmp_path / "metadata_camera_parameters.csv", table, (24, 32))
    assert index("hypersim", tmp_path) == []
    said = capsys.readouterr().err
    assert "of a tilted image plane, which no camera here has is left out, cam_00 (skewed by 1.4 px)" in said
    assert "4 frames of a tilted image plane" in said
    (tmp_path / "metadata_camera_parameters.csv").unlink()
    with pytest.raises(
        UserError, match=r"ai_037_002 has no row in metadata_camera_parameters\.csv; get that"
    ):
        index("hypersim", tmp_path)
    (record,) = index("hypersim", tmp_path, "assume_default_lens=true")
    assert record.intrinsics[0] == pytest.approx([16 * 3**0.5, 16 * 3**0.5, 16, 12])


def test_hypersim_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hypersim.write(tmp_path, small())
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"hypersim needs h5py: pip install 'scal3r_train\[data\]'"):
        index("hypersim", tmp_path)


def test_hypersim_linear_images(tmp_path: Path) -> None:
    scene = small()
    hypersim.write(tmp_path, scene)
    folder = tmp_path / "ai_037_002" / "images" / "scene_cam_00_final_hdf5"
    folder.mkdir()
    ramp = np.linspace(0, 1, 24 * 32).reshape(24, 32, 1) * [1.0, 0.5, 0.25]
    ramp[0, 0] = np.nan
    for i in range(scene.num_frames):
        hypersim.write_hdf5(
            folder / f"frame.{i + hypersim.FIRST:04d}.color.hdf5", (37 * ramp).astype(np.float16)
        )
    (record,) = index("hypersim", tmp_path, "prefer_previews=false")
    assert record.image[0].endswith("frame.0003.color.hdf5")
    assert read_image_size(record.root / record.image[0]) == (24, 32)
    image = read_frame_image(record, 0)
    brightness = np.sort(ramp.reshape(-1, 3)[1:] @ [0.3, 0.59, 0.11])
    factor = 0.8**2.2 / np.percentile(brightness, 90)
    expected = 255 * np.clip(factor * np.nan_to_num(ramp), 0, 1) ** (1 / 2.2)
    assert np.abs(image - expected).max() < 1.2
    damaged = record.root / record.image[0]
    damaged.write_bytes(damaged.read_bytes()[:500])
    with pytest.raises(UserError, match=r"frame\.0003\.color\.hdf5 cannot be read: ."):
        read_image(damaged)


def test_scenenet_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = scenenet_rgbd.scene()
    scenenet_rgbd.write(tmp_path, scene)
    (record,) = index("scenenet_rgbd", tmp_path)
    assert (record.sequence_id, record.split, record.num_missing) == ("val/0/223", "val", 1)
    assert record.timestamp[:2] == pytest.approx([1 / 120, 1 + 1 / 120], abs=1e-5)
    assert "1 sequence whose photos are not here is left out" in capsys.readouterr().err
    path = tmp_path / "scenenet_rgbd_val.pb"
    for data in (path.read_bytes()[:-3], path.read_bytes()[:500], b"\xff" * 40):
        path.write_bytes(data)
        with pytest.raises(
            UserError, match=r"scenenet_rgbd_val\.pb cannot be read as SceneNet's protobuf: ."
        ):
            index("scenenet_rgbd", tmp_path)


def test_taskonomy_layouts_and_options(tmp_path: Path) -> None:
    taskonomy.write(tmp_path / "omnitools", taskonomy.scene())
    (expected,) = index("taskonomy", tmp_path / "omnitools")
    assert (expected.sequence_id, expected.num_missing, expected.is_ordered) == ("cauthron", 1, False)
    assert [name.count("/") for name in expected.mask] == [3] * 12
    for domain in ("rgb", "depth_zbuffer", "mask_valid", "point_info"):
        published = tmp_path / "omnitools" / domain / "taskonomy" / "cauthron"
        shutil.copytree(published, tmp_path / "sample" / "cauthron" / domain.replace("_info", "s"))
        shutil.copytree(published, tmp_path / "archives" / f"cauthron_{domain}" / domain)
    for source, option in (
        ("sample", "rotation_field=camera_rotation_final"),
        ("sample/cauthron", "rotation_field=camera_rotation_final_quaternion"),
        ("archives", "use_mask=false"),
    ):
        (record,) = index("taskonomy", tmp_path / source, option)
        assert record.sequence_id == "cauthron"
        assert [Path(name).name for name in record.image] == [Path(name).name for name in expected.image]
        assert all((record.root / name).is_file() for name in (*record.image, *record.depth, *record.mask))
        assert record.cam_from_world == pytest.approx(expected.cam_from_world, abs=1e-9)
        assert bool(record.mask) == ("use_mask" not in option)
    with pytest.raises(UserError, match=r"point_info\.json has no 'where'"):
        index("taskonomy", tmp_path / "sample", "location_field=where")


def test_taskonomy_neighbours_and_damage(tmp_path: Path) -> None:
    taskonomy.write(tmp_path, taskonomy.scene())
    infos = tmp_path / "point_info" / "taskonomy" / "cauthron"
    (infos / "point_1_view_0_domain_point_info.json").write_text("{")
    (record,) = index("taskonomy", tmp_path)
    assert (record.num_frames, record.num_missing) == (11, 2)
    points = []
    for name in record.image:
        info = infos / Path(name).name.replace("_rgb.png", "_point_info.json")
        points.append(json.loads(info.read_text())["point_location"])
    for i, row in enumerate(record.covisible):
        distances = [np.linalg.norm(np.subtract(points[i], points[j])) for j in row if j >= 0]
        assert i not in row
        assert distances == sorted(distances)


def test_mapillary_halves(tmp_path: Path) -> None:
    mapillary.write(tmp_path, mapillary.scene())
    (record,) = index("mapillary", tmp_path)
    assert record.sequence_id == "train/geoeven_4/2019-03-17T16_16_24.807705"
    assert record.num_missing == 2
    # two photos move to the other split: one reconstruction becomes two sequences
    photos = json.loads((tmp_path / "train.json").read_text())
    moved = sorted(photos)[:2]
    for key in moved:
        (tmp_path / "train" / f"{key}.jpg").rename(tmp_path / "val" / f"{key}.jpg")
    (tmp_path / "val.json").write_text(json.dumps({key: photos.pop(key) for key in moved}))
    (tmp_path / "train.json").write_text(json.dumps(photos))
    train, val = index("mapillary", tmp_path)
    assert (train.split, train.num_frames, val.split, val.num_frames) == ("train", 10, "val", 2)
    assert train.num_missing + val.num_missing == 2
    assert val.depth == ()
    (tmp_path / "train.json").unlink()
    with pytest.raises(UserError, match=r"train\.json does not exist, though train/ does"):
        index("mapillary", tmp_path)
