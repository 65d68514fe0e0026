"""A tiny random model on a few images leaves a complete scene folder, or one line and nothing."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scal3r_train import cli
from scal3r_train.config import UserError, load_config
from scal3r_train.data.index.index import write_index
from scal3r_train.data.index.source import record_from_images
from scal3r_train.inference.input.video import Video
from scal3r_train.inference.network.segment_schedule import predict_chunks
from scal3r_train.inference.reconstruct import complete_line, reconstruct
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.scene.scene import Scene, depth_path, load_scene
from tests.inference.conftest import IMAGE_HW, NUM_FRAMES, make_tiny_model
from tests.scene.export.scenes import make_scene
from tests.scene.test_ply import independent_ply

SETTINGS = ["schedule.chunk_size=4", "schedule.overlap=2", "input.resize.size=42", "export.report=false"]
FILES = {"scene.json", "frames.jsonl", "trajectory.tum", "intrinsics.txt", "points.ply"}

Reconstruct = Callable[..., Scene]


@pytest.fixture
def run(tiny_model: Scal3RModel, image_folder: Path, tmp_path: Path) -> Reconstruct:
    """Reconstruct with overrides into tmp_path / scene."""

    def call(*overrides: str, model: Scal3RModel = tiny_model) -> Scene:
        recipe = load_config(ReconstructionRecipe, None, [*SETTINGS, *overrides])
        scene = reconstruct(image_folder, model, recipe, tmp_path / "scene", "abc")
        assert scene is not None
        return scene

    return call


def test_the_scene_folder_is_complete(run: Reconstruct, tmp_path: Path) -> None:
    scene = run("export.report=true")
    assert {path.name for path in (tmp_path / "scene").iterdir()} == {*FILES, "report.html"}
    assert [path.name for path in tmp_path.iterdir()] == ["scene"]
    info = json.loads((tmp_path / "scene/scene.json").read_text())
    assert info["num_frames"] == NUM_FRAMES
    assert info["chunks"] == [[0, 4], [2, 6], [4, 8], [6, 10], [8, 11]]
    assert info["provided_frames"] == [[0, 3], [3, 5], [5, 7], [7, 9], [9, 11]]
    assert len(info["seams"]) == 4
    assert {seam["method"] for seam in info["seams"]} == {
        "points",
        "cameras",
    }  # random weights: some depth is nonsense
    assert (info["recipe"]["schedule"]["chunk_size"], info["recipe"]["schedule"]["overlap"]) == (4, 2)
    assert info["checkpoint_sha256"] == "abc"
    assert info["processed_hw"] == [28, 42]
    assert set(info["timings_s"]) == {"predict", "align", "loops", "place"}
    assert info["peak_memory_bytes"]["host"] > 10**7
    assert (
        len(independent_ply(tmp_path / "scene/points.ply")) == info["num_points"] == len(scene.positions) > 0
    )


def test_the_world_is_the_first_camera(run: Reconstruct, tmp_path: Path) -> None:
    scene = run()
    torch.testing.assert_close(scene.world_from_cam[0], torch.eye(3, 4, dtype=torch.float64))
    rows = np.loadtxt(tmp_path / "scene/trajectory.tum")
    assert rows.shape == (NUM_FRAMES, 8)
    assert rows[:, 0].tolist() == list(range(NUM_FRAMES))
    np.testing.assert_allclose(rows[0, 1:], [0, 0, 0, 0, 0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(rows[:, 4:], axis=1), 1, atol=1e-12)
    np.testing.assert_array_equal(rows[:, 1:4], scene.world_from_cam[:, :, 3])
    assert np.linalg.norm(rows[-1, 1:4]) > 1e-3


def test_intrinsics_are_in_input_pixels(
    run: Reconstruct, tiny_model: Scal3RModel, image_folder: Path
) -> None:
    """63 x 90 is resized to 29 x 42, then the 29th row is cut off."""
    scene = run("schedule.chunk_size=60", "schedule.overlap=30")
    recipe = load_config(ReconstructionRecipe, None, SETTINGS)
    video = Video.choose(record_from_images(image_folder), recipe.input, tiny_model.config)
    images = video.images(range(NUM_FRAMES))
    assert images.shape == (NUM_FRAMES, 3, 28, 42)
    fov_h, fov_w = tiny_model([[images / 255]]).pose_encoding[0][0][:, 7:].detach().double().unbind(-1)
    height, width = IMAGE_HW
    focal_y = 14 / torch.tan(fov_h / 2) * height / 29
    focal_x = 21 / torch.tan(fov_w / 2) * width / 42
    torch.testing.assert_close(scene.intrinsics[:, 0, 0], focal_x, rtol=1e-6, atol=0)
    torch.testing.assert_close(scene.intrinsics[:, 1, 1], focal_y, rtol=1e-6, atol=0)
    torch.testing.assert_close(scene.intrinsics[0, :2, 2], torch.tensor([45, 14 * 63 / 29]).double())


def test_points_come_from_the_providing_chunk_and_lie_where_depth_says(
    run: Reconstruct, tmp_path: Path
) -> None:
    """The cloud, unthinned, is the saved depth seen through the saved cameras: each frame exactly once."""
    scene = run("export.save_depth=true", "export.voxel_size=0", "export.min_confidence_ratio=0")
    assert len(scene.positions) == NUM_FRAMES * 28 * 42
    positions = scene.positions.reshape(NUM_FRAMES, 28, 42, 3)
    rows, columns = np.mgrid[:28, :42]
    for frame in range(NUM_FRAMES):
        depth = np.load(depth_path(tmp_path / "scene", frame))["depth"]
        fx, fy = scene.intrinsics[frame, 0, 0].item(), scene.intrinsics[frame, 1, 1].item()
        # Pixel centres of the processed image in the input's pixels.
        x, y = (columns + 0.5) * 90 / 42, (rows + 0.5) * 63 / 29
        cx, cy = scene.intrinsics[frame, :2, 2].tolist()
        camera = np.stack([(x - cx) / fx * depth, (y - cy) / fy * depth, depth], axis=-1)
        pose = scene.world_from_cam[frame].numpy()
        np.testing.assert_allclose(
            positions[frame], camera @ pose[:, :3].T + pose[:, 3], rtol=1e-4, atol=1e-5
        )


def test_colours_are_those_of_the_images(run: Reconstruct, image_folder: Path) -> None:
    scene = run("export.voxel_size=0", "export.min_confidence_ratio=0")
    colours = scene.colours.reshape(NUM_FRAMES, 28, 42, 3)
    image = Image.open(image_folder / "007.png").resize((42, 29), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(colours[7], np.asarray(image)[:28])


def test_confidence_voxels_and_the_cap_thin_the_points(run: Reconstruct, tmp_path: Path) -> None:
    def count(*overrides: str) -> int:
        return run("export.overwrite=true", *overrides).info.num_points

    everything = count("export.voxel_size=0", "export.min_confidence_ratio=0")
    assert 0 < count("export.voxel_size=0", "export.min_confidence_ratio=1") < everything
    assert 0 < count("export.voxel_size=0.5", "export.min_confidence_ratio=0") < everything / 2
    assert count("export.voxel_size=0", "export.max_points=100", "export.min_confidence_ratio=0") == 100
    assert [path.name for path in tmp_path.iterdir()] == ["scene"]


def test_the_point_head_runs_only_when_asked_for(run: Reconstruct, tiny_model: Scal3RModel) -> None:
    ran = []
    hook = tiny_model.point_head.scratch.output_conv1.register_forward_hook(lambda *_: ran.append(1))
    try:
        run()
        assert not ran
        scene = run("points=head", "export.overwrite=true")
        assert ran
    finally:
        hook.remove()
    assert scene.info.num_points > 0


def test_half_precision_predicts_about_the_same(tiny_model: Scal3RModel) -> None:
    images = {0: torch.randint(0, 256, (4, 3, 28, 42), dtype=torch.uint8)}
    exact = predict_chunks(tiny_model, images)[0].depth
    rounded = predict_chunks(tiny_model, images, precision="bfloat16")[0].depth
    assert 0 < ((exact - rounded).abs() / exact).mean() < 0.05


def test_a_path_that_cannot_be_written_is_found_before_the_work(
    tiny_model: Scal3RModel, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(Scal3RModel, "forward", None)
    with pytest.raises(UserError, match="cannot be made"):
        reconstruct(image_folder, tiny_model, ReconstructionRecipe(), tmp_path / "file" / "scene")


def test_chosen_frames_keep_their_times(run: Reconstruct) -> None:
    scene = run("input.start=1", "input.stride=2", "input.max_frames=4")
    assert scene.info.frame_indices == (1, 3, 5, 7)
    assert scene.timestamps.tolist() == [1, 3, 5, 7]
    assert scene.info.chunks == ((0, 4),)
    assert scene.info.seams == ()


def test_predictions_depend_on_the_other_chunks(tiny_model: Scal3RModel) -> None:
    """Otherwise the tests of many ranks would show nothing."""
    images = torch.randint(0, 256, (8, 3, 28, 42), dtype=torch.uint8)
    alone = predict_chunks(tiny_model, {0: images[:4]})[0].depth
    together = predict_chunks(tiny_model, {0: images[:4], 1: images[4:]})[0].depth
    assert (alone - together).abs().max() > 1e-3


def test_nan_is_reported_with_its_place_and_not_written(run: Reconstruct, tmp_path: Path) -> None:
    model = make_tiny_model()
    with torch.no_grad():
        model.depth_head.scratch.output_conv2[2].bias[1] = torch.nan
    with pytest.raises(UserError, match=r"NaN or infinity in depth_conf of chunk 0, frame 0"):
        run(model=model)
    assert not (tmp_path / "scene").exists()


def test_a_model_without_the_needed_head_is_refused(run: Reconstruct, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no point head"):
        run("points=head", model=make_tiny_model(point_head=False))
    with pytest.raises(UserError, match="no depth head"):
        run(model=make_tiny_model(depth_head=False))
    assert list(tmp_path.iterdir()) == []


def test_an_older_scene_is_replaced_only_when_asked_for(run: Reconstruct, tmp_path: Path) -> None:
    run()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "scene").iterdir()}
    with pytest.raises(UserError, match="holds another scene"):
        run("input.max_frames=5")
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "scene").iterdir()}
    assert run("input.max_frames=5", "export.overwrite=true").info.num_frames == 5
    assert load_scene(tmp_path / "scene").info.num_frames == 5


def test_a_folder_of_something_else_is_never_replaced(run: Reconstruct, tmp_path: Path) -> None:
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene/thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="is no scene folder"):
        run("export.overwrite=true")
    assert (tmp_path / "scene/thesis.tex").read_text() == "years of work"


class TestCommand:
    """`scal3r reconstruct` as a user types it."""

    @pytest.fixture
    def command(
        self, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> Callable[..., tuple[int, str, str]]:
        def call(source: object, *settings: str) -> tuple[int, str, str]:
            arguments = ["reconstruct", str(source), str(tmp_path / "out")]
            code = cli.main([*arguments, f"model.checkpoint={checkpoint}", *SETTINGS, *settings])
            captured = capsys.readouterr()
            return code, captured.out, captured.err

        return call

    def test_it_says_what_it_wrote_and_does_not_do_it_twice(
        self,
        command: Callable[..., tuple[int, str, str]],
        image_folder: Path,
        tmp_path: Path,
        checkpoint: Path,
    ) -> None:
        code, out, _ = command(image_folder)
        assert code == 0
        assert out.count("\n") == 1
        assert f"{NUM_FRAMES} frames in 5 chunks" in out
        digest = hashlib.sha256()
        for name in ("config.json", "model.safetensors"):
            digest.update((checkpoint / name).read_bytes())
        assert load_scene(tmp_path / "out").info.checkpoint_sha256 == digest.hexdigest()
        written = (tmp_path / "out/scene.json").stat().st_mtime_ns
        code, out, _ = command(image_folder)
        assert code == 0
        assert "complete for this input, recipe and checkpoint" in out
        assert (tmp_path / "out/scene.json").stat().st_mtime_ns == written
        code, _, err = command(image_folder, "input.stride=2")
        assert code == 2
        assert "holds another scene" in err

    def test_an_index_row_is_an_input(
        self, command: Callable[..., tuple[int, str, str]], image_folder: Path, tmp_path: Path
    ) -> None:
        write_index(tmp_path / "i.parquet", [record_from_images(image_folder)])
        code, _, err = command(f"{tmp_path / 'i.parquet'}#{image_folder.name}")
        assert code == 0
        assert err.count("\n") == 1
        assert err.startswith("states of 5 chunks a process: device")
        assert load_scene(tmp_path / "out").info.num_frames == NUM_FRAMES

    @pytest.mark.parametrize(
        ("case", "complaint"),
        [
            ("empty folder", "holds no images"),
            ("absent folder", "does not exist"),
            ("truncated image", "005.png cannot be read"),
            ("missing file of an index", "005.png does not exist"),
            ("video", "walk.mp4 cannot be read"),
            ("depth maps", "16-bit"),
            ("unknown sequence", "no sequence named 'nobody'"),
        ],
    )
    def test_bad_input_is_one_line_and_exit_code_2(
        self,
        command: Callable[..., tuple[int, str, str]],
        image_folder: Path,
        tmp_path: Path,
        case: str,
        complaint: str,
    ) -> None:
        folder = tmp_path / "in"
        folder.mkdir()
        source: object = folder
        if case != "empty folder":
            for path in image_folder.iterdir():
                (folder / path.name).write_bytes(path.read_bytes())
        if case == "absent folder":
            source = tmp_path / "nowhere"
        elif case == "truncated image":  # after it was listed; listing leaves such images out
            write_index(tmp_path / "i.parquet", [record_from_images(folder)])
            source = f"{tmp_path / 'i.parquet'}#in"
            content = (folder / "005.png").read_bytes()
            (folder / "005.png").write_bytes(content[: len(content) // 2])
        elif case in ("missing file of an index", "unknown sequence"):
            write_index(tmp_path / "i.parquet", [record_from_images(folder)])
            source = f"{tmp_path / 'i.parquet'}#{'nobody' if case == 'unknown sequence' else 'in'}"
            (folder / "005.png").unlink()
        elif case == "video":
            source = tmp_path / "walk.mp4"
            source.write_bytes(b"\0\0\0\x18ftypmp42 no video really")
        elif case == "depth maps":
            Image.fromarray(np.zeros((8, 8), np.uint16)).save(folder / "005.png")
        self.check_refusal(command(source), complaint, tmp_path)

    @pytest.mark.parametrize(
        ("setting", "complaint"),
        [
            ("schedule.overlap=4", "overlap = 4 must be less than chunk_size = 4"),
            ("schedule.overlapp=1", "did you mean 'overlap'"),
            ("input.image_hw=[30,42]", "no multiple of the model's patch size 14"),
            ("input.start=50", "lies beyond"),
            ("model.checkpoint=/nowhere", "does not exist"),
            ("model.checkpoint=null", "no checkpoint is given"),
            ("task=train", "task"),
        ],
    )
    def test_bad_settings_are_one_line_and_exit_code_2(
        self,
        command: Callable[..., tuple[int, str, str]],
        image_folder: Path,
        tmp_path: Path,
        setting: str,
        complaint: str,
    ) -> None:
        self.check_refusal(command(image_folder, setting), complaint, tmp_path)

    @staticmethod
    def check_refusal(result: tuple[int, str, str], complaint: str, tmp_path: Path) -> None:
        code, out, err = result
        assert code == 2, err
        assert out == ""
        *plans, line = err.splitlines()
        assert all(plan.startswith("states of ") for plan in plans)
        assert line.startswith("scal3r: error: ")
        assert complaint in line
        assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


def test_a_scene_whose_report_a_kill_prevented_gets_it_with_the_next_start(tmp_path: Path) -> None:
    scene, recipe = make_scene(tmp_path / "scene"), load_config(ReconstructionRecipe, None, [])
    (scene / f".report.{1 << 30}.partial.html").write_text("half")
    without = load_config(ReconstructionRecipe, None, ["export.report=false"])
    assert "; its report" not in complete_line(scene, without)
    assert "; its report was missing and is there now; " in complete_line(scene, recipe)
    assert "</html>" in (scene / "report.html").read_text() and not list(scene.glob(".*"))
    assert "; its report" not in complete_line(scene, recipe)
