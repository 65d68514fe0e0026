"""A stream of images: the chunks of the whole video, a scene that is valid at every moment."""

import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from scal3r_train.inference.network.online_memory import OnlineMemory
from scal3r_train.inference.prediction import ChunkPrediction
from scal3r_train.inference.reconstruct import reconstruct
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.scene.scene import Scene, depth_path, load_scene
from tests.inference.conftest import NUM_FRAMES, make_tiny_model
from tests.inference.streaming.streams import CHUNKS, PATIENT, RunStream, assert_same, put, recipe_of


def copy_in_halves(source: Path, target: Path) -> None:
    """Write a file in two parts, as a camera does that is slow."""
    data = source.read_bytes()
    with target.open("wb") as file:
        file.write(data[: len(data) // 2])
        file.flush()
        time.sleep(0.02)
        file.write(data[len(data) // 2 :])


def test_a_folder_is_reconstructed_while_others_write_and_read(
    run_stream: RunStream,
    incoming: Path,
    image_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One thread writes images slowly, one loads the scene again and again."""
    is_over = threading.Event()
    seen: list[Scene] = []
    errors: list[BaseException] = []

    def write() -> None:
        for number, path in enumerate(sorted(image_folder.iterdir())):
            copy_in_halves(path, incoming / path.name)
            # The last chunk waits until the reader has seen an unfinished scene.
            while number == NUM_FRAMES - 2 and not seen and not errors:
                time.sleep(0.01)
        (incoming / "STOP").touch()

    def read() -> None:
        while not is_over.is_set() and not (tmp_path / "scene").exists():
            time.sleep(0.001)
        while not is_over.is_set():
            try:
                seen.append(load_scene(tmp_path / "scene"))
            except BaseException as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=write), threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    scene = run_stream(PATIENT, "export.report=true")
    is_over.set()
    for thread in threads:
        thread.join()
    assert not errors
    counts = [one.info.num_frames for one in seen]
    assert counts == sorted(counts)
    assert set(counts) <= {4, 6, 8, 10, 11}
    assert not seen[0].info.input["complete"]
    assert scene.info.chunks == CHUNKS
    assert scene.info.provided_frames == ((0, 3), (3, 5), (5, 7), (7, 9), (9, 11))
    assert [frame.name for frame in scene.frames] == [path.name for path in sorted(image_folder.iterdir())]
    assert (scene.info.input["complete"], scene.info.input["left_out"]) == (True, [])
    assert scene.info.input["ended_by"].endswith("STOP is there")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "scene"]
    assert (tmp_path / "scene/report.html").is_file()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines[:2]] == ["chunk 0: frames 0 to 3", "chunk 1: frames 2 to 5"]
    assert "seam" in lines[1]
    assert len(lines) == len(CHUNKS) + 1


@pytest.mark.parametrize("num_frames", [1, 3, 4])
def test_one_chunk_is_as_without_streaming(
    run_stream: RunStream,
    incoming: Path,
    image_folder: Path,
    tmp_path: Path,
    tiny_model: Scal3RModel,
    num_frames: int,
) -> None:
    put(image_folder, incoming, range(num_frames))
    scene = run_stream()
    wanted = reconstruct(incoming, tiny_model, recipe_of(), tmp_path / "whole")
    assert wanted is not None
    assert scene.info.num_frames == num_frames
    assert_same(scene, wanted)


@pytest.mark.parametrize(
    "extra", [[], ["points=head"], ["input.intrinsics=80 81 45 31", "input.masks=MASKS"]]
)
def test_without_memories_streaming_changes_nothing(
    run_stream: RunStream, incoming: Path, image_folder: Path, tmp_path: Path, extra: list[str]
) -> None:
    """Joining, placing, thinning and depth one chunk at a time give what they give for all chunks together.

    But for the scale that chunks have in common, of which later chunks know more.
    """
    model = make_tiny_model(memory_layers=[])
    put(image_folder, incoming)
    put(image_folder, tmp_path / "masks", range(4, 7), stop=False)
    extra = [override.replace("MASKS", str(tmp_path / "masks")) for override in extra]
    overrides = [
        "export.save_depth=true",
        "export.max_points=700",
        "alignment.common_scale.enabled=false",
        *extra,
    ]
    scene = run_stream(*overrides, model=model)
    wanted = reconstruct(incoming, model, recipe_of(*overrides), tmp_path / "whole")
    assert wanted is not None
    assert_same(scene, wanted)
    assert len(scene.positions) == 700
    for frame in range(NUM_FRAMES):
        one, other = (np.load(depth_path(tmp_path / name, frame)) for name in ("scene", "whole"))
        np.testing.assert_array_equal(one["depth"], other["depth"])
    assert len(list((tmp_path / "scene/depth").iterdir())) == NUM_FRAMES


def test_chunks_with_memories_differ_from_the_whole_only_as_they_must(
    run_stream: RunStream, incoming: Path, image_folder: Path, tmp_path: Path, tiny_model: Scal3RModel
) -> None:
    put(image_folder, incoming)
    scene = run_stream()
    wanted = reconstruct(incoming, tiny_model, recipe_of(), tmp_path / "whole")
    assert wanted is not None
    assert scene.info.chunks == wanted.info.chunks
    assert not torch.equal(scene.world_from_cam, wanted.world_from_cam)


def test_refine_ends_with_the_ordinary_reconstruction(
    run_stream: RunStream, incoming: Path, image_folder: Path, tmp_path: Path, tiny_model: Scal3RModel
) -> None:
    put(image_folder, incoming)
    scene = run_stream("follow.refine=true")
    wanted = reconstruct(incoming, tiny_model, recipe_of(), tmp_path / "whole")
    assert wanted is not None
    assert_same(scene, wanted)
    assert "complete" not in scene.info.input
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "scene", "whole"]


def test_at_most_two_predictions_are_kept(
    run_stream: RunStream, incoming: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[weakref.ref[ChunkPrediction]] = []
    predict = OnlineMemory.predict

    def counted(self: OnlineMemory, images: Tensor) -> ChunkPrediction:
        assert sum(one() is not None for one in kept) <= 1
        prediction = predict(self, images)
        kept.append(weakref.ref(prediction))
        return prediction

    monkeypatch.setattr(OnlineMemory, "predict", counted)
    put(image_folder, incoming)
    run_stream()
    assert len(kept) == len(CHUNKS)
