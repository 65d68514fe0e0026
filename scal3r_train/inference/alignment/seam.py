"""A seam: the similarity, scale included, between two neighbouring chunks, from the frames that both have seen.

Every chunk is predicted in its own coordinates with its own scale. Where two chunks share frames, the same pixel is
the same point of the scene, so pixels are correspondences: `find_correspondences` draws them, `keep_confident` drops
the doubtful ones, `fit_correspondences` fits rotation, translation and scale (docs/numerics.md#seams). `align_chunks`
is the whole; `chain` strings seams into world_from_chunk, where the world is chunk 0's coordinate frame (OpenCV axes).

Shapes: O shared frames, H W pixels, N correspondences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.geometry.sim3_fit import fit_kabsch, fit_robust, fit_umeyama, spread
from scal3r_train.inference.alignment.camera_seam import join_by_cameras
from scal3r_train.inference.alignment.chunk_geometry import ChunkGeometry, shared_frames
from scal3r_train.inference.alignment.seam_wander import Wander, seam_wander
from scal3r_train.inference.alignment.settings import AlignmentSettings

ROBUST_MODES = ("sim3", "sim3_scale_locked")


@dataclass(frozen=True)
class SeamQuality:
    """How well a seam holds: plain values, as `scene.json` keeps them.

    Residuals are relative to the scene's scale, the median distance of the earlier chunk's points from their middle;
    None unless points were used.

    Attributes:
        method: `points` (shared pixels), `cameras` (too few shared pixels were valid: poses of shared frames), or
            `break` (the trajectory is torn here, and the later chunk merely placed where the earlier one ends).
        trusted: whether enough points fit.
        scale: of the later chunk, in units of the earlier one.
        num_points: shared pixels used.
        residual_rms, residual_median: of all of them.
        inlier_share: how many of them fit, in [0, 1].
        spread, centre: that scale and that middle, in the earlier chunk's units and coordinates.
        num_frames: shared frames.
        turn_deg: largest angle between the viewing directions of two shared frames, in the earlier chunk.
        wander: how much parts of the overlap disagree on the seam (`seam_wander`).
    """

    method: Literal["points", "cameras", "break"]
    trusted: bool
    scale: float
    num_points: int
    residual_rms: float | None = None
    residual_median: float | None = None
    inlier_share: float | None = None
    spread: float | None = None
    centre: tuple[float, float, float] | None = None
    num_frames: int = 0
    turn_deg: float = 0.0
    wander: Wander | None = None

    def as_dict(self) -> dict[str, Any]:
        """Field names and values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Seam:
    """The transform that joins a chunk to the one before it, and what it is worth."""

    earlier_from_later: Sim3
    quality: SeamQuality


@dataclass(frozen=True, eq=False)
class Correspondences:
    """Shared pixels: points [N, 3] in either chunk's coordinates, and their confidences [N]."""

    earlier: Tensor
    later: Tensor
    earlier_confidence: Tensor
    later_confidence: Tensor

    def __len__(self) -> int:
        return len(self.earlier)

    def take(self, index: Tensor) -> Correspondences:
        """Those selected by a mask or by indices."""
        return Correspondences(
            self.earlier[index],
            self.later[index],
            self.earlier_confidence[index],
            self.later_confidence[index],
        )


