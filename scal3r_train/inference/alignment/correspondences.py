"""Correspondences of two chunks: equal pixels of the frames that both hold are the same points of the scene.

`find_correspondences` draws them, `keep_confident` drops the doubtful ones.

Shapes: O shared frames, P pairs of frames (as many), H W pixels, N correspondences.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scal3r_train.inference.alignment.chunk_geometry import ChunkGeometry, shared_frames
from scal3r_train.inference.alignment.settings import AlignmentSettings


@dataclass(frozen=True, eq=False)
class Correspondences:
    """Shared pixels.

    Attributes:
        earlier, later: points [N, 3] float64 in either chunk's coordinates.
        earlier_confidence, later_confidence: [N] float64.
        pair: [N] which pair of frames each belongs to, counted as `shared_frames` lists them.
        pixel: [N] row * W + column in the frame.
        image_hw: H and W.
    """

    earlier: Tensor
    later: Tensor
    earlier_confidence: Tensor
    later_confidence: Tensor
    pair: Tensor
    pixel: Tensor
    image_hw: tuple[int, int]

    def __len__(self) -> int:
        return len(self.earlier)

    def take(self, index: Tensor) -> Correspondences:
        """Those selected by a mask or by indices."""
        return Correspondences(
            self.earlier[index],
            self.later[index],
            self.earlier_confidence[index],
            self.later_confidence[index],
            self.pair[index],
            self.pixel[index],
            self.image_hw,
        )

    @property
    def weights(self) -> Tensor:
        """[N], geometric means of the confidences."""
        return (self.earlier_confidence * self.later_confidence).sqrt()


def find_correspondences(
    earlier: ChunkGeometry, later: ChunkGeometry, settings: AlignmentSettings
) -> Correspondences:
    """Pixels of the shared frames that are valid in both chunks, at most `max_points` of them.

    Which ones are drawn depends on the settings' seed alone. Points or confidences that are not finite are
    never valid. The order is that of the later chunk's frames, then rows, then columns.
    """
    pairs = shared_frames(earlier, later)
    rows_earlier = torch.tensor([pair[0] for pair in pairs], dtype=torch.long)
    rows_later = torch.tensor([pair[1] for pair in pairs], dtype=torch.long)
    height, width = earlier.valid.shape[1:]
    num_pixels = height * width
    if settings.max_points_per_frame is None:
        index = _drawn(earlier, later, rows_earlier, rows_later, settings)
    else:
        everything = torch.arange(len(pairs) * num_pixels)
        valid = usable_pixels(earlier, rows_earlier, everything) & usable_pixels(
            later, rows_later, everything
        )
        common = torch.minimum(earlier.confidence[rows_earlier], later.confidence[rows_later]).flatten(1)
        valid = valid.unflatten(0, (len(pairs), num_pixels))
        if valid.numel():
            valid = _keep_largest(common, valid, settings.max_points_per_frame)
        index = _thinned(valid.flatten().nonzero()[:, 0], settings.max_points, _generator(settings))
    at_earlier, at_later = _places(rows_earlier, index, num_pixels), _places(rows_later, index, num_pixels)
    return Correspondences(
        earlier.world_points.flatten(1, 2)[at_earlier].double(),
        later.world_points.flatten(1, 2)[at_later].double(),
        earlier.confidence.flatten(1)[at_earlier].double(),
        later.confidence.flatten(1)[at_later].double(),
        index // num_pixels,
        index % num_pixels,
        (height, width),
    )


def _drawn(
    earlier: ChunkGeometry,
    later: ChunkGeometry,
    rows_earlier: Tensor,
    rows_later: Tensor,
    settings: AlignmentSettings,
) -> Tensor:
    """At most `max_points` shared pixels that are valid in both, ascending, every one as likely as any other.

    Of many pixels some are drawn first and looked at then: looking at all of them takes longer than the fit.
    """
    total = len(rows_earlier) * earlier.valid[0].numel()
    generator = _generator(settings)
    wanted = 2 * settings.max_points
    while total > 4 * wanted:
        index = torch.randint(total, (wanted,), generator=generator).unique()
        index = index[usable_pixels(earlier, rows_earlier, index) & usable_pixels(later, rows_later, index)]
        if len(index) >= settings.max_points:
            return _thinned(index, settings.max_points, generator)
        wanted *= 4
    index = torch.arange(total)
    index = index[usable_pixels(earlier, rows_earlier, index) & usable_pixels(later, rows_later, index)]
    return _thinned(index, settings.max_points, generator)


def _generator(settings: AlignmentSettings) -> torch.Generator:
    return torch.Generator().manual_seed(settings.seed)


def _thinned(index: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """At most `count` of the entries, in their order."""
    if len(index) <= count:
        return index
    return index[torch.randperm(len(index), generator=generator)[:count].sort().values]


def _places(rows: Tensor, index: Tensor, num_pixels: int) -> tuple[Tensor, Tensor]:
    """(frame of the chunk, pixel of the frame) of indices into the pixels of the frames `rows`."""
    return rows[index // num_pixels], index % num_pixels


def keep_confident(shared: Correspondences, settings: AlignmentSettings) -> Correspondences:
    """Drop pixels whose confidence in either chunk is below a share of the smaller median.

    docs/numerics.md#confidence-threshold.

    Confidence is 1 + exp(..) >= 1, so a share of the median itself could hardly ever act: the threshold
    counts from `confidence_floor`. It never exceeds the median, whatever the confidences are.
    """
    if not len(shared):
        return shared
    threshold = confidence_threshold(shared, settings)
    return shared.take(torch.minimum(shared.earlier_confidence, shared.later_confidence) >= threshold)


def confidence_threshold(shared: Correspondences, settings: AlignmentSettings) -> Tensor:
    """Least confidence [] that a pixel must have in both chunks, from at least one correspondence."""
    median = torch.minimum(shared.earlier_confidence.median(), shared.later_confidence.median())
    excess = (median - settings.confidence_floor).clamp(min=0)
    return torch.minimum(median, settings.confidence_floor + settings.confidence_threshold_ratio * excess)


def usable_pixels(chunk: ChunkGeometry, rows: Tensor, index: Tensor) -> Tensor:
    """Mask [N] of N indices into the pixels of the frames `rows`: valid, finite, with a positive confidence."""
    places = _places(rows, index, chunk.valid[0].numel())
    confidence = chunk.confidence.flatten(1)[places]
    finite = chunk.world_points.flatten(1, 2)[places].isfinite().all(dim=-1) & confidence.isfinite()
    return chunk.valid.flatten(1)[places] & finite & (confidence > 0)


def _keep_largest(values: Tensor, mask: Tensor, count: int) -> Tensor:
    """The mask [O, H*W] cut down to the `count` largest values of each row."""
    masked = torch.where(mask, values, -torch.inf)
    largest = masked.topk(min(count, masked.shape[1]), dim=1).indices
    return mask & torch.zeros_like(mask).scatter(1, largest, 1)
