"""The segment schedule equals the layer-by-layer reference and the training-mode forward, whatever keeps the states."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.layer_by_layer import LayerByLayer
from scal3r_train.config import UserError
from scal3r_train.geometry.pose_encoding import decode_pose
from scal3r_train.inference.network.chunk_runner import ChunkRunner, dense_heads, state_bytes
from scal3r_train.inference.network.segment_schedule import SegmentSchedule, predict_chunks
from scal3r_train.inference.network.state_store import DiskStore, StateStore, open_store
from scal3r_train.inference.prediction import ChunkPrediction
from scal3r_train.model.modeling_scal3r import Scal3RModel
from tests.inference.conftest import make_tiny_model

TOLERANCE = 1e-5
STORES = ("device", "host", "disk", "recompute")
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]
MODELS = {
    "memories after tapped layers": {},
    "four layers": {"num_layers": 4, "tap_layers": [0, 1, 2, 3], "memory_layers": [1, 2]},
    "whole chunk encoder": {"patch_encoder": "correlation"},
    "memories of their own": {"memory_scope": "chunk"},
    "no memory": {"memory_layers": []},
}


def make_chunks(device: str = "cpu") -> dict[int, Tensor]:
    """Three overlapping chunks of unequal length."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (9, 3, 28, 42), generator=generator, dtype=torch.uint8)
    return {0: images[:4].to(device), 1: images[2:6].to(device), 2: images[4:9].to(device)}


def run_schedule(
    model: Scal3RModel, store: StateStore, folder: Path | None = None, frames_per_pass: int = 3
) -> dict[int, ChunkPrediction]:
    found: dict[int, ChunkPrediction] = {}
    chunks = make_chunks()
    chunk_runner = ChunkRunner(model, "head", "float32")
    schedule = SegmentSchedule(chunk_runner, chunks.__getitem__, store, frames_per_pass, folder)
    schedule.run(list(chunks), found.__setitem__)
    return found


def forward_in_training_mode(model: Scal3RModel) -> dict[int, ChunkPrediction]:
    device = next(model.parameters()).device
    chunks = make_chunks(device.type)
    model.set_frames_per_pass(None)
    output = model.train()([[images / 255 for images in chunks.values()]])
    model.eval()
    found = {}
    for number, images in chunks.items():
        encoding = output.pose_encoding[0][number].detach().double().cpu()
        extrinsics, intrinsics = decode_pose(encoding, images.shape[-2:])
        fields = (output.depth, output.depth_conf, output.world_points, output.world_points_conf)
        dense = (values[0][number].detach().cpu() for values in fields)
        found[number] = ChunkPrediction(extrinsics, intrinsics, *dense)
    return found


def assert_same(found: Mapping[int, ChunkPrediction], expected: Mapping[int, ChunkPrediction]) -> None:
    assert list(found) == list(expected)
    for number, prediction in found.items():
        for field, values in vars(prediction).items():
            other = vars(expected[number])[field]
            if values is None:
                assert other is None
                continue
            scale = other.abs().max()
            assert (values - other).abs().max() <= TOLERANCE * scale, (number, field)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", STORES)
def test_schedule_equals_twin_and_training_forward(kind: str, name: str, device: str, tmp_path: Path) -> None:
    model = make_tiny_model(**MODELS[name]).to(device)
    store = open_store(kind, torch.device(device), tmp_path)
    found = run_schedule(model, store)
    assert_same(found, forward_in_training_mode(model))
    if name not in ("memories of their own", "whole chunk encoder"):
        model.set_frames_per_pass(None)
        reference = LayerByLayer(model).predict(list(make_chunks().values()))
        assert_same(found, dict(enumerate(reference)))


def test_memories_matter() -> None:
    """Without this the comparisons above could not see a memory that is left out."""
    chunks = make_chunks()
    model = make_tiny_model()
    together = predict_chunks(model, chunks)[0].depth
    alone = predict_chunks(model, {0: chunks[0]})[0].depth
    assert (together - alone).abs().max() > 1e-3 * together.abs().max()


def test_states_take_what_was_planned(tmp_path: Path) -> None:
    model = make_tiny_model(num_layers=4, tap_layers=[0, 1, 2, 3], memory_layers=[1, 2])
    store = DiskStore(tmp_path, torch.device("cpu"))
    run_schedule(model, store)
    sizes = [
        state_bytes(model.config, dense_heads("head"), len(images), (2, 3), 4).plain
        for images in make_chunks().values()
    ]
    assert store.peak_bytes == sum(sizes)


