"""Chunks of a video that still arrives: each passes the network once and reads memories of what came so far.

The segment schedule writes all chunks into a memory before any of them reads it. That needs the whole video. Here the
sum of gradients is carried from chunk to chunk: at every memory chunk k adds its own gradient, the memory's initial
weights are updated once with the sum of chunks 0 to k (the same update as the schedule's), and chunk k reads the
result. Chunks before k have read less and do not pass again. With one chunk both are the same.

Shapes: S frames, H W pixels.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from scal3r_train.inference.network.chunk_runner import ChunkRunner
from scal3r_train.inference.network.out_of_memory import OutOfMemoryBackoff
from scal3r_train.inference.prediction import ChunkPrediction
from scal3r_train.model.fast_weight import FastWeights, summed


class OnlineMemory:
    """Predicts chunks one after another in one process; what it keeps does not grow with their number.

    Attributes:
        totals: for every memory the sum of the gradients of all chunks so far, [1, E, ...] in at least float32; empty
            before the first chunk. With memories of their own (`memory_scope` "chunk") those of the latest chunk.
        num_chunks: how many chunks have passed.
    """

    def __init__(self, chunk_runner: ChunkRunner, frames_per_pass: int) -> None:
        """Begin a video; `frames_per_pass` frames pass frame-wise parts together, halved when memory runs out."""
        self._runner = chunk_runner
        self._backoff = OutOfMemoryBackoff(chunk_runner.model, frames_per_pass)
        self.totals: list[FastWeights] = []
        self.num_chunks = 0

    def predict(self, images: Tensor) -> ChunkPrediction:
        """Return the prediction of the next chunk, images [S, 3, H, W] uint8 in temporal order.

        Raises:
            UserError: memory runs out even one frame at a time; the memories are then as before the call.
        """
        prediction, totals = self._backoff.run(partial(self._predict, images))
        self.totals = totals
        self.num_chunks += 1
        return prediction

    def _predict(self, images: Tensor) -> tuple[ChunkPrediction, list[FastWeights]]:
        """Return a chunk's prediction and the totals that it leaves; changes nothing, so that it can be repeated."""
        is_shared = self._runner.config.memory_scope == "sequence"
        totals: list[FastWeights] = []

        def total_of(segment: int, gradient: FastWeights) -> FastWeights:
            totals.append(summed([self.totals[segment], gradient]) if is_shared and self.totals else gradient)
            return totals[segment]

        return self._runner.forward_chunk(images, total_of), totals
