"""Quirks of the sets that come with COLMAP models, with OpenGL cameras, or ready made."""

import json
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import Image

from scal3r_data_tools import prepare
from scal3r_data_tools.adapters import colmap, dl3dv, eth3d, map_free, matrix_city, mega_depth, scannet_pp
from scal3r_data_tools.formats.colmap import read_cameras, read_images
from scal3r_train.config import UserError
from scal3r_train.data.camera.camera_model import Lens, distort, lens_of, merged
from scal3r_train.data.io.frame_io import frame_camera, read_frame_depth
from tests.data_tools.cut3r_folder import write_folder
from tests.data_tools.layouts import eth3d as eth3d_layout
from tests.data_tools.layouts import matrix_city as matrix_city_layout
from tests.data_tools.layouts import mega_depth as mega_depth_layout
from tests.data_tools.layouts import scannet_pp as scannet_pp_layout
from tests.data_tools.lens_rays import colmap_camera, images_line
from tests.data_tools.miniature import make_miniature, pinhole_rays, render
from tests.data_tools.test_layouts import compare_cameras, compare_intrinsics, compare_pixels

MODELS = {
    "SIMPLE_PINHOLE": [130, 80, 60],
    "PINHOLE": [130, 128, 80, 60],
    "SIMPLE_RADIAL": [130, 80, 60, 0.05],
    "RADIAL": [130, 80, 60, 0.05, -0.02],
    "OPENCV": [130, 128, 80, 60, 0.05, -0.06, -0.001, 0.0006],
    "OPENCV_FISHEYE": [130, 128, 80, 60, 0.05, -0.02, 0.004, -0.001],
    "FULL_OPENCV": [130, 128, 80, 60, 0.05, -0.06, -0.001, 0.0006, 0.01, 0.02, -0.01, 0.003],
    "SIMPLE_RADIAL_FISHEYE": [130, 80, 60, 0.05],
    "RADIAL_FISHEYE": [130, 80, 60, 0.05, -0.02],
    "THIN_PRISM_FISHEYE": [130, 128, 80, 60, 0.05, -0.02, 1e-3, -2e-3, 0.004, -0.001, 1e-3, 2e-3],
    "RAD_TAN_THIN_PRISM_FISHEYE": [
        130, 128, 80, 60, 0.05, -0.02, 0.004, -0.001, 1e-3, 1e-4, 1e-3, -2e-3, 1e-3, 2e-3, -1e-3, 1e-4,
    ],
    "SIMPLE_FISHEYE": [130, 80, 60],
    "FISHEYE": [130, 128, 80, 60],
}  # fmt: skip


@pytest.mark.parametrize("end", [".bin", ".txt"])
@pytest.mark.parametrize("name", MODELS)
def test_models_that_colmap_writes_are_read(name: str, end: str, tmp_path: Path) -> None:
    model = pycolmap.Reconstruction()
    camera = colmap_camera(name, [float(value) for value in MODELS[name]], (120, 160))
    model.add_camera_with_trivial_rig(camera)
    quaternion_xyzw = np.array([0.1, -0.2, 0.3, 0.9]) / np.sqrt(0.95)
    pose = pycolmap.Rigid3d(pycolmap.Rotation3d(quaternion_xyzw), np.array([1.0, 2.0, 3.0]))
    for number in (1, 2):
        points = [pycolmap.Point2D([1.5, 2.5])] * (3 * (number - 1))
        image = pycolmap.Image(
            name=f"a/{'long name ' * 40}{number}.jpg", camera_id=1, image_id=number, points2D=points
        )
        model.add_image_with_trivial_frame(image, pose)
    write = model.write_binary if end == ".bin" else model.write_text
    write(tmp_path)
    images = list(read_images(tmp_path))
    assert sorted(image.name for image in images) == sorted(image.name for image in model.images.values())
    assert np.abs(images[1].cam_from_world - pose.matrix()).max() < 1e-12
    (read,) = read_cameras(tmp_path).values()
    assert read.hw == (120, 160)
    kind, intrinsics, distortion = merged([lens_of(read)])
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 2))
    expected = np.asarray(camera.img_from_cam(np.column_stack([points, np.ones(50)])))
    coefficients = np.zeros(0) if distortion is None else distortion[0]
    got = distort(points, kind, coefficients) * intrinsics[0, :2] + intrinsics[0, 2:]
    assert np.abs(got - expected).max() < 1e-8


