"""Windows of unordered photographs: a walk in which each frame sees something of the ones before it.

`SequenceRecord.covisible` lists, per frame, those that see most of the same. A window is a walk through that graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NUM_RECENT = 4  # of the walk's last frames, whose neighbours may come next
NUM_CHOICES = 6  # best neighbours of each


def covisible_walk(covisible: np.ndarray, start: int, num_frames: int, seed: int) -> list[int]:
    """Return `num_frames` frames, beginning with `start`, each covisible with one shortly before it.

    Args:
        covisible: [S, N] frames that see most of what each frame sees, best first, -1 where there are no more.
        start: first frame.
        num_frames: length of the walk. A graph that is exhausted before is walked again, so frames may repeat.
        seed: of the choices; the same arguments give the same walk.
    """
    rng = np.random.default_rng([seed, 2])  # other numbers than those of the window's look
    walk, unseen = [start], set(range(len(covisible))) - {start}
    while len(walk) < num_frames:
        following = _best_unseen(covisible, walk[-NUM_RECENT:], unseen)
        if not following:
            following = next(
                (found for frame in reversed(walk) if (found := _best_unseen(covisible, [frame], unseen))), []
            )
        if not following:  # all that hangs together has been seen
            unseen = set(range(len(covisible))) - set(walk[-NUM_RECENT:])
            following = _best_unseen(covisible, walk[-NUM_RECENT:], unseen) or [start]
        chosen = following[int(rng.integers(len(following)))]
        walk.append(chosen)
        unseen.discard(chosen)
    return walk


def _best_unseen(covisible: np.ndarray, frames: Sequence[int], unseen: set[int]) -> list[int]:
    """The best unseen neighbours of some frames, sorted, each once."""
    found: set[int] = set()
    for frame in frames:
        neighbours = [int(other) for other in covisible[frame] if other >= 0 and int(other) in unseen]
        found.update(neighbours[:NUM_CHOICES])
    return sorted(found)
