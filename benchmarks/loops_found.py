"""How many places seen again a reconstruction found, accepted and got right, against the truth.

    python -m benchmarks.loops_found INDEX.parquet EVAL_OUTPUT/METHOD [--max-distance 0.3] [--max-angle 40]

EVAL_OUTPUT/METHOD is where `scal3r eval` left a method's scenes (SEQUENCE/scene); INDEX has the true cameras, and
`--max-distance` is in its unit. A pair of frames is a true overlap when its cameras are at most so far apart and look
the same way. Columns:

- places: runs of frames that truly are seen again (a frame with a true partner at least 60 frames before it; neighbours
  are one run), and how many of them some accepted loop lies in;
- candidates, true ones among them; accepted, true ones and wrong ones among them. An accepted loop is wrong when its
  frames are no true overlap.

Frames are those that the evaluation used (`sequences` of its recipe); 60 are so many of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scal3r_train.data.index.index import load_index
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.scene.scene import load_scene_info

MIN_GAP = 60  # frames
HEAD = ("sequence", "places", "found", "candidates", "true", "accepted", "true", "wrong")


def true_overlaps(
    record: SequenceRecord, frames: Sequence[int], max_distance: float, max_angle: float
) -> np.ndarray:
    """Return [S, S] bool: whether two of S frames were at most so far apart, and looked the same way within degrees."""
    cameras = np.asarray(record.cam_from_world, dtype=np.float64)[list(frames)]
    rotation, translation = cameras[:, :, :3], cameras[:, :, 3]
    centres = -np.einsum("sij,si->sj", rotation, translation)
    ahead = rotation[:, 2]
    distance = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    return (distance <= max_distance) & (ahead @ ahead.T >= np.cos(np.radians(max_angle)))


def places_seen_again(overlaps: np.ndarray) -> list[range]:
    """Return the runs of frames that have a true partner at least MIN_GAP frames before them."""
    earlier = np.tril(overlaps, -MIN_GAP).any(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], earlier, [False]]).astype(int)))
    return [range(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def row_of(
    record: SequenceRecord, scene: Path, max_distance: float, max_angle: float
) -> tuple[str | int, ...]:
    """Return one row of the table."""
    info = load_scene_info(scene)
    overlaps, loops = true_overlaps(record, info.frame_indices, max_distance, max_angle), info.loops
    places = places_seen_again(overlaps)
    right = [bool(overlaps[tuple(loop["frames"])]) for loop in loops]
    accepted = [loop["accepted"] for loop in loops]
    ends = [
        loop["frames"][1] for loop, good, kept in zip(loops, right, accepted, strict=True) if good and kept
    ]
    found = sum(any(end in place for end in ends) for place in places)
    good = sum(a and b for a, b in zip(right, accepted, strict=True))
    return (
        record.sequence_id,
        len(places),
        found,
        len(loops),
        sum(right),
        sum(accepted),
        good,
        sum(accepted) - good,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--max-distance", type=float, default=0.3)
    parser.add_argument("--max-angle", type=float, default=40.0)
    arguments = parser.parse_args()
    records = load_index(arguments.index)
    print("| " + " | ".join(HEAD) + " |\n" + "|" + " --- |" * len(HEAD))
    for number in range(len(records)):
        record = records[number]
        scene = arguments.folder / record.sequence_id.replace("/", "__") / "scene"
        if scene.is_dir():
            row = row_of(record, scene, arguments.max_distance, arguments.max_angle)
            print("| " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    main()
