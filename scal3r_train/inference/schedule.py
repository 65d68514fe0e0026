"""The segment schedule: all chunks of a video through the network, memory by memory (DESIGN.md, idea 4).

Between two memories every chunk makes one visit; its gradient is added up in the same visit. After the last chunk the
sum travels over the processes, the memory is updated once, and the next round of visits begins. Where states wait is
the store's business; whatever a store has lost is computed again from the images. Updated memories are kept in files,
so that a killed run does not repeat the rounds that it has finished.

Shapes: S frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scal3r_train.inference.chunk_pass import ChunkPass, ChunkState
from scal3r_train.inference.frame_room import FrameRoom
from scal3r_train.inference.prediction import ChunkPrediction
from scal3r_train.inference.state_store import StateStore, save_tensors
from scal3r_train.model.aggregator import MemoryRead
from scal3r_train.model.chunk_batch import ChunkBatch
from scal3r_train.model.fast_weight import FastWeights
from scal3r_train.parallel.collectives import gather_to_all
from scal3r_train.parallel.world import same_fate

Track = Callable[[Iterable[int]], Iterable[int]]
Result = TypeVar("Result")


class SegmentSchedule:
    """Runs this process's chunks; every process connected by the model's memories must run one."""

    def __init__(
        self,
        chunk_pass: ChunkPass,
        images: Callable[[int], Tensor],
        store: StateStore,
        frames_per_pass: int,
        memory_folder: Path | None = None,
    ) -> None:
        """Prepare.

        Args:
            chunk_pass: the network.
            images: returns the images of a chunk, [S, 3, H, W] uint8.
            store: where states wait.
            frames_per_pass: how many frames pass frame-wise parts together; halved when memory runs out.
            memory_folder: where updated memories are kept for a restart; None: nowhere.
        """
        self._pass = chunk_pass
        self._images = images
        self._store = store
        self._folder = memory_folder
        self.memories: list[MemoryRead] = []
        self._room = FrameRoom(chunk_pass.model, frames_per_pass)

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
        if not self._chunks_talk():
            with same_fate():
                for chunk in track([chunk for chunk in chunks if chunk not in done]):
                    keep(chunk, self._roomy(partial(self._predict_alone, chunk)))
            return
        self._resume()
        for visit in range(len(self.memories), self._pass.num_memories):
            self._update_memory(visit, chunks, track)
        with same_fate():
            todo = [chunk for chunk in chunks if chunk not in done]
            for place, chunk in enumerate(track(todo)):
                self._prefetch(todo, place + 1)
                state, _ = self._roomy(partial(self._bring, chunk, self._pass.num_memories))
                keep(
                    chunk,
                    self._roomy(partial(self._pass.predict, state, self._read_before(state))),
                )
                self._store.drop(chunk)

    def read_only(self, images: Tensor) -> ChunkPrediction:
        """Return the prediction of more images [S, 3, H, W] uint8 that read the memories and write nothing."""

        def predict() -> ChunkPrediction:
            state = self._pass.embed(images)
            while state.num_visits < self._pass.num_memories:
                state, _ = self._pass.visit(state, self._read_before(state))
            return self._pass.predict(state, self._read_before(state))

        return self._roomy(predict)

    def _update_memory(self, visit: int, chunks: Sequence[int], track: Track) -> None:
        """Make one round of visits and update the memory after it."""
        total: FastWeights | None = None
        batch: ChunkBatch | None = None
        with same_fate():
            for place, chunk in enumerate(track(chunks)):
                self._prefetch(chunks, place + 1)
                state, gradient = self._roomy(partial(self._bring, chunk, visit + 1))
                self._store.put(chunk, state)
                if gradient is None:
                    gradient = self._pass.gradient(state)
                total = gradient if total is None else FastWeights(*map(torch.add, total, gradient))
                batch = self._pass.batch_like(state)
        unit = self._pass.memory(visit)
        with torch.no_grad():
            sums = [] if total is None else [total]
            finish = unit.start_sum([] if batch is None else [batch], sums, num_sequences=1)
            updated = unit.updated_weights(finish())
        self.memories.append(MemoryRead(self._pass.visits[visit][-1], unit, updated))
        with same_fate():
            self._save(visit, updated)

    def _bring(self, chunk: int, num_visits: int) -> tuple[ChunkState, FastWeights | None]:
        """Return a chunk's state after `num_visits`, and its latest gradient if that was computed on the way."""
        state = self._store.take(chunk)
        if state is None or state.num_visits > num_visits:
            state = self._pass.embed(self._images(chunk))
            if self._describe is not None:
                self._describe(chunk, state.tensors["tokens"])
        gradient = None
        while state.num_visits < num_visits:
            state, gradient = self._pass.visit(state, self._read_before(state))
        return state, gradient

    def _predict_alone(self, chunk: int) -> ChunkPrediction:
        """Return the prediction of a chunk whose memories, if any, are its own."""
        state, read = self._pass.embed(self._images(chunk)), None
        if self._describe is not None:
            self._describe(chunk, state.tensors["tokens"])
        while state.num_visits < self._pass.num_memories:
            visit = state.num_visits
            state, gradient = self._pass.visit(state, read)
            unit = self._pass.memory(visit)
            updated = unit.updated_weights(FastWeights(*gradient))
            read = MemoryRead(self._pass.visits[visit][-1], unit, updated)
        return self._pass.predict(state, read)

    def _read_before(self, state: ChunkState) -> MemoryRead | None:
        return self.memories[state.num_visits - 1] if state.num_visits > 0 else None

    def _chunks_talk(self) -> bool:
        """Whether chunks share memories."""
        return self._pass.num_memories > 0 and self._pass.config.memory_scope == "sequence"

    def _prefetch(self, chunks: Sequence[int], place: int) -> None:
        if place < len(chunks):
            self._store.prefetch(chunks[place])

    def _roomy(self, work: Callable[[], Result]) -> Result:
        """Do some work, with half as many frames at a time whenever memory runs out."""
        return self._room.do(work)

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
            unit = self._pass.memory(visit)
            weights = FastWeights(*(tensors[name].to(unit.w0.device) for name in FastWeights._fields))
            found.append(MemoryRead(self._pass.visits[visit][-1], unit, weights))
        self.memories = found[: min(gather_to_all(len(found)))]