def test_cameras_of_one_kind_are_written_as_the_most_general() -> None:
    plain, bent = Lens("pinhole", (1, 2, 3, 4), ()), Lens("opencv", (1, 2, 3, 4), (0.1, 0.2, 0.3))
    assert merged([plain, plain])[2] is None
    kind, _, distortion = merged([plain, bent])
    assert kind == "opencv" and distortion is not None
    assert distortion.tolist() == [[0, 0, 0], [0.1, 0.2, 0.3]]
    fisheye, prism = (
        Lens("opencv_fisheye", (1, 1, 0, 0), (0.1, 0.2, 0.3, 0.4)),
        np.array([0.1, 0.2, 0, 0, 0.3, 0.4, 0, 0]),
    )
    kind, _, distortion = merged([fisheye, Lens("thin_prism_fisheye", (1, 1, 0, 0), (0.1,) * 8)])
    assert kind == "thin_prism_fisheye" and distortion is not None
    assert distortion[0].tolist() == prism.tolist()
    points = np.random.default_rng(0).uniform(-1, 1, (9, 2))
    assert np.allclose(
        distort(points, kind, prism), distort(points, fisheye.model, np.array(fisheye.coefficients))
    )


def small_model(folder: Path, cameras: str, num_cameras: int = 1) -> None:
    (folder / "images").mkdir()
    (folder / "cameras.txt").write_text(cameras)
    lines = [images_line(i, np.eye(4)[:3], i % num_cameras, f"{i}.png") for i in range(4)]
    (folder / "images.txt").write_text("".join(lines))
    for i in range(4):
        Image.fromarray(np.full((12, 16, 3), i, np.uint8)).save(folder / "images" / f"{i}.png")


def test_lenses_that_cannot_be_one_become_two_sequences(tmp_path: Path) -> None:
    small_model(tmp_path, "0 PINHOLE 16 12 9 9 8 6\n1 OPENCV_FISHEYE 16 12 9 9 8 6 0.1 0 0 0\n", 2)
    records = list(colmap.index(tmp_path, colmap.Options()))
    assert [record.sequence_id.rpartition("/")[2] for record in records] == ["opencv", "thin_prism_fisheye"]
    assert [record.camera_model for record in records] == ["pinhole", "opencv_fisheye"]
    assert records[1].image == ("images/1.png", "images/3.png")


def test_what_colmap_knows_and_we_do_not_is_named(tmp_path: Path) -> None:
    small_model(tmp_path, "0 FOV 16 12 9 9 8 6 0.9\n")
    with pytest.raises(
        UserError, match=r"cameras\.txt: camera model FOV is not supported, only SIMPLE_PINHOLE, .*undistort"
    ):
        list(colmap.index(tmp_path, colmap.Options()))
    with pytest.raises(UserError, match=r"no folder 'photos' in it or above it"):
        list(colmap.index(tmp_path, colmap.Options(images="photos")))
    (tmp_path / "cameras.txt").write_text("0 PINHOLE 16 12 9 9 8\n")
    with pytest.raises(UserError, match=r"a camera PINHOLE with 3 parameters"):
        list(colmap.index(tmp_path, colmap.Options()))


def test_images_that_exif_turns_are_left_out(tmp_path: Path) -> None:
    small_model(tmp_path, "0 PINHOLE 16 12 9 9 8 6\n")
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(tmp_path / "images" / "2.png", exif=exif)
    (record,) = colmap.index(tmp_path, colmap.Options())
    assert record.num_frames == 3
    assert record.num_missing == 1