def test_a_state_that_does_not_fit_ahead_comes_in_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_tiny_model()
    expected = run_schedule(model, DiskStore(tmp_path / "one", torch.device("cpu")))
    asked = []

    def too_much(_store: object, chunk: int) -> None:
        asked.append(chunk)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(DiskStore, "prefetch", too_much)
    found = run_schedule(model, DiskStore(tmp_path / "two", torch.device("cpu")))
    assert asked
    for chunk, prediction in expected.items():
        assert torch.equal(found[chunk].depth, prediction.depth)


def test_running_out_of_memory_halves_the_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_tiny_model()
    expected = predict_chunks(model, make_chunks(), "head")
    blocks = model.aggregator.frame_blocks[1]
    seen = []

    def too_much(_module: object, inputs: tuple[Tensor, ...]) -> None:
        seen.append(len(inputs[0]))
        if len(inputs[0]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = blocks.register_forward_pre_hook(too_much)
    chunks = make_chunks()
    found: dict[int, ChunkPrediction] = {}
    schedule = SegmentSchedule(
        ChunkRunner(model, "head", "float32"),
        chunks.__getitem__,
        open_store("device", torch.device("cpu"), Path()),
        8,
    )
    schedule.run(list(chunks), found.__setitem__)
    handle.remove()
    assert schedule.frames_per_pass == 1
    assert seen[:4] == [4, 4, 2, 1]
    assert_same(found, expected)


def test_no_memory_for_a_single_frame_is_one_line() -> None:
    model = make_tiny_model()

    def never(_module: object, _inputs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model.aggregator.frame_blocks[0].register_forward_pre_hook(never)
    with pytest.raises(UserError, match="one frame at a time"):
        predict_chunks(model, make_chunks())


@pytest.mark.parametrize("kind", STORES)
def test_a_restart_does_not_repeat_finished_rounds(kind: str, tmp_path: Path) -> None:
    """Killed after the second segment of all chunks and half of the last one."""
    model = make_tiny_model(num_layers=4, tap_layers=[0, 1, 2, 3], memory_layers=[1, 2])
    expected = predict_chunks(model, make_chunks(), "head")
    chunks = make_chunks()
    kept: dict[int, ChunkPrediction] = {}

    class Killed(BaseException):
        pass

    def keep_one(number: int, prediction: ChunkPrediction) -> None:
        if kept:
            raise Killed
        kept[number] = prediction

    def schedule() -> SegmentSchedule:
        store = open_store(kind, torch.device("cpu"), tmp_path / "states")
        return SegmentSchedule(ChunkRunner(model, "head", "float32"), chunks.__getitem__, store, 16, tmp_path)

    with pytest.raises(Killed):
        schedule().run(list(chunks), keep_one)
    forwards = []
    handle = model.aggregator.global_blocks[0].register_forward_pre_hook(lambda *_: forwards.append(1))
    schedule().run(list(chunks), kept.__setitem__, done=set(kept))
    handle.remove()
    assert len(forwards) == (0 if kind == "disk" else 2)
    assert_same(kept, expected)


def test_a_damaged_state_is_computed_again(tmp_path: Path) -> None:
    model = make_tiny_model()
    for number in range(3):
        (tmp_path / f"{number:06d}.safetensors").write_bytes(b"half a fi")
    found = run_schedule(model, DiskStore(tmp_path, torch.device("cpu")))
    assert_same(found, predict_chunks(model, make_chunks(), "head"))


def test_bfloat16_states_are_half_as_large_and_close(tmp_path: Path) -> None:
    model, chunks = make_tiny_model(), make_chunks()
    sizes = {}
    depths = {}
    for precision in ("float32", "bfloat16"):
        store = open_store("device", torch.device("cpu"), tmp_path)
        found: dict[int, ChunkPrediction] = {}
        schedule = SegmentSchedule(ChunkRunner(model, "depth", precision), chunks.__getitem__, store, 16)
        schedule.run(list(chunks), found.__setitem__)
        sizes[precision], depths[precision] = store.peak_bytes, found[1].depth
    assert sizes["bfloat16"] * 2 == sizes["float32"]
    assert (depths["bfloat16"] - depths["float32"]).abs().median() < 0.05 * depths["float32"].median()


@pytest.mark.parametrize("sizes", [{"memory_scope": "chunk"}, {"memory_layers": []}, {}])
def test_more_images_read_the_memories_or_have_their_own(sizes: dict[str, object]) -> None:
    """A loop chunk that is one of the chunks is predicted as that chunk was."""
    chunks, found = make_chunks(), {}
    chunk_runner = ChunkRunner(make_tiny_model(**sizes), "head", "float32")
    schedule = SegmentSchedule(
        chunk_runner, chunks.__getitem__, open_store("recompute", torch.device("cpu"), Path()), 3
    )
    schedule.run(list(chunks), found.__setitem__)
    assert_same({0: schedule.read_only(chunks[1])}, {0: found[1]})
