"""Which frames are compared: pairs spread over a sequence, at several gaps. Shapes: P pairs."""

from __future__ import annotations

import itertools

import numpy as np

from scal3r_train.data.sequence import SequenceRecord

WARP_GAP = 3
NUM_MIXED = 14


def choose_pairs(record: SequenceRecord, num_pairs: int, gaps: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return pairs (a, b) of frames: those of ordered frames `gaps` apart, of others those that see most of the same.

    The first frame of each has depth when any frame has; with several gaps the same first frame is used for all, so
    that neighbouring pairs share one.
    """
    if record.num_frames < 2:
        return []
    if record.covisible is not None:
        return _covisible_pairs(record.covisible, num_pairs)
    if not record.is_ordered:
        return _near_pairs(record, num_pairs)
    frames = _with_depth(record)
    early = frames[frames + max(gaps) < record.num_frames]  # all their pairs exist
    starts = early if len(early) > 1 else frames
    chosen = starts[_spread(len(starts), max(num_pairs // len(gaps), 1))]
    pairs = [(int(a), int(a) + gap) for a in chosen for gap in gaps]
    return list(dict.fromkeys((a, b) for a, b in pairs if b < record.num_frames))


def warp_pairs(record: SequenceRecord, pairs: list[tuple[int, int]], num_pairs: int) -> list[tuple[int, int]]:
    """Return pairs whose frames both have depth: of ordered frames the nearest ones at least WARP_GAP apart."""
    if not record.depth:
        return []
    if not record.is_ordered or record.covisible is not None:
        return [(a, b) for a, b in pairs if record.depth[a] and record.depth[b]]
    frames = _with_depth(record)
    following = np.searchsorted(frames, frames + min(WARP_GAP, max(record.num_frames // 4, 1)))
    found = [(int(a), int(frames[b])) for a, b in zip(frames, following, strict=True) if b < len(frames)]
    return [found[i] for i in _spread(len(found), num_pairs)]


def mixed_pairs(record: SequenceRecord) -> list[tuple[int, int]]:
    """Return all pairs of some frames spread over the sequence, for when neighbours show nothing in common."""
    frames = _spread(record.num_frames, NUM_MIXED)
    return [(int(a), int(b)) for a, b in itertools.combinations(frames, 2)]


def _with_depth(record: SequenceRecord) -> np.ndarray:
    frames = np.array([frame for frame, name in enumerate(record.depth) if name], int)
    return frames if len(frames) else np.arange(record.num_frames)


def _covisible_pairs(covisible: np.ndarray, num_pairs: int) -> list[tuple[int, int]]:
    """Frames with the best, the middle and a late entry of their own list."""
    pairs: dict[tuple[int, int], None] = {}
    for frame in _spread(len(covisible), max(num_pairs // 3, 1)):
        others = covisible[frame][(covisible[frame] >= 0) & (covisible[frame] != frame)]
        for other in others[_spread(min(len(others), 12), 3)]:
            pairs[int(frame), int(other)] = None
    return list(pairs)


def _near_pairs(record: SequenceRecord, num_pairs: int) -> list[tuple[int, int]]:
    """Neighbours in the list, and cameras that stand near and look the same way, as far as the poses can be trusted."""
    chosen = _spread(record.num_frames, max(num_pairs // 3, 1))
    pairs = {(int(a), int(a) + 1): None for a in chosen if a + 1 < record.num_frames}
    if record.cam_from_world is not None:
        rotation = record.cam_from_world[:, :, :3]
        position = -np.einsum("sji,sj->si", rotation, record.cam_from_world[:, :, 3])
        spread = max(float(np.linalg.norm(position - position.mean(0), axis=1).mean()), 1e-9)
        for a in chosen:
            away = np.linalg.norm(position - position[a], axis=1) / spread - rotation[:, 2] @ rotation[a, 2]
            for b in [int(b) for b in np.argsort(away, kind="stable") if b != a][:2]:
                pairs[int(a), b] = None
    return list(pairs)


def _spread(num: int, want: int) -> np.ndarray:
    """At most `want` of 0..num-1, evenly spread."""
    return np.unique(np.linspace(0, num - 1, min(want, num)).astype(int)) if num else np.zeros(0, int)
