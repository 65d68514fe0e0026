"""The segment schedule: all chunks of a video through the network, memory by memory (docs/model.md#segments).

Between two memories every chunk makes one visit; its gradient is added up in the same visit. After the last chunk the
sum travels over the processes, the memory is updated once, and the next round of visits begins. Where states wait is
the store's business; whatever a store has lost is computed again from the images. Updated memories are kept in files,
so that a killed run does not repeat the rounds that it has finished.

Shapes: S frames, H W pixels.

How many frames pass frame-wise parts of the network together: halved when memory runs out.

Chunks in memory to predictions in memory: the segment schedule with everything on the device.

For few chunks, and for tests; `share.predict_chunks_of_rank` does the same for videos of any length.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.inference.network.chunk_runner import ChunkRunner, ChunkState, Precision
from scal3r_train.inference.network.state_store import DeviceStore, StateStore
from scal3r_train.inference.prediction import ChunkPrediction, PointSource
from scal3r_train.inference.progress import Track
from scal3r_train.inference.tensor_file import save_tensors
from scal3r_train.model.aggregator import MemoryRead
from scal3r_train.model.fast_weight import FastWeights, summed
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.parallel.collectives import gather_to_all, raise_on_all_ranks

Result = TypeVar("Result")


class MemoryBackoff:
    """Tries work again with fewer frames at a time.

    Attributes:
        frames_per_pass: how many frames pass together now.
    """

    def __init__(self, model: Scal3RModel, frames_per_pass: int) -> None:
        """Let `frames_per_pass` frames of the model pass together, until that proves too many."""
        self._model = model
        self.frames_per_pass = frames_per_pass
        model.set_frames_per_pass(frames_per_pass)

    def do(self, work: Callable[[], Result]) -> Result:
        """Do some work that leaves nothing behind when it fails, with half as many frames whenever memory runs out.

        Raises:
            UserError: memory runs out one frame at a time.
        """
        while True:
            try:
                return work()
            except torch.OutOfMemoryError as error:
                if self.frames_per_pass == 1:
                    raise UserError(
                        "memory runs out even with one frame at a time; lower schedule.chunk_size or the image size"
                    ) from error
            self.frames_per_pass //= 2
            self._model.set_frames_per_pass(self.frames_per_pass)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


class SegmentSchedule:
    """Runs this process's chunks; every process connected by the model's memories must run one."""

    def __init__(
        self,
        chunk_runner: ChunkRunner,
        images: Callable[[int], Tensor],
        store: StateStore,
        frames_per_pass: int,
        memory_folder: Path | None = None,
    ) -> None:
        """Prepare.

        Args:
            chunk_runner: the network.
            images: returns the images of a chunk, [S, 3, H, W] uint8.
            store: where states wait.
            frames_per_pass: how many frames pass frame-wise parts together; halved when memory runs out.
            memory_folder: where updated memories are kept for a restart; None: nowhere.
        """
        self._pass = chunk_runner
        self._images = images
        self._store = store
        self._folder = memory_folder
        self.memories: list[MemoryRead] = []
        self._room = MemoryBackoff(chunk_runner.model, frames_per_pass)

    @property
    def frames_per_pass(self) -> int:
        """How many frames pass together now."""
        return self._room.frames_per_pass

    def run(
        self,
        chunks: Sequence[int],
        keep: Callable[[int, ChunkPrediction], None],
        track: Track = iter,
        describe: Callable[[int, Tensor], None] | None = None,
        done: Container[int] = (),
    ) -> None:
        """Predict all chunks and hand each prediction to `keep`, in order.

        Args:
            chunks: numbers of this process's chunks.
            keep: takes a prediction, on the CPU, frames in temporal order.
            track: wraps loops over chunks, for progress.
            describe: is shown every chunk's tokens before the first visit, [S, P, C], whenever they are made.
            done: chunks whose predictions an earlier run has kept.

        Raises:
            UserError: on all processes, when one runs out of memory even one frame at a time, or cannot read an image.
        """
        self._describe = describe
        todo = [chunk for chunk in chunks if chunk not in done]
        if not self._chunks_talk():
            with raise_on_all_ranks():
                for chunk in track(todo):
                    keep(chunk, self._room.do(partial(self._predict_alone, chunk)))
            return
        self._resume()
        for visit in range(len(self.memories), self._pass.num_memories):
            self._update_memory(visit, chunks, track)
        with raise_on_all_ranks():
            for place, chunk in enumerate(track(todo)):
                self._prefetch(todo, place + 1)
                keep(chunk, self._room.do(partial(self._predict, chunk)))
                self._store.drop(chunk)

    def read_only(self, images: Tensor) -> ChunkPrediction:
        """Return the prediction of more images [S, 3, H, W] uint8 that read the memories and write nothing.

        Where chunks share no memories, these images have their own, as every chunk has.
        """
        if not self._chunks_talk():
            return self._room.do(partial(self._pass.through, images, _own_gradient))
        return self._room.do(lambda: self._read_to_the_end(self._pass.embed(images)))

    def _update_memory(self, visit: int, chunks: Sequence[int], track: Track) -> None:
        """Make one round of visits and update the memory after it."""
        total: FastWeights | None = None
        state: ChunkState | None = None
        with raise_on_all_ranks():
            for place, chunk in enumerate(track(chunks)):
                self._prefetch(chunks, place + 1)
                state, gradient = self._room.do(partial(self._bring, chunk, visit + 1))
                self._store.put(chunk, state)
                total = gradient if total is None else summed([total, gradient])
        unit = self._pass.memory(visit)
        with torch.no_grad():
            batches = [] if state is None else [self._pass.batch(state)]
            finish = unit.start_sum(batches, [] if total is None else [total], num_sequences=1)
            updated = unit.updated_weights(finish())
        self.memories.append(self._pass.read_after(visit, updated))
        with raise_on_all_ranks():
            self._save(visit, updated)

    def _bring(self, chunk: int, num_visits: int) -> tuple[ChunkState, FastWeights]:
        """Return a chunk's state after `num_visits`, and the gradient that the last of them ends with."""
        state = self._state(chunk, num_visits)
        if state.num_visits == num_visits:
            return state, self._pass.gradient(state)
        state = self._advanced(state, num_visits - 1)
        state, gradient = self._pass.visit(state, self._read_before(state))
        assert gradient is not None
        return state, gradient

    def _predict(self, chunk: int) -> ChunkPrediction:
        """Return the prediction of a chunk once all memories are updated."""
        return self._read_to_the_end(self._state(chunk, self._pass.num_memories))

    def _read_to_the_end(self, state: ChunkState) -> ChunkPrediction:
        state = self._advanced(state, self._pass.num_memories)
        return self._pass.predict(state, self._read_before(state))

    def _state(self, chunk: int, most_visits: int) -> ChunkState:
        """Return the state that the store has of a chunk, or that before the first visit."""
        state = self._store.take(chunk)
        if state is not None and state.num_visits <= most_visits:
            return state
        state = self._pass.embed(self._images(chunk))
        self._saw(chunk, state)
        return state

    def _advanced(self, state: ChunkState, num_visits: int) -> ChunkState:
        """Return a state after `num_visits`, whose gradients nobody needs any more."""
        while state.num_visits < num_visits:
            state, _ = self._pass.visit(state, self._read_before(state), writes=False)
        return state

    def _predict_alone(self, chunk: int) -> ChunkPrediction:
        """Return the prediction of a chunk whose memories, if any, are its own."""
        images = self._images(chunk)
        return self._pass.through(images, _own_gradient, partial(self._saw, chunk))

    def _saw(self, chunk: int, state: ChunkState) -> None:
        if self._describe is not None:
            self._describe(chunk, state.tensors["tokens"])

    def _read_before(self, state: ChunkState) -> MemoryRead | None:
        return self.memories[state.num_visits - 1] if state.num_visits > 0 else None

    def _chunks_talk(self) -> bool:
        """Whether chunks share memories."""
        return self._pass.num_memories > 0 and self._pass.config.memory_scope == "sequence"

    def _prefetch(self, chunks: Sequence[int], place: int) -> None:
        if place < len(chunks):
            self._store.prefetch(chunks[place])

    def _save(self, visit: int, weights: FastWeights) -> None:
        if self._folder is not None:
            tensors = {name: value.contiguous().cpu() for name, value in weights._asdict().items()}
            save_tensors(self._folder / f"memory_{visit}.safetensors", tensors, {}, "memories")

    def _resume(self) -> None:
        """Take up the memories that every process has kept from an earlier run."""
        found = []
        for visit in range(self._pass.num_memories):
            path = None if self._folder is None else self._folder / f"memory_{visit}.safetensors"
            if path is None or not path.is_file():
                break
            try:
                tensors = load_file(path)
            except SafetensorError:
                break
            device = self._pass.memory(visit).w0.device
            weights = FastWeights(*(tensors[name].to(device) for name in FastWeights._fields))
            found.append(self._pass.read_after(visit, weights))
        self.memories = found[: min(gather_to_all(len(found)))]


def _own_gradient(_visit: int, gradient: FastWeights) -> FastWeights:
    """Return what a memory that one chunk alone writes is updated with."""
    return gradient


def predict_chunks(
    model: Scal3RModel,
    images: Mapping[int, Tensor],
    points: PointSource = "depth",
    precision: Precision = "float32",
    frames_per_pass: int = 16,
) -> dict[int, ChunkPrediction]:
    """Return the prediction for each of this process's chunks, by chunk number.

    Every process connected by the model's memories must call this, also with no chunks at all.

    Args:
        model: in evaluation mode.
        images: [S, 3, H, W] uint8 RGB by chunk number; floats are made here, on the model's device.
        points: "head" runs the point head too.
        precision: of encoder and attention.
        frames_per_pass: how many frames pass frame-wise parts of the network together.
    """
    predictions: dict[int, ChunkPrediction] = {}
    schedule = SegmentSchedule(
        ChunkRunner(model, points, precision), images.__getitem__, DeviceStore(), frames_per_pass
    )
    schedule.run(list(images), predictions.__setitem__)
    return predictions
