"""Collecting the evidence of a sequence: images are decoded, features matched, depth sampled. Shapes: P pairs, N."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from scal3r_data_tools.checking.errors import Evidence
from scal3r_data_tools.checking.matches import Features, Matches, find_features, match_features
from scal3r_data_tools.checking.settings import CheckSettings
from scal3r_data_tools.checking.views import FLIPS, DepthView, read_view
from scal3r_train.data.frame_io import read_frame_image
from scal3r_train.data.sequence import SequenceRecord

MAX_MATCHES = 120
MIN_DISPLACEMENT = 0.4  # of the noise of a match to speak of motion at all


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
