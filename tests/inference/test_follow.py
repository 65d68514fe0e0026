"""Following a growing folder or a pipe: the chunks of the whole video, a scene that is valid at every moment."""

import os
import shutil
import signal
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from scal3r_train import cli
from scal3r_train.config import UserError, load_config
from scal3r_train.inference import follow as follow_module
from scal3r_train.inference.follow import follow
from scal3r_train.inference.follow_end import Ending, listening_for_signals
from scal3r_train.inference.online_memory import OnlineMemory
from scal3r_train.inference.prediction import ChunkPrediction
from scal3r_train.inference.reconstruct import reconstruct
from scal3r_train.inference.scene import Scene, depth_path, load_scene
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.parallel.process import Process
from tests.inference.conftest import NUM_FRAMES, make_tiny_model

SETTINGS = [
    "schedule.chunk_size=4",
    "schedule.overlap=2",
    "input.resize.size=42",
    "follow.poll_s=0.01",
    "loop_closure.enabled=false",
]
CHUNKS = ((0, 4), (2, 6), (4, 8), (6, 10), (8, 11))
PATIENT = "follow.idle_s=60"

Follow = Callable[..., Scene]


def recipe_of(*overrides: str) -> ReconstructionRecipe:
    return load_config(ReconstructionRecipe, None, [*SETTINGS, *overrides])