def test_prepare_says_which_sets_need_it(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"colmap needs no preparation, use `scal3r data index`; sets that do: "
    ):
        prepare.main("colmap", tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match=r"dataset 'nothing' is unknown"):
        prepare.main("nothing", tmp_path, tmp_path / "out")


def test_scenes_that_cut3r_preprocessed(tmp_path: Path) -> None:
    scene = make_miniature(has_sky=True)
    write_folder(tmp_path / "dl3dv" / "1K" / "0a1b" / "dense", scene, ".png", outliers=True)
    write_folder(tmp_path / "map_free" / "s00001" / "dense1", scene, ".jpg", outliers=False)
    (walk,) = dl3dv.index(tmp_path / "dl3dv", dl3dv.Options())
    (place,) = map_free.index(tmp_path / "map_free")
    assert (walk.sequence_id, place.sequence_id) == ("1K/0a1b", "s00001/dense1")
    assert (walk.is_metric, place.is_metric, place.max_depth) == (False, True, 400)
    for record in (walk, place):
        assert record.num_frames == scene.num_frames - 2
        assert record.num_missing == 2
        compare_cameras(record, scene, 1.0)
        compare_intrinsics(record, scene)
        compare_pixels(record, 4, scene, 1.0)
    depth = read_frame_depth(walk, 4)
    assert depth is not None
    assert (depth == -1).mean() > 0.1
    assert not (depth[:, ::10] > 0).any()


