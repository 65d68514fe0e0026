"""The image processor gives the model what a reconstruction gives it, and takes its outputs back to the input."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

from scal3r_train.config import UserError, load_config
from scal3r_train.inference.image_processing_scal3r import Scal3RImageProcessor, Scal3RInputs
from scal3r_train.inference.network.chunk_runner import ChunkRunner
from scal3r_train.inference.network.segment_schedule import predict_chunks
from scal3r_train.inference.reconstruct import reconstruct
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.model.configuration_scal3r import PROCESSOR_FILE, Scal3RConfig
from scal3r_train.model.modeling_scal3r import Scal3RModel, Scal3ROutput
from scal3r_train.scene.scene import Scene, read_depth
from tests.inference.conftest import IMAGE_HW, NUM_FRAMES
from tests.model.tiny import tiny_model as motion_model

SETTINGS = ["schedule.chunk_size=4", "schedule.overlap=2", "input.resize.size=42", "export.report=false"]
PROCESSOR = Scal3RImageProcessor(image_size=42, patch_size=14, chunk_size=4, overlap=2)


def pictures(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]


Run = tuple[Scene, list[Tensor], Path]


@pytest.fixture(scope="module")
def run(tiny_model: Scal3RModel, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The scene of the folder, what the network was given of each chunk as floats, and where the scene is."""
    folder = tmp_path_factory.mktemp("run") / "scene"
    given: list[Tensor] = []
    original = ChunkRunner.embed

    def embed(runner: ChunkRunner, images: Tensor) -> Any:
        given.append(images.float() / 255)
        return original(runner, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChunkRunner, "embed", embed)
        recipe = load_config(
            ReconstructionRecipe, None, [*SETTINGS, "loop_closure.enabled=false", "export.save_depth=true"]
        )
        scene = reconstruct(image_folder, tiny_model, recipe, folder)
    assert scene is not None
    return scene, given, folder


@pytest.fixture(scope="module")
def processed(tiny_model: Scal3RModel, image_folder: Path) -> tuple[Scal3RInputs, Scal3ROutput]:
    inputs = PROCESSOR(image_folder)
    with torch.no_grad():
        return inputs, tiny_model(**inputs)


FORMS: dict[str, Callable[[Path], Any]] = {
    "folder": lambda folder: folder,
    "paths": lambda folder: sorted(folder.iterdir()),
    "pillow": lambda folder: [Image.open(path) for path in sorted(folder.iterdir())],
    "arrays": pictures,
    "one array": lambda folder: np.stack(pictures(folder)),
    "tensors": lambda folder: [torch.from_numpy(each.copy()).permute(2, 0, 1) for each in pictures(folder)],
    "floats": lambda folder: torch.from_numpy(np.stack(pictures(folder))).permute(0, 3, 1, 2) / 255,
}


@pytest.mark.parametrize("form", FORMS)
def test_the_model_sees_the_bytes_of_a_reconstruction(form: str, run: Run, image_folder: Path) -> None:
    (chunks,) = PROCESSOR(FORMS[form](image_folder))["pixel_values"]
    assert [tuple(chunk.shape) for chunk in chunks] == [(4, 3, 28, 42)] * 4 + [(3, 3, 28, 42)]
    assert len(run[1]) == len(chunks)
    for ours, theirs in zip(chunks, run[1], strict=True):
        assert ours.dtype == torch.float32 and torch.equal(ours, theirs)


