"""The segment schedule: all chunks of a video through the network, memory by memory (docs/model.md#segments).

In one round every chunk runs the segment before a memory, and its gradient is added up in the same go. After the last
chunk the sum travels over the processes, the memory is updated once, and the round of the next segment begins. Where
states wait is the store's business; whatever a store no longer has is computed again from the images. Updated memories
are kept in files, so that a killed run does not repeat the rounds that it has finished.

Shapes: S frames, P tokens of a frame, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scal3r_train.inference.network.chunk_runner import ChunkRunner, ChunkState, Precision
from scal3r_train.inference.network.out_of_memory import OutOfMemoryBackoff
from scal3r_train.inference.network.state_store import DeviceStore, StateStore
from scal3r_train.inference.prediction import ChunkPrediction, PointSource
from scal3r_train.inference.progress import Track
from scal3r_train.inference.tensor_file import save_tensors
from scal3r_train.model.aggregator import MemoryRead
from scal3r_train.model.fast_weight import FastWeights, summed
from scal3r_train.model.modeling_scal3r import Scal3RModel
from scal3r_train.parallel.collectives import gather_to_all, raise_on_all_ranks


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
        self._runner = chunk_runner
        self._images = images
        self._store = store
        self._folder = memory_folder
        self.memories: list[MemoryRead] = []
        self._backoff = OutOfMemoryBackoff(chunk_runner.model, frames_per_pass)

    @property
    def frames_per_pass(self) -> int:
        """How many frames pass together now."""
        return self._backoff.frames_per_pass

    def run(
        self,
        chunks: Sequence[int],
        keep: Callable[[int, ChunkPrediction], None],
        track: Track = iter,
        describe: Callable[[int, Tensor], None] | None = None,
        done: Container[int] = (),
        expect_loops: Callable[[int], None] | None = None,
    ) -> None:
        """Predict all chunks and hand each prediction to `keep`, in order.

        Args:
            chunks: numbers of this process's chunks.
            keep: takes a prediction, on the CPU, frames in temporal order.
            track: wraps loops over chunks, for progress.
            describe: is given every chunk's tokens before the first segment, [S, P, C], whenever they are made.
            done: chunks whose predictions an earlier run has kept.
            expect_loops: is told how many loops over the chunks there will be, when it is more than one.

        Raises:
            UserError: on all processes, when one runs out of memory even one frame at a time, or cannot read an image.
        """
        self._describe = describe
        todo = [chunk for chunk in chunks if chunk not in done]
        if not self._memories_are_shared():
            with raise_on_all_ranks():
                for chunk in track(todo):
                    keep(chunk, self._backoff.run(partial(self._predict_alone, chunk)))
            return
        self._load_memories()
        if expect_loops is not None:
            expect_loops(self._runner.num_memories - len(self.memories) + 1)
        for segment in range(len(self.memories), self._runner.num_memories):
            self._update_memory(segment, chunks, track)
        with raise_on_all_ranks():
            for place, chunk in enumerate(track(todo)):
                self._prefetch(todo, place + 1)
                keep(chunk, self._backoff.run(partial(self._predict, chunk)))
                self._store.drop(chunk)

    def read_only(self, images: Tensor) -> ChunkPrediction:
        """Return the prediction of more images [S, 3, H, W] uint8 that read the memories and write nothing.

        Where chunks share no memories, these images have their own, as every chunk has.
        """
        if not self._memories_are_shared():
            return self._backoff.run(partial(self._runner.forward_chunk, images, _own_gradient))
        return self._backoff.run(lambda: self._predict_from(self._runner.embed(images)))

    def _update_memory(self, segment: int, chunks: Sequence[int], track: Track) -> None:
        """Run one segment for all chunks and update the memory after it."""
        total: FastWeights | None = None
        state: ChunkState | None = None
        with raise_on_all_ranks():
            for place, chunk in enumerate(track(chunks)):
                self._prefetch(chunks, place + 1)
                state, gradient = self._backoff.run(partial(self._write, chunk, segment))
                self._store.put(chunk, state)
                total = gradient if total is None else summed([total, gradient])
        unit = self._runner.memory(segment)
        with torch.no_grad():
            batches = [] if state is None else [self._runner.batch(state)]
            finish = unit.start_sum(batches, [] if total is None else [total], num_sequences=1)
            updated = unit.updated_weights(finish())
        self.memories.append(self._runner.updated_memory(segment, updated))
        with raise_on_all_ranks():
            self._save_memory(segment, updated)

    def _write(self, chunk: int, segment: int) -> tuple[ChunkState, FastWeights]:
        """Return a chunk's state after a segment, and the gradient that the segment ends with."""
        state = self._state(chunk, segment + 1)
        if state.segments_done == segment + 1:
            return state, self._runner.gradient(state)
        state = self._advanced(state, segment)
        state, gradient = self._runner.forward_segment(state, self._read_before(state))
        assert gradient is not None
        return state, gradient

    def _predict(self, chunk: int) -> ChunkPrediction:
        """Return the prediction of a chunk once all memories are updated."""
        return self._predict_from(self._state(chunk, self._runner.num_memories))

    def _predict_from(self, state: ChunkState) -> ChunkPrediction:
        state = self._advanced(state, self._runner.num_memories)
        return self._runner.predict(state, self._read_before(state))

    def _state(self, chunk: int, most_segments: int) -> ChunkState:
        """Return the state that the store has of a chunk, or that before the first segment."""
        state = self._store.take(chunk)
        if state is not None and state.segments_done <= most_segments:
            return state
        state = self._runner.embed(self._images(chunk))
        self._on_embedded(chunk, state)
        return state

    def _advanced(self, state: ChunkState, num_segments: int) -> ChunkState:
        """Return the state after `num_segments`, whose gradients have been added up already."""
        while state.segments_done < num_segments:
            state, _ = self._runner.forward_segment(state, self._read_before(state), writes=False)
        return state

    def _predict_alone(self, chunk: int) -> ChunkPrediction:
        """Return the prediction of a chunk whose memories, if any, are its own."""
        images = self._images(chunk)
        return self._runner.forward_chunk(images, _own_gradient, partial(self._on_embedded, chunk))

    def _on_embedded(self, chunk: int, state: ChunkState) -> None:
        if self._describe is not None:
            self._describe(chunk, state.tensors["tokens"])

    def _read_before(self, state: ChunkState) -> MemoryRead | None:
        return self.memories[state.segments_done - 1] if state.segments_done > 0 else None

    def _memories_are_shared(self) -> bool:
        """Whether chunks share memories."""
        return self._runner.num_memories > 0 and self._runner.config.memory_scope == "sequence"

    def _prefetch(self, chunks: Sequence[int], place: int) -> None:
        if place < len(chunks):
            # Where there is no room for a second state on the device, it comes when its turn is there, in the back-off.
            with suppress(torch.OutOfMemoryError):
                self._store.prefetch(chunks[place])

    def _save_memory(self, segment: int, weights: FastWeights) -> None:
        if self._folder is not None:
            tensors = {name: value.contiguous().cpu() for name, value in weights._asdict().items()}
            save_tensors(self._folder / f"memory_{segment}.safetensors", tensors, {}, "memories")

    def _load_memories(self) -> None:
        """Read the updated memories that every process has kept from an earlier run."""
        found = []
        for segment in range(self._runner.num_memories):
            path = None if self._folder is None else self._folder / f"memory_{segment}.safetensors"
            if path is None or not path.is_file():
                break
            try:
                tensors = load_file(path)
            except SafetensorError:
                break
            device = self._runner.memory(segment).w0.device
            weights = FastWeights(*(tensors[name].to(device) for name in FastWeights._fields))
            found.append(self._runner.updated_memory(segment, weights))
        self.memories = found[: min(gather_to_all(len(found)))]


def _own_gradient(_segment: int, gradient: FastWeights) -> FastWeights:
    """Return what a memory that one chunk alone writes is updated with."""
    return gradient


def predict_chunks(
    model: Scal3RModel,
    images: Mapping[int, Tensor],
    points: PointSource = "depth",
    precision: Precision = "float32",
    frames_per_pass: int = 16,
) -> dict[int, ChunkPrediction]:
    """Return the prediction for each of this process's chunks, by chunk number, with everything in memory.

    For few chunks, and for tests; `rank_work.predict_chunks_of_rank` does the same for videos of any length. Every
    process connected by the model's memories must call this, also with no chunks at all.

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
