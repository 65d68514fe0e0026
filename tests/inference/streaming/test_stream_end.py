"""How a stream ends: STOP, nothing new, a signal, the end of a pipe, mistakes; what is there is written."""

import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scal3r_train import cli
from scal3r_train.config import UserError
from scal3r_train.inference.network.online_memory import OnlineMemory
from scal3r_train.inference.prediction import ChunkPrediction
from scal3r_train.inference.streaming import reconstruct_stream
from scal3r_train.inference.streaming.stream_end import stop_signals
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.parallel.process import Process
from scal3r_train.scene.scene import load_scene
from tests.inference.conftest import NUM_FRAMES
from tests.inference.streaming.streams import CHUNKS, PATIENT, SETTINGS, RunStream, put, recipe_of


def test_frames_are_chosen_as_without_streaming(
    run_stream: RunStream, incoming: Path, image_folder: Path
) -> None:
    put(image_folder, incoming, stop=False)
    (incoming / "010.png").write_bytes(b"not wanted, so not looked at")
    scene = run_stream(PATIENT, "input.start=1", "input.stride=2", "input.max_frames=4")
    assert scene.info.frame_indices == (1, 3, 5, 7)
    assert scene.info.input["ended_by"] == "input.max_frames is reached"
    scene = run_stream(PATIENT, "input.stop=7", "export.overwrite=true")
    assert scene.info.num_frames == 7
    assert scene.info.input["left_out"] == []
    assert scene.info.chunks == ((0, 4), (2, 6), (4, 7))


def test_it_ends_when_nothing_comes(run_stream: RunStream, incoming: Path, image_folder: Path) -> None:
    put(image_folder, incoming, range(7), stop=False)
    scene = run_stream("follow.idle_s=0.2")
    assert (scene.info.num_frames, scene.info.input["ended_by"]) == (7, "nothing new in 0.2 s")


def test_an_image_that_stays_half_written_is_an_error_in_the_end(
    run_stream: RunStream, incoming: Path, image_folder: Path, tmp_path: Path
) -> None:
    put(image_folder, incoming, stop=False)
    (incoming / "007.png").write_bytes((image_folder / "007.png").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"007\.png.*0\.2 s after it last changed.*frames before it"):
        run_stream("follow.idle_s=0.2")
    scene = load_scene(tmp_path / "scene")
    assert (scene.info.num_frames, scene.info.input["complete"]) == (7, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "scene"]


def test_stop_leaves_out_an_image_that_is_half_written(
    run_stream: RunStream, incoming: Path, image_folder: Path
) -> None:
    put(image_folder, incoming)
    (incoming / "010.png").write_bytes((image_folder / "010.png").read_bytes()[:1000])
    scene = run_stream(PATIENT)
    assert (scene.info.num_frames, scene.info.input["left_out"]) == (10, ["010.png"])


def test_a_signal_ends_with_what_is_there(run_stream: RunStream, incoming: Path, image_folder: Path) -> None:
    put(image_folder, incoming, range(5), stop=False)
    before = signal.getsignal(signal.SIGTERM)
    with stop_signals() as stop_signal:
        signal.raise_signal(signal.SIGTERM)
        scene = run_stream(PATIENT, "follow.refine=true", end_check=lambda: stop_signal.end)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before
    assert (scene.info.num_frames, scene.info.input["ended_by"]) == (5, "SIGTERM")


def test_nothing_at_all_is_an_error(run_stream: RunStream, incoming: Path, tmp_path: Path) -> None:
    (incoming / "STOP").touch()
    with pytest.raises(UserError, match="no frame came into .*images"):
        run_stream()
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_mistakes_are_told_at_once(
    run_stream: RunStream,
    incoming: Path,
    tmp_path: Path,
    tiny_model: Scal3RModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UserError, match="is no folder; --follow needs"):
        reconstruct_stream.reconstruct_stream(
            tmp_path / "nowhere", tiny_model, recipe_of(), tmp_path / "scene"
        )
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene/thesis.txt").touch()
    with pytest.raises(UserError, match="is no scene folder"):
        run_stream()
    two = Process(0, 2, torch.device("cpu"))
    monkeypatch.setattr(reconstruct_stream, "current_process", lambda: two)
    with pytest.raises(UserError, match="one process only"):
        run_stream()
    assert incoming.is_dir()


def test_a_failure_leaves_the_last_valid_scene(
    run_stream: RunStream, incoming: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = OnlineMemory.predict

    def fail_at_the_third(self: OnlineMemory, images: Tensor) -> ChunkPrediction:
        if self.num_chunks == 2:
            raise KeyboardInterrupt
        return predict(self, images)

    monkeypatch.setattr(OnlineMemory, "predict", fail_at_the_third)
    put(image_folder, incoming)
    with pytest.raises(KeyboardInterrupt):
        run_stream()
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