def test_the_same_of_a_video(
    tiny_model: Scal3RModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    av = pytest.importorskip("av")
    random = np.random.default_rng(0)
    with av.open(str(tmp_path / "drive.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(9):
            picture = random.integers(0, 256, (64, 96, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    given: list[Tensor] = []
    original = ChunkRunner.embed
    monkeypatch.setattr(
        ChunkRunner, "embed", lambda runner, images: given.append(images) or original(runner, images)
    )
    overrides = [*SETTINGS, "input.fps=5", "loop_closure.enabled=false"]
    recipe = load_config(ReconstructionRecipe, None, overrides)
    reconstruct(tmp_path / "drive.mp4", tiny_model, recipe, tmp_path / "scene")
    inputs = PROCESSOR(tmp_path / "drive.mp4", fps=5)
    assert inputs.frames.frame_indices.tolist() == [0, 2, 4, 6, 8]
    np.testing.assert_allclose(inputs.frames.timestamps, [0, 0.2, 0.4, 0.6, 0.8])
    (chunks,) = inputs["pixel_values"]
    assert len(chunks) == len(given) == 2
    assert all(torch.equal(ours, theirs.float() / 255) for ours, theirs in zip(chunks, given, strict=True))


def test_equal_chunks_are_one_tensor_and_options_are_for_one_call(image_folder: Path) -> None:
    inputs = PROCESSOR(image_folder, max_frames=6, image_hw=(28, 56))
    assert inputs["pixel_values"].shape == (2, 4, 3, 28, 56)
    assert [(chunk.start, chunk.stop) for chunk in inputs.frames.chunks] == [(0, 4), (2, 6)]
    assert PROCESSOR(image_folder, chunk_size=30, overlap=5)["pixel_values"].shape == (
        1,
        NUM_FRAMES,
        3,
        28,
        42,
    )
    wide = PROCESSOR(image_folder, image_side="width", image_size=28, stride=5)
    assert wide["pixel_values"].shape == (1, 3, 3, 14, 28)
    assert wide.frames.names == ("000.png", "005.png", "010.png")
    arrays = PROCESSOR(image_folder, max_frames=6, return_tensors="np")["pixel_values"]
    assert isinstance(arrays, np.ndarray) and arrays.shape == (2, 4, 3, 28, 42)
    assert PROCESSOR.to_dict() == Scal3RImageProcessor(**PROCESSOR.to_dict()).to_dict()


def test_the_way_back_travels_with_the_images(image_folder: Path) -> None:
    inputs = PROCESSOR(image_folder, max_frames=6)
    frames = inputs.frames
    assert frames.original_hw.tolist() == [list(IMAGE_HW)] * 6 and frames.image_hw == (28, 42)
    again = pickle.loads(pickle.dumps(inputs))  # noqa: S301  as data loaders and copies do
    assert torch.equal(again["pixel_values"], inputs["pixel_values"]) and again.frames.names == frames.names
    half = inputs.to(torch.bfloat16)
    assert half["pixel_values"].dtype == torch.bfloat16 and half.frames is frames


def test_every_chunk_comes_back_in_pixels_of_the_input(
    processed: tuple[Scal3RInputs, Scal3ROutput], tiny_model: Scal3RModel, run: Run
) -> None:
    inputs, outputs = processed
    expected = predict_chunks(tiny_model, {n: (part * 255).byte() for n, part in enumerate(run[1])})
    found = PROCESSOR.post_process(outputs, inputs)
    assert [one.frame_indices.tolist() for one in found] == [list(chunk) for chunk in inputs.frames.chunks]
    for number, one in enumerate(found):
        theirs = expected[number]
        np.testing.assert_allclose(one.cam_from_world, theirs.extrinsics, atol=1e-5)
        np.testing.assert_allclose(one.depth, theirs.depth, rtol=1e-4)
        np.testing.assert_allclose(one.depth_conf, theirs.depth_conf, rtol=1e-4)
        # 63 x 90 is resized to 29 x 42, then one row is cut off below.
        scale = torch.tensor([42 / 90, 29 / 63, 1.0], dtype=torch.float64)
        np.testing.assert_allclose(one.intrinsics, theirs.intrinsics / scale[:, None], rtol=1e-5)
        rotation, translation = one.world_from_cam[:, :, :3], one.world_from_cam[:, :, 3]
        np.testing.assert_allclose(
            np.einsum("sij,sj->si", one.cam_from_world[:, :, :3], translation) + one.cam_from_world[:, :, 3],
            np.zeros_like(translation),
            atol=1e-9,
        )
        # The point of a pixel, from the input's own pixels: ray through it, depth along z, into the world.
        row, column = 7, 30
        pixel = np.array([(column + 0.5) * 90 / 42, (row + 0.5) * 63 / 29, 1.0])
        rays = np.linalg.inv(one.intrinsics) @ pixel
        in_cam = rays * one.depth[:, row, column, None]
        world = np.einsum("sij,sj->si", rotation, in_cam) + translation
        np.testing.assert_allclose(one.points[:, row, column], world, rtol=1e-4, atol=1e-5)
        assert one.points_conf.shape == one.depth.shape == (len(world), 28, 42)


def test_images_of_several_sizes_have_intrinsics_of_their_own(tiny_model: Scal3RModel) -> None:
    """The first is 63 x 90, the second 180 x 130 and stands upright: scaled to cover 28 x 42, cut above and below."""
    random = np.random.default_rng(0)
    inputs = PROCESSOR([random.integers(0, 256, (*hw, 3), np.uint8) for hw in (IMAGE_HW, (180, 130))])
    assert inputs.frames.original_hw.tolist() == [list(IMAGE_HW), [180, 130]]
    with torch.no_grad():
        outputs = tiny_model(**inputs)
    fov_h, fov_w = outputs.pose_encoding[0, 0, :, 7:].double().numpy().T
    (found,) = PROCESSOR.post_process(outputs, inputs)
    resized = np.array([[42, 29], [42, round(180 * 42 / 130)]])  # 29 and 58 rows, of which 28 are kept
    scale = resized / np.array([[90, 63], [130, 180]])
    cut = (resized[:, 1] - 28) // 2
    np.testing.assert_allclose(found.intrinsics[:, 0, 0], 21 / np.tan(fov_w / 2) / scale[:, 0], rtol=1e-6)
    np.testing.assert_allclose(found.intrinsics[:, 1, 1], 14 / np.tan(fov_h / 2) / scale[:, 1], rtol=1e-6)
    np.testing.assert_allclose(found.intrinsics[:, 1, 2], (14 + cut) / scale[:, 1], rtol=1e-9)
    np.testing.assert_allclose(found.intrinsics[:, 0, 2], 21 / scale[:, 0], rtol=1e-9)


def test_the_point_head_s_own_points(
    processed: tuple[Scal3RInputs, Scal3ROutput],
) -> None:
    inputs, outputs = processed
    found = PROCESSOR.post_process(outputs, inputs, points="head")
    for one, theirs in zip(found, outputs.world_points[0], strict=True):
        np.testing.assert_array_equal(one.points, theirs)


def test_stitched_chunks_are_the_scene_of_a_reconstruction(
    processed: tuple[Scal3RInputs, Scal3ROutput], run: Run
) -> None:
    inputs, outputs = processed
    scene, _, folder = run
    whole = PROCESSOR.stitch(outputs, inputs)
    assert whole.frame_indices.tolist() == list(range(NUM_FRAMES))
    np.testing.assert_allclose(whole.world_from_cam, scene.world_from_cam, atol=1e-4)
    np.testing.assert_allclose(whole.intrinsics, scene.intrinsics, rtol=1e-4)
    assert whole.points.shape == (NUM_FRAMES, 28, 42, 3)
    for frame, depth in enumerate(whole.depth):
        np.testing.assert_allclose(depth, read_depth(folder, frame), rtol=1e-3)


def test_known_cameras_are_those_of_a_reconstruction(image_folder: Path, tmp_path: Path) -> None:
    """Of a model that measures motion: it needs to know their field of view, also with a last chunk that is short."""
    model = motion_model(
        dtype=torch.float32, patch_encoder="direct", direct_stride=3, patch_size=6, image_size=48
    )
    known = (70.0, 72.0, 44.0, 30.0)
    processor = Scal3RImageProcessor(image_size=48, patch_size=6, chunk_size=4, overlap=2)
    found = []
    for options in ({"intrinsics": known}, {}):
        inputs = processor(image_folder, **options)
        with torch.no_grad():
            found.append(processor.stitch(model(**inputs.to("cpu")), inputs))
    whole, unknown = found
    assert processor(image_folder, intrinsics=known)["fov"] == pytest.approx(2 * np.arctan(90 / 2 / 70))
    sizes = ["input.resize.size=48", "input.resize.multiple=6"]
    overrides = [*SETTINGS[:2], *sizes, "loop_closure.enabled=false", "input.intrinsics=70 72 44 30"]
    recipe = load_config(ReconstructionRecipe, None, overrides)
    scene = reconstruct(image_folder, model, recipe, tmp_path / "scene")
    assert scene is not None
    np.testing.assert_allclose(whole.world_from_cam, scene.world_from_cam, atol=1e-4)
    assert np.abs(unknown.world_from_cam - whole.world_from_cam).max() > 0.1
    entries = whole.intrinsics[:, [0, 1, 0, 1], [0, 1, 2, 2]]
    np.testing.assert_allclose(entries, np.tile(known, (NUM_FRAMES, 1)))
    np.testing.assert_allclose(whole.intrinsics, scene.intrinsics)
    with pytest.raises(UserError, match="intrinsics"):
        processor(image_folder, intrinsics="nowhere.txt")


def test_one_chunk_stitches_to_itself(tiny_model: Scal3RModel, image_folder: Path) -> None:
    inputs = PROCESSOR(image_folder, max_frames=3)
    with torch.no_grad():
        outputs = tiny_model(**inputs)
    (one,), whole = PROCESSOR.post_process(outputs, inputs), PROCESSOR.stitch(outputs, inputs)
    np.testing.assert_array_equal(whole.depth, one.depth)
    np.testing.assert_allclose(whole.world_from_cam[0], np.eye(3, 4), atol=1e-12)


def test_saved_settings_come_back_and_may_be_changed_on_loading(tmp_path: Path) -> None:
    PROCESSOR.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [PROCESSOR_FILE]
    # Some versions of transformers have the Auto class with torchvision only.
    has_auto = Scal3RConfig in IMAGE_PROCESSOR_MAPPING
    for cls in (Scal3RImageProcessor, *([AutoImageProcessor] if has_auto else [])):
        loaded = cls.from_pretrained(tmp_path)
        assert type(loaded) is Scal3RImageProcessor and loaded.to_dict() == PROCESSOR.to_dict()
        assert cls.from_pretrained(tmp_path, chunk_size=9).chunk_size == 9


def test_a_saved_model_says_what_it_wants_of_images(tiny_model: Scal3RModel, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path)
    loaded = Scal3RImageProcessor.from_pretrained(tmp_path)
    assert (loaded.image_size, loaded.patch_size) == (518, 14)
    assert (loaded.chunk_size, loaded.overlap) == (60, 30)
    PROCESSOR.save_pretrained(tmp_path)
    tiny_model.save_pretrained(tmp_path)  # what somebody chose is left alone
    assert Scal3RImageProcessor.from_pretrained(tmp_path).to_dict() == PROCESSOR.to_dict()


def test_defaults_are_those_of_a_reconstruction() -> None:
    schedule, processor = ReconstructionRecipe().schedule, Scal3RImageProcessor()
    assert (processor.chunk_size, processor.overlap) == (schedule.chunk_size, schedule.overlap)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stide": 2}, "image processor: unknown option 'stide'; known are image_size, .*, stride, "),
        ({"do_resize": False}, "unknown option 'do_resize'"),
        ({"stride": 0}, "image processor: stride = 0"),
        ({"overlap": 4}, "overlap = 4 must be less than chunk_size = 4"),
        ({"image_side": "height"}, "kind = 'height'"),
        ({"image_hw": (30, 42)}, "no multiple of the model's patch size 14"),
        ({"fps": 5}, "need time stamps"),
        ({"return_tensors": "tf"}, "return_tensors = 'tf'; it should be 'pt' or 'np'"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, Any], message: str, image_folder: Path) -> None:
    with pytest.raises(UserError, match=message) as refused:
        PROCESSOR(image_folder, **options)
    assert "\n" not in str(refused.value)


def test_outputs_that_do_not_belong(
    processed: tuple[Scal3RInputs, Scal3ROutput], tiny_model: Scal3RModel, image_folder: Path
) -> None:
    inputs, outputs = processed
    with pytest.raises(UserError, match="return_dict=True"):
        PROCESSOR.post_process(outputs.to_tuple(), inputs)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="outputs are of 1 sequences of 5 chunks, inputs of one of 1"):
        PROCESSOR.post_process(outputs, PROCESSOR(image_folder, max_frames=4))
    fewer = PROCESSOR(image_folder, max_frames=4)
    with torch.no_grad():
        of_fewer = tiny_model(**fewer, heads=["camera"])
    with pytest.raises(UserError, match="hold no depth: that head was not run"):
        PROCESSOR.stitch(of_fewer, fewer)