@pytest.fixture
def growing(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


@pytest.fixture
def run(tiny_model: Scal3RModel, growing: Path, tmp_path: Path) -> Follow:
    """Follow with overrides into tmp_path / scene."""

    def call(
        *overrides: str,
        model: Scal3RModel = tiny_model,
        asked_to_end: Callable[[], Ending | None] = lambda: None,
    ) -> Scene:
        return follow(growing, model, recipe_of(*overrides), tmp_path / "scene", "abc", asked_to_end)

    return call


def copy_in_halves(source: Path, target: Path) -> None:
    """Write a file in two parts, as a camera does that is slow."""
    data = source.read_bytes()
    with target.open("wb") as file:
        file.write(data[: len(data) // 2])
        file.flush()
        time.sleep(0.02)
        file.write(data[len(data) // 2 :])


def put(source: Path, folder: Path, frames: range = range(NUM_FRAMES), *, stop: bool = True) -> None:
    """Put images into a folder, and then the file that ends it."""
    folder.mkdir(exist_ok=True)
    for path in sorted(source.iterdir())[frames.start : frames.stop]:
        shutil.copy(path, folder)
    if stop:
        (folder / "STOP").touch()


def assert_same(one: Scene, other: Scene) -> None:
    assert torch.equal(one.world_from_cam, other.world_from_cam)
    assert torch.equal(one.intrinsics, other.intrinsics)
    np.testing.assert_array_equal(one.positions, other.positions)
    np.testing.assert_array_equal(one.colours, other.colours)
    assert one.frames == other.frames
    same = ("chunks", "provided_frames", "world_from_chunk", "seams", "breaks", "num_points", "voxel_size")
    assert {name: vars(one.info)[name] for name in same} == {name: vars(other.info)[name] for name in same}


def test_a_folder_is_followed_while_others_write_and_read(
    run: Follow,
    growing: Path,
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
            copy_in_halves(path, growing / path.name)
            # The last chunk waits until the reader has seen an unfinished scene.
            while number == NUM_FRAMES - 2 and not seen and not errors:
                time.sleep(0.01)
        (growing / "STOP").touch()

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
    scene = run(PATIENT)
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
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines[:2]] == ["chunk 0: frames 0 to 3", "chunk 1: frames 2 to 5"]
    assert "seam" in lines[1]
    assert len(lines) == len(CHUNKS) + 1


@pytest.mark.parametrize("num_frames", [1, 3, 4])
def test_one_chunk_is_as_without_following(
    run: Follow, growing: Path, image_folder: Path, tmp_path: Path, tiny_model: Scal3RModel, num_frames: int
) -> None:
    put(image_folder, growing, range(num_frames))
    scene = run()
    wanted = reconstruct(growing, tiny_model, recipe_of(), tmp_path / "whole")
    assert wanted is not None
    assert scene.info.num_frames == num_frames
    assert_same(scene, wanted)


@pytest.mark.parametrize(
    "extra", [[], ["points=head"], ["input.intrinsics=80 81 45 31", "input.masks=MASKS"]]
)
def test_without_memories_following_changes_nothing(
    run: Follow, growing: Path, image_folder: Path, tmp_path: Path, extra: list[str]
) -> None:
    """Joining, placing, thinning and depth one chunk at a time give what they give for all chunks together."""
    model = make_tiny_model(memory_layers=[])
    put(image_folder, growing)
    put(image_folder, tmp_path / "masks", range(4, 7), stop=False)
    extra = [override.replace("MASKS", str(tmp_path / "masks")) for override in extra]
    overrides = ["export.save_depth=true", "export.max_points=700", *extra]
    scene = run(*overrides, model=model)
    wanted = reconstruct(growing, model, recipe_of(*overrides), tmp_path / "whole")
    assert wanted is not None
    assert_same(scene, wanted)
    assert len(scene.positions) == 700
    for frame in range(NUM_FRAMES):
        one, other = (np.load(depth_path(tmp_path / name, frame)) for name in ("scene", "whole"))
        np.testing.assert_array_equal(one["depth"], other["depth"])
    assert len(list((tmp_path / "scene/depth").iterdir())) == NUM_FRAMES


def test_chunks_with_memories_differ_from_the_whole_only_as_they_must(
    run: Follow, growing: Path, image_folder: Path, tmp_path: Path, tiny_model: Scal3RModel
) -> None:
    put(image_folder, growing)
    scene = run()
    wanted = reconstruct(growing, tiny_model, recipe_of(), tmp_path / "whole")
    assert wanted is not None
    assert scene.info.chunks == wanted.info.chunks
    assert not torch.equal(scene.world_from_cam, wanted.world_from_cam)


def test_refine_ends_with_the_ordinary_reconstruction(
    run: Follow, growing: Path, image_folder: Path, tmp_path: Path, tiny_model: Scal3RModel
) -> None:
    put(image_folder, growing)
    scene = run("follow.refine=true")
    wanted = reconstruct(growing, tiny_model, recipe_of(), tmp_path / "whole")
    assert wanted is not None
    assert_same(scene, wanted)
    assert "complete" not in scene.info.input
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "scene", "whole"]


def test_frames_are_chosen_as_without_following(run: Follow, growing: Path, image_folder: Path) -> None:
    put(image_folder, growing, stop=False)
    (growing / "010.png").write_bytes(b"not wanted, so not looked at")
    scene = run(PATIENT, "input.start=1", "input.stride=2", "input.max_frames=4")
    assert scene.info.frame_indices == (1, 3, 5, 7)
    assert scene.info.input["ended_by"] == "input.max_frames is reached"
    scene = run(PATIENT, "input.stop=7", "export.overwrite=true")
    assert scene.info.num_frames == 7
    assert scene.info.input["left_out"] == []
    assert scene.info.chunks == ((0, 4), (2, 6), (4, 7))


def test_it_ends_when_nothing_comes(run: Follow, growing: Path, image_folder: Path) -> None:
    put(image_folder, growing, range(7), stop=False)
    scene = run("follow.idle_s=0.2")
    assert (scene.info.num_frames, scene.info.input["ended_by"]) == (7, "nothing new in 0.2 s")


def test_at_most_two_predictions_are_kept(
    run: Follow, growing: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[weakref.ref[ChunkPrediction]] = []
    predict = OnlineMemory.predict

    def counted(self: OnlineMemory, images: Tensor) -> ChunkPrediction:
        assert sum(one() is not None for one in kept) <= 1
        prediction = predict(self, images)
        kept.append(weakref.ref(prediction))
        return prediction

    monkeypatch.setattr(OnlineMemory, "predict", counted)
    put(image_folder, growing)
    run()
    assert len(kept) == len(CHUNKS)


def test_an_image_that_stays_half_written_is_an_error_in_the_end(
    run: Follow, growing: Path, image_folder: Path, tmp_path: Path
) -> None:
    put(image_folder, growing, stop=False)
    (growing / "007.png").write_bytes((image_folder / "007.png").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"007\.png.*0\.2 s after it last changed.*frames before it"):
        run("follow.idle_s=0.2")
    scene = load_scene(tmp_path / "scene")
    assert (scene.info.num_frames, scene.info.input["complete"]) == (7, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "scene"]


def test_stop_leaves_out_an_image_that_is_half_written(
    run: Follow, growing: Path, image_folder: Path
) -> None:
    put(image_folder, growing)
    (growing / "010.png").write_bytes((image_folder / "010.png").read_bytes()[:1000])
    scene = run(PATIENT)
    assert (scene.info.num_frames, scene.info.input["left_out"]) == (10, ["010.png"])


def test_a_signal_ends_with_what_is_there(run: Follow, growing: Path, image_folder: Path) -> None:
    put(image_folder, growing, range(5), stop=False)
    before = signal.getsignal(signal.SIGTERM)
    with listening_for_signals() as request:
        signal.raise_signal(signal.SIGTERM)
        scene = run(PATIENT, "follow.refine=true", asked_to_end=lambda: request.ending)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before
    assert (scene.info.num_frames, scene.info.input["ended_by"]) == (5, "SIGTERM")


def test_nothing_at_all_is_an_error(run: Follow, growing: Path, tmp_path: Path) -> None:
    (growing / "STOP").touch()
    with pytest.raises(UserError, match="no frame came into .*images"):
        run()
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_mistakes_are_told_at_once(
    run: Follow, growing: Path, tmp_path: Path, tiny_model: Scal3RModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="is no folder; --follow needs"):
        follow(tmp_path / "nowhere", tiny_model, recipe_of(), tmp_path / "scene")
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene/thesis.txt").touch()
    with pytest.raises(UserError, match="is no scene folder"):
        run()
    two = Process(0, 2, torch.device("cpu"))
    monkeypatch.setattr(follow_module, "current_process", lambda: two)
    with pytest.raises(UserError, match="one process only"):
        run()
    assert growing.is_dir()


def test_a_failure_leaves_the_last_valid_scene(
    run: Follow, growing: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = OnlineMemory.predict

    def fail_at_the_third(self: OnlineMemory, images: Tensor) -> ChunkPrediction:
        if self.num_chunks == 2:
            raise KeyboardInterrupt
        return predict(self, images)

    monkeypatch.setattr(OnlineMemory, "predict", fail_at_the_third)
    put(image_folder, growing)
    with pytest.raises(KeyboardInterrupt):
        run()
    scene = load_scene(tmp_path / "scene")
    assert (scene.info.num_frames, scene.info.input["complete"]) == (6, False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "scene"]


def test_a_pipe_through_the_command_line(
    image_folder: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reader, writer = os.pipe()

    def write() -> None:
        with os.fdopen(writer, "wb", buffering=0) as pipe:
            for path in sorted(image_folder.iterdir()):
                pipe.write(path.read_bytes())

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(reader) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        arguments = ["-", str(tmp_path / "scene"), "--follow", PATIENT, f"model.checkpoint={checkpoint}"]
        assert cli.main(["reconstruct", *arguments, *SETTINGS]) == 0
    thread.join()
    scene = load_scene(tmp_path / "scene")
    assert (scene.info.chunks, scene.info.input["ended_by"]) == (CHUNKS, "the pipe has ended")
    frames = tmp_path / "scene.frames"
    assert scene.info.input["root"] == str(frames)
    for frame, path in zip(scene.frames, sorted(image_folder.iterdir()), strict=True):
        assert (frames / frame.name).read_bytes() == path.read_bytes()
    assert f"{NUM_FRAMES} frames in {len(CHUNKS)} chunks" in capsys.readouterr().out
