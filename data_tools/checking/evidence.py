"""The evidence of a sequence: pairs of frames at several gaps, decoded, matched, and their depth sampled.

`CheckSettings` are those of `scal3r data check`, given as key=value. Shapes: P pairs, N matches.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from scal3r_data_tools.checking.depth_warp import FLIPS, DepthView, read_view
from scal3r_data_tools.checking.matches import Features, Matches, find_features, match_features
from scal3r_data_tools.checking.scores import Evidence
from scal3r_train.config import StrictModel
from scal3r_train.data.io.frame_io import read_frame_image
from scal3r_train.data.sequence import SequenceRecord

MAX_MATCHES = 120
MIN_DISPLACEMENT = 0.4  # of the noise of a match to speak of motion at all
WARP_GAP = 3
NUM_MIXED = 14


class CheckSettings(StrictModel):
    """How much is looked at, and where the report goes."""

    decode_every: int = Field(
        1, ge=0, description="decode every Nth frame; 0: only those of the pairs [frames]"
    )
    num_pairs: int = Field(
        36, ge=3, le=1000, description="pairs of frames that are compared per sequence [pairs]"
    )
    gaps: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (1, 3, 8), min_length=1, description="frames between the two of a pair [frames]"
    )
    max_side: int = Field(
        800, ge=64, le=8192, description="images are shrunk to this side to find matches [pixels]"
    )
    max_features: int = Field(1500, ge=50, le=20000, description="points per image that are matched [points]")
    num_workers: int = Field(4, ge=1, le=256, description="threads that decode [threads]")
    max_sequences: int = Field(
        0, ge=0, description="check this many sequences, spread over the index; 0: all [sequences]"
    )
    report: Path | None = Field(
        None, description="folder to write report.html, report.json and pictures into"
    )


class FrameCache:
    """Features and depth of the frames that pairs need, each read once."""

    def __init__(self, record: SequenceRecord, settings: CheckSettings) -> None:
        self.record, self.settings = record, settings
        self.features: dict[int, Features] = {}
        self.views: dict[int, DepthView] = {}

    def read_features(self, frames: Sequence[int]) -> None:
        """Detect the features of frames that have none yet."""
        new = [frame for frame in dict.fromkeys(frames) if frame not in self.features]
        with ThreadPoolExecutor(self.settings.num_workers) as pool:
            found = pool.map(self._features, new)
            self.features.update(zip(new, found, strict=True))

    def _features(self, frame: int) -> Features:
        image = read_frame_image(self.record, frame)
        return find_features(image, self.settings.max_side, self.settings.max_features)

    def read_views(self, frames: Sequence[int]) -> None:
        """Read the depth of frames that have some."""
        new = [frame for frame in dict.fromkeys(frames) if frame not in self.views]
        with ThreadPoolExecutor(self.settings.num_workers) as pool:
            for frame, view in zip(
                new, pool.map(lambda frame: read_view(self.record, frame), new), strict=True
            ):
                if view is not None:
                    self.views[frame] = view


def collect_evidence(cache: FrameCache, pairs: Sequence[tuple[int, int]]) -> Evidence:
    """Match the images of pairs and sample the depth there; pairs without enough matches are left out."""
    cache.read_features([frame for pair in pairs for frame in pair])
    cache.read_views([frame for pair in pairs for frame in pair])
    found = [match_features(cache.features[a], cache.features[b], MAX_MATCHES) for a, b in pairs]
    kept = [
        (pair, matches) for pair, matches in zip(pairs, found, strict=True) if matches and _moves(matches)
    ]
    num, width = len(kept), max((len(matches.a) for _, matches in kept), default=1)
    pixels = np.full((2, num, width, 2), np.nan)
    places = np.full((num, width, 2), -1)
    depths = {flip: np.full((2, num, width), np.nan) for flip in FLIPS}
    for row, (pair, matches) in enumerate(kept):
        n = len(matches.a)
        places[row, :n] = matches.places
        for side, points in enumerate((matches.a, matches.b)):
            pixels[side, row, :n] = points
            if (view := cache.views.get(pair[side])) is not None:
                for flip in FLIPS:
                    depths[flip][side, row, :n] = view.sample(points, flip)
    return Evidence(
        pairs=np.array([pair for pair, _ in kept], int).reshape(-1, 2),
        pixels=pixels,
        depths=depths,
        noise=np.array([matches.noise for _, matches in kept]),
        displacement=np.array([matches.displacement for _, matches in kept]),
        places=places,
    )


def _moves(matches: Matches) -> bool:
    """Whether the picture moved: a late frame repeats the one before, whatever its pose says."""
    return matches.displacement > MIN_DISPLACEMENT


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