def test_dl3dv_reads_the_copy_that_is_asked_for(tmp_path: Path) -> None:
    document = '{"w": 64, "h": 48, "fl_x": 60, "frames": [{"file_path": "images/frame_1.png", "transform_matrix": %s}]}'
    (tmp_path / "transforms.json").write_text(document % np.eye(4).tolist())
    with pytest.raises(UserError, match=r"has none of the folders images_4, images_2, images, images_8"):
        list(dl3dv.index(tmp_path, dl3dv.Options()))
    for folder, part in (("images", 1), ("images_8", 8)):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.zeros((48 // part, 64 // part, 3), np.uint8)).save(
            tmp_path / folder / "frame_1.png"
        )
    for options, focal in ((dl3dv.Options(), 60), (dl3dv.Options(images="images_8"), 7.5)):
        (record,) = dl3dv.index(tmp_path, options)
        assert record.intrinsics is not None
        assert record.intrinsics[0, 0] == focal


def test_mega_depth_finds_its_models(tmp_path: Path) -> None:
    mega_depth_layout.write(tmp_path / "depth", mega_depth_layout.scene())
    (tmp_path / "sfm").mkdir()
    (tmp_path / "depth" / "0015" / "sparse").rename(tmp_path / "sfm" / "sparse")
    with pytest.raises(
        UserError, match=r"dense0: no model .*/0015/sparse/manhattan/0; unpack the SfM package"
    ):
        list(mega_depth.index(tmp_path / "depth", mega_depth.Options()))
    (tmp_path / "sfm" / "0015").mkdir()
    (tmp_path / "sfm" / "sparse").rename(tmp_path / "sfm" / "0015" / "sparse")
    options = mega_depth.Options(sfm=str(tmp_path / "sfm"))
    (record,) = mega_depth.index(tmp_path / "depth", options)
    assert record.num_missing == 2
    scene_folder = tmp_path / "depth" / "0015"
    (one,) = mega_depth.index(scene_folder, options)
    assert one.sequence_id == "dense0"


def test_mega_depth_photos_that_were_made_smaller() -> None:
    camera = Lens("opencv", (1300.0, 1300.0, 800.0, 600.0), (-0.08,))
    pinhole = pycolmap.undistort_camera(
        pycolmap.UndistortCameraOptions(),
        colmap_camera("SIMPLE_RADIAL", [1300, 800, 600, -0.08], (1200, 1600)),
    )
    full = mega_depth.rectified((1200, 1600), camera, (pinhole.height, pinhole.width))
    assert full == pytest.approx(tuple(pinhole.params), abs=1e-9)
    pinhole.rescale(0.5)
    half = mega_depth.rectified((1200, 1600), camera, (pinhole.height, pinhole.width))
    assert half == pytest.approx(tuple(pinhole.params), rel=0.01)


def test_map_free_without_anything_to_learn_from(tmp_path: Path) -> None:
    place = tmp_path / "val" / "s00460"
    for name in ("seq0/frame_00000.jpg", "seq1/frame_00004.jpg", "seq1/frame_00009.jpg"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((16, 12, 3), np.uint8)).save(place / name)
    names = ("seq0/frame_00000.jpg", "seq1/frame_00004.jpg", "seq1/frame_00009.jpg")
    (place / "intrinsics.txt").write_text("".join(f"{name} 15 15 6 8 12 16\n" for name in names))
    (place / "poses.txt").write_text("".join(f"{name} 1 0 0 0 0 0 0\n" for name in names))
    (record,) = map_free.index(place)
    assert (record.sequence_id, record.split, record.num_frames) == ("seq1", "val", 2)
    assert record.timestamp.tolist() == [4 / 30, 9 / 30]
    (place / "poses.txt").write_text("".join(f"{name} 0 0 0 0 0 0 0\n" for name in names))
    assert list(map_free.index(place)) == []
    (place / "poses.txt").write_text("seq0/frame_00000.jpg 1 0 0\n")
    with pytest.raises(
        UserError, match=r"poses\.txt: 'seq0/frame_00000\.jpg 1 0 0' is no name and 7 numbers"
    ):
        list(map_free.index(place))


def test_eth3d_undistorted_and_turned_photos(tmp_path: Path) -> None:
    scene = eth3d_layout.scene()
    eth3d_layout.write(tmp_path, scene)
    (record,) = eth3d.index(tmp_path, eth3d.Options(keep_turned=True))
    assert (record.num_frames, record.num_missing) == (scene.num_frames, 0)
    (record,) = eth3d.index(tmp_path / "relief_2", eth3d.Options(images="undistorted"))
    assert (record.num_frames, record.num_missing, record.depth) == (2, scene.num_frames - 2, ())
    compare_pixels(record, 1, scene, 1.0)


def test_matrix_city_units_and_trees(tmp_path: Path) -> None:
    scene = matrix_city_layout.scene()
    matrix_city_layout.write(tmp_path, scene)
    block = tmp_path / "small_city" / "street" / "train" / "small_city_road_horizon"
    document = json.loads((block / "transforms.json").read_text())
    frames = []
    for frame in document["frames"][: scene.num_frames]:
        matrix = np.array(frame["rot_mat"])
        matrix[:3, :3] *= 100
        matrix[:3, 3] /= 100
        name = f"../../train/{block.name}/{frame['frame_index']:04d}.png"
        frames.append({"file_path": name, "transform_matrix": matrix.tolist()})
    pose = tmp_path / "small_city" / "street" / "pose" / "block_small"
    pose.mkdir(parents=True)
    focal = scene.intrinsics[0, 0]
    (pose / "transforms_train.json").write_text(json.dumps({"fl_x": focal, "fl_y": focal, "frames": frames}))
    for i in range(scene.num_frames):
        path = (
            tmp_path
            / "small_city_depth_float32"
            / "street"
            / "train"
            / f"{block.name}_depth"
            / f"{i:04d}.exr"
        )
        matrix_city_layout.write_depth(path, scene.depth[i], np.float32)
    (record,) = matrix_city.index(pose, matrix_city.Options(file="transforms_train.json"))
    assert record.depth_codec == "exr_cm_float32"
    compare_cameras(record, scene, 1.0)
    compare_intrinsics(record, scene)
    compare_pixels(record, 3, scene, 1.0)
    rays = matrix_city.Options(file="transforms_train.json", is_ray_length=True)
    (other,) = matrix_city.index(pose, rays)
    depth, shorter = read_frame_depth(record, 3), read_frame_depth(other, 3)
    assert depth is not None and shorter is not None
    assert shorter[0, 0] < 0.85 * depth[0, 0] or depth[0, 0] == 0
    assert shorter[60, 80] == pytest.approx(depth[60, 80], rel=1e-3)
    (whole,) = matrix_city.index(block, matrix_city.Options())
    assert whole.depth_codec == "exr_cm_float32"


def test_scannet_pp_depth_is_rendered_from_the_mesh(tmp_path: Path) -> None:
    scene = scannet_pp_layout.scene()
    scannet_pp_layout.write(tmp_path / "source", scene)
    prepared = tmp_path / "prepared"
    options = scannet_pp.Options(depth=str(prepared))
    with pytest.raises(
        UserError, match=r"holds no depth of 0a5c013435; run `scal3r data prepare scannet_pp` first"
    ):
        list(scannet_pp.index(tmp_path / "source", options))
    assert prepare.main("scannet_pp", tmp_path / "source", prepared, ["num_workers=1"]) == 0
    files = sorted(prepared.rglob("*"))
    assert [path.suffix for path in files if path.is_file()] == [".png"] * scene.num_frames
    (record,) = scannet_pp.index(tmp_path / "source", options)
    assert (record.num_frames, record.num_missing) == (scene.num_frames - 1, 2)
    for frame in range(0, record.num_frames, 3):
        counts = np.asarray(Image.open(record.root / record.depth[frame]))
        error = np.abs(counts / 1000 - scene.depth[frame])
        assert (counts > 0).all()
        assert (error < 0.001).mean() > 0.995  # at edges a ray may just pass a box
        depth, camera = read_frame_depth(record, frame), frame_camera(record, frame)
        assert depth is not None and camera.intrinsics is not None
        _, truth, _ = render(scene.cam_from_world[frame], pinhole_rays(camera.intrinsics, scene.hw))
        assert 0 < (depth == 0).mean() < 0.05  # what is masked
        # pixels are coarse: the nearest one is up to half a degree away
        assert np.median(np.abs(depth - truth)[depth > 0] / truth[depth > 0]) < 0.006
    files[-1].unlink()
    changed = files[-2].stat().st_mtime_ns
    assert prepare.main("scannet_pp", tmp_path / "source" / "data", prepared, ["num_workers=1"]) == 0
    assert files[-1].is_file()
    assert files[-2].stat().st_mtime_ns == changed


def test_scannet_pp_choices(tmp_path: Path) -> None:
    scannet_pp_layout.write(tmp_path, scannet_pp_layout.scene())
    records = list(scannet_pp.index(tmp_path, scannet_pp.Options(device="both", keep_bad=True)))
    assert [record.sequence_id for record in records] == ["0a5c013435/dslr", "0a5c013435/iphone"]
    assert [record.num_frames for record in records] == [8, 3]
    assert [record.is_ordered for record in records] == [False, True]
    assert np.abs(records[1].timestamp - np.array([0, 10, 20]) / 60).max() < 1e-12
    (tmp_path / "train.txt").write_text("another\n")
    assert list(scannet_pp.index(tmp_path, scannet_pp.Options(scenes=str(tmp_path / "train.txt")))) == []
    scene = tmp_path / "data" / "0a5c013435"
    (scene / "scans" / "mesh_aligned_0.05.ply").unlink()
    with pytest.raises(UserError, match=r"mesh_aligned_0\.05\.ply does not exist; download the scans"):
        prepare.main("scannet_pp", tmp_path, tmp_path / "out")
    for path in (scene / "dslr" / "colmap").iterdir():
        path.unlink()
    (record,) = scannet_pp.index(scene, scannet_pp.Options())
    assert (record.num_frames, record.camera_model) == (7, "opencv_fisheye")
    compare_cameras(record, scannet_pp_layout.scene(), 1.0)
