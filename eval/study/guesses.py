"""What a hidden chunk can be told without a network: the bounds between which a memory can be of use.

`prior` answers what is best on average over the training towns, the most that a chunk alone can do: like a network, it
answers in the sequence's unit of training (`HeldOutTown.unit_m`) and does not know how many metres that is. `copy`
answers the mean of the sequence's own clear chunks, taken from the truth: about the most that a memory can hand over.
Both answer for every chunk, also those that see something.
"""

from __future__ import annotations

import numpy as np

from scal3r_eval.study.chunk_errors import ChunkMotion, View


def prior_motion(training: ChunkMotion, num_chunks: int, unit_m: float) -> ChunkMotion:
    """Return the median motion of the training chunks, in metres, for each of `num_chunks` chunks.

    Args:
        training: with lengths in units of each town's own `unit_m`.
        num_chunks: K of the town that is guessed.
        unit_m: of that town.
    """
    median = ChunkMotion(
        yaw_deg=np.full(num_chunks, np.median(training.yaw_deg)),
        shift=np.tile(np.median(training.shift, 0), (num_chunks, 1)),
        length=np.full(num_chunks, np.median(training.length)),
        fov_deg=np.full(num_chunks, np.median(training.fov_deg)),
    )
    return median.scaled(unit_m)


def copied_motion(truth: ChunkMotion, views: list[View]) -> ChunkMotion | None:
    """Return the mean true motion of the clear chunks for all chunks; None when no chunk is clear."""
    is_clear = np.array(views) == "clear"
    if not is_clear.any():
        return None
    num = len(views)
    return ChunkMotion(
        yaw_deg=np.full(num, truth.yaw_deg[is_clear].mean()),
        shift=np.tile(truth.shift[is_clear].mean(0), (num, 1)),
        length=np.full(num, truth.length[is_clear].mean()),
        fov_deg=np.full(num, truth.fov_deg[is_clear].mean()),
    )
