"""Memories updated while chunks arrive: sums over the chunks so far, and the schedule's result for one chunk."""

import pytest
import torch
from torch import Tensor

from scal3r_train.inference.network.chunk_runner import ChunkRunner, ChunkState
from scal3r_train.inference.network.online_memory import OnlineMemory
from scal3r_train.inference.network.segment_schedule import SegmentSchedule
from scal3r_train.inference.network.state_store import DeviceStore
from scal3r_train.inference.prediction import ChunkPrediction
from scal3r_train.model.aggregator import MemoryRead
from scal3r_train.model.amu import GradientSum, StartedSum
from scal3r_train.model.fast_weight import FastWeights
from scal3r_train.model.modeling_scal3r import Scal3RModel
from tests.inference.conftest import make_tiny_model

MODELS = {
    "memories after tapped layers": {},
    "memories of their own": {"memory_scope": "chunk"},
    "no memory": {"memory_layers": []},
}


def make_chunks() -> list[Tensor]:
    """Three overlapping chunks of unequal length."""
    images = torch.randint(
        0, 256, (9, 3, 28, 42), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    return [images[:4], images[2:6], images[4:9]]


def by_schedule(model: Scal3RModel, images: Tensor) -> ChunkPrediction:
    found: dict[int, ChunkPrediction] = {}
    SegmentSchedule(ChunkRunner(model, "head", "float32"), lambda _: images, DeviceStore(), 3).run(
        [0], found.__setitem__
    )
    return found[0]


def context_of(sums: list[Tensor], place: int) -> GradientSum:
    """Return the context of a memory that has seen other chunks; their sum is in `sums`, and this chunk's joins it."""

    def start(gradient: Tensor) -> StartedSum:
        sums[place] = sums[place] + gradient
        return lambda: sums[place]

    return start


def largest_difference(one: ChunkPrediction, other: ChunkPrediction) -> float:
    return max(
        (value - vars(other)[name]).abs().max().item()
        for name, value in vars(one).items()
        if value is not None
    )


@pytest.mark.parametrize("kind", MODELS)
def test_one_chunk_is_as_in_the_schedule(kind: str) -> None:
    model = make_tiny_model(**MODELS[kind])
    images = make_chunks()[0]
    found = OnlineMemory(ChunkRunner(model, "head", "float32"), 3).predict(images)
    assert largest_difference(found, by_schedule(model, images)) == 0


def test_each_chunk_reads_the_sum_of_all_so_far() -> None:
    """Reference: the schedule on one chunk, whose context holds the sums of the chunks before."""
    model, chunks = make_tiny_model(), make_chunks()
    units = list(model.aggregator.memory_units.values())
    online = OnlineMemory(ChunkRunner(model, "head", "float32"), 3)
    before = [torch.zeros(1, sum(matrix.numel() for matrix in (u.w0, u.w1, u.w2))) for u in units]
    for images in chunks:
        found = online.predict(images)
        sums = list(before)
        for place, unit in enumerate(units):
            unit.sum_over_context = context_of(sums, place)
        wanted = by_schedule(model, images)
        assert largest_difference(found, wanted) == 0
        before = sums
        for total, summed in zip(online.totals, sums, strict=True):
            assert torch.equal(torch.cat([matrix.flatten(1) for matrix in total], dim=1), summed)


def test_the_last_memory_holds_the_gradients_of_all_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients: list[FastWeights] = []
    forward = ChunkRunner.forward_segment

    def spy(self: ChunkRunner, state: ChunkState, read: MemoryRead | None) -> tuple[ChunkState, FastWeights]:
        after, gradient = forward(self, state, read)
        if after.segments_done == self.num_memories:
            gradients.append(gradient)
        return after, gradient

    monkeypatch.setattr(ChunkRunner, "forward_segment", spy)
    online = OnlineMemory(ChunkRunner(make_tiny_model(), "depth", "float32"), 3)
    for images in make_chunks():
        online.predict(images)
    assert len(gradients) == online.num_chunks == 3
    for matrix, total in enumerate(online.totals[-1]):
        terms = torch.stack([gradient[matrix] for gradient in gradients]).double()
        # Two additions in float32, each of which rounds by at most eps / 2 of sum |terms|.
        bound = torch.finfo(torch.float32).eps * terms.abs().sum(dim=0)
        assert ((total.double() - terms.sum(dim=0)).abs() <= bound).all()
        assert total.dtype == torch.float32


def test_later_chunks_remember() -> None:
    model, chunks = make_tiny_model(), make_chunks()
    online = OnlineMemory(ChunkRunner(model, "head", "float32"), 3)
    online.predict(chunks[0])
    assert largest_difference(online.predict(chunks[1]), by_schedule(model, chunks[1])) > 1e-3


def test_memory_that_runs_out_is_not_remembered_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    model, chunks = make_tiny_model().double(), make_chunks()
    plain = OnlineMemory(ChunkRunner(model, "head", "float32"), 4)
    wanted = [plain.predict(images) for images in chunks]
    forward, failures = ChunkRunner.forward_segment, [1]

    def fail_once_at_the_second_memory(
        self: ChunkRunner, state: ChunkState, read: MemoryRead | None
    ) -> tuple[ChunkState, FastWeights]:
        if state.segments_done == 1 and failures:
            failures.pop()
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, state, read)

    online = OnlineMemory(ChunkRunner(model, "head", "float32"), 4)
    found = [online.predict(chunks[0])]
    monkeypatch.setattr(ChunkRunner, "forward_segment", fail_once_at_the_second_memory)
    found += [online.predict(images) for images in chunks[1:]]
    assert not failures
    for one, other in zip(found, wanted, strict=True):
        assert largest_difference(one, other) < 1e-10