def align_chunks(earlier: ChunkGeometry, later: ChunkGeometry, settings: AlignmentSettings) -> Seam:
    """Align `later` to `earlier`; always a seam, whose quality says what it is worth.

    Raises UserError when cameras have to be used and are not finite.
    """
    shared = find_correspondences(earlier, later, settings)
    if settings.mode in ROBUST_MODES:
        shared = keep_confident(shared, settings)
    if len(shared) < settings.min_points or min(spread(shared.earlier), spread(shared.later)) <= 0:
        sim3, joined = join_by_cameras(earlier, later, given_scale(settings))
        method: Literal["cameras", "break"] = "cameras" if joined else "break"
        return Seam(sim3, SeamQuality(method, trusted=False, scale=sim3.scale.item(), num_points=len(shared)))
    seam = _measure(fit_correspondences(shared, settings), shared, settings)
    return Seam(seam.earlier_from_later, _with_overlap(seam, shared, earlier, later))


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
        valid = _usable(earlier, rows_earlier, everything) & _usable(later, rows_later, everything)
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
        index = index[_usable(earlier, rows_earlier, index) & _usable(later, rows_later, index)]
        if len(index) >= settings.max_points:
            return _thinned(index, settings.max_points, generator)
        wanted *= 4
    index = torch.arange(total)
    index = index[_usable(earlier, rows_earlier, index) & _usable(later, rows_later, index)]
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
    median = torch.minimum(shared.earlier_confidence.median(), shared.later_confidence.median())
    excess = (median - settings.confidence_floor).clamp(min=0)
    threshold = torch.minimum(
        median, settings.confidence_floor + settings.confidence_threshold_ratio * excess
    )
    return shared.take(torch.minimum(shared.earlier_confidence, shared.later_confidence) >= threshold)


def given_scale(settings: AlignmentSettings) -> float | None:
    """Return the scale that a mode gives to every seam; None where the seam has to show it."""
    if settings.mode == "sim3_scale_locked":
        return settings.locked_scale
    return 1.0 if settings.mode == "se3" else None


def fit_correspondences(shared: Correspondences, settings: AlignmentSettings) -> Sim3:
    """earlier_from_later by the mode of the settings; weights are geometric means of the confidences."""
    if settings.mode == "se3":
        return fit_kabsch(shared.later, shared.earlier)
    if settings.mode == "sim3_unweighted":
        return fit_umeyama(shared.later, shared.earlier)
    weights = (shared.earlier_confidence * shared.later_confidence).sqrt()
    return fit_robust(shared.later, shared.earlier, weights, settings.robust, given_scale(settings)).sim3


def chain(seams: Sequence[Seam]) -> list[Sim3]:
    """world_from_chunk of all chunks (one more than seams); the world is chunk 0."""
    world_from_chunk = [Sim3.identity()]
    for seam in seams:
        world_from_chunk.append(world_from_chunk[-1] @ seam.earlier_from_later)
    return world_from_chunk


def _usable(chunk: ChunkGeometry, rows: Tensor, index: Tensor) -> Tensor:
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


def _with_overlap(
    seam: Seam, shared: Correspondences, earlier: ChunkGeometry, later: ChunkGeometry
) -> SeamQuality:
    """The quality of a seam with what its overlap is like: how long, how much it turns, how its parts agree."""
    rows = [pair[0] for pair in shared_frames(earlier, later)]
    weights = (shared.earlier_confidence * shared.later_confidence).sqrt()
    return replace(
        seam.quality,
        num_frames=len(rows),
        turn_deg=turn_deg(earlier.extrinsics[rows]),
        wander=seam_wander(seam.earlier_from_later, shared.earlier, shared.later, weights, len(rows)),
    )


def turn_deg(extrinsics: Tensor) -> float:
    """Return the largest angle in degrees between the viewing directions of cameras [P, 3, 4] cam_from_chunk."""
    forward = extrinsics[:, 2, :3].double()
    return float(torch.rad2deg(torch.arccos((forward @ forward.T).clamp(-1, 1).nan_to_num(1.0)).max()))


def _measure(sim3: Sim3, shared: Correspondences, settings: AlignmentSettings) -> Seam:
    """The seam of a fit to points, with its residuals."""
    scene_scale = spread(shared.earlier)
    residuals = (shared.earlier - sim3.apply(shared.later)).norm(dim=1) / scene_scale
    inlier_share = (residuals <= settings.inlier_residual).double().mean().item()
    quality = SeamQuality(
        method="points",
        trusted=inlier_share >= settings.min_inlier_share,
        scale=sim3.scale.item(),
        num_points=len(shared),
        residual_rms=residuals.square().mean().sqrt().item(),
        residual_median=residuals.median().item(),
        inlier_share=inlier_share,
        spread=scene_scale.item(),
        centre=tuple(shared.earlier.median(dim=0).values.tolist()),
    )
    return Seam(sim3, quality)
