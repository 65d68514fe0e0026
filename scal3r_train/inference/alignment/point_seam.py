"""A seam from shared pixels: robust rounds over some of them, then one solve over all, and how sure the result is.

`fit_points` estimates the similarity from the correspondences that were drawn, with noise measured at every depth
(point_noise.py) and, where cameras speak, from their place too, so that a sky that both chunks invented alike does not
win by its size. `solve_on_all_pixels` takes one more step with everything the overlap has.

Shapes: P pairs of frames, H W pixels, N correspondences.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scal3r_train.geometry.point_moments import MomentSums
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.geometry.sim3_fit import RobustStart, fit_robust, robust_factors, spread, weighted_quantile
from scal3r_train.geometry.sim3_tangent import covariance_at_origin, skew
from scal3r_train.inference.alignment.chunk_geometry import ChunkGeometry, shared_frames
from scal3r_train.inference.alignment.correspondences import Correspondences, confidence_threshold
from scal3r_train.inference.alignment.point_noise import DepthAxis, NoiseCurve
from scal3r_train.inference.alignment.settings import AlignmentSettings

TILES = 4  # a side: points of one tile of a frame are taken to err together
BLOCK = 1 << 16  # pixels at once: what a processor's cache holds
SAME = 1e-3  # of the scene's scale: two results nearer than this are one
ENOUGH_SUPPORT = 0.25  # of the other result's: then cameras decide between the two
MAJORITY = 0.6


@dataclass(frozen=True, eq=False)
class PointFit:
    """What shared pixels say.

    Attributes:
        sim3: earlier_from_later.
        noise: median residual relative to depth (without depths: to the points' spread).
        covariance: [7, 7] of `sim3` @ Exp(error), from how far frames and parts of frames contradict each other.
        curve: noise against depth; None without depths.
        width: residual, in multiples of the noise, up to which points counted fully.
    """

    sim3: Sim3
    noise: float
    covariance: Tensor
    curve: NoiseCurve | None
    width: float


def fit_points(
    shared: Correspondences,
    axis: DepthAxis | None,
    settings: AlignmentSettings,
    scale: float | None,
    camera_guess: Sim3 | None = None,
) -> PointFit:
    """Return the robust fit of the later chunk's points to the earlier one's.

    Args:
        shared: at least three correspondences that do not coincide.
        axis: depths in the later chunk's cameras; None: all points are taken to be as noisy.
        settings: of the rounds.
        scale: of the result, if it is given.
        camera_guess: earlier_from_later by cameras. The rounds then start there too, and that result is taken if a
            fair share of the points supports it.
    """
    source, target, weights = shared.later, shared.earlier, shared.weights

    def rounds(noise: Tensor | None, start: RobustStart | None) -> Sim3:
        return fit_robust(source, target, weights, settings.robust, scale, noise, start).sim3

    depths = None if axis is None else _positive(axis.depths(source, shared.pair))
    found, quantile = rounds(depths, None), 0.5
    if camera_guess is not None:
        other = rounds(depths, RobustStart(camera_guess, 0.25))
        found, quantile = _better_supported(found, other, shared, depths)
    residuals, middle_depths = _residuals(found, shared, axis)
    curve = noise = None
    if middle_depths is not None:
        curve = NoiseCurve.measured(middle_depths, residuals, weights)
        noise = curve.at(middle_depths)
    fit = fit_robust(source, target, weights, settings.robust, scale, noise, RobustStart(found, quantile))
    residuals, middle_depths = _residuals(fit.sim3, shared, axis)
    relative = residuals / (spread(source) if middle_depths is None else _positive(middle_depths))
    scaled = residuals if noise is None else residuals / noise
    width = fit.width / float(fit.sim3.scale)
    factors = robust_factors(scaled, scaled.new_tensor(width), settings.robust, settled=True)
    importance = weights * factors / (1 if noise is None else noise.square())
    return PointFit(
        fit.sim3,
        float(weighted_quantile(relative, weights, 0.5)),
        _covariance(fit.sim3, shared, importance),
        curve,
        width,
    )


def _positive(depths: Tensor) -> Tensor:
    """Depths [N] with a floor, for points at or behind the camera."""
    return depths.clamp(min=max(0.05 * float(depths.median()), 1e-3 * float(depths.abs().median()), 1e-300))


def _residuals(sim3: Sim3, shared: Correspondences, axis: DepthAxis | None) -> tuple[Tensor, Tensor | None]:
    """Residuals [N] and depths [N] midway between both predictions, in the later chunk's units.

    Midway, for a depth of one of them alone would be small where its error is negative: weights by it are biased.
    """
    back = sim3.inverse().apply(shared.earlier)
    residuals = (back - shared.later).norm(dim=1)
    return residuals, None if axis is None else axis.depths((back + shared.later) / 2, shared.pair)


def _better_supported(
    plain: Sim3, by_cameras: Sim3, shared: Correspondences, depths: Tensor | None
) -> tuple[Sim3, float]:
    """The result to go on with, and the share of the points that has to fit it."""
    apart = (plain.apply(shared.later) - by_cameras.apply(shared.later)).norm(dim=1).median()
    if apart <= SAME * spread(shared.earlier):
        return plain, 0.5
    weights = shared.weights
    sizes = 1.0 if depths is None else depths
    both = [_residuals(sim3, shared, None)[0] / sizes for sim3 in (plain, by_cameras)]
    tight = 3 * max(weighted_quantile(residuals, weights, 0.25) for residuals in both)
    support = [float(weights[residuals <= tight].sum() / weights.sum()) for residuals in both]
    if support[1] < ENOUGH_SUPPORT * support[0]:
        return plain, 0.5
    return by_cameras, 0.5 if support[1] >= MAJORITY else 0.25


def _covariance(sim3: Sim3, shared: Correspondences, importance: Tensor) -> Tensor:
    """Covariance [7, 7] of a weighted fit from its own residuals, whatever they have in common.

    The derivative of the weighted squares is a sum over points. Summed by frame, and by tile of a frame, its parts
    would be independent if errors were common to a frame or to a tile; their scatter is what the sum is uncertain by.
    Both kinds are added. Directions that the points leave open get the large variance they have.
    """
    middle = (importance @ shared.later) / importance.sum()
    points = shared.later - middle
    size = points.norm(dim=1).median().clamp(min=1e-300)
    points = points / size
    residual = (sim3.inverse().apply(shared.earlier) - shared.later) / size
    importance = importance / importance.sum()
    eye = torch.eye(3).to(points).expand(len(points), 3, 3)
    jacobian = torch.cat([eye, -skew(points), points[..., None]], dim=2)
    weighted = jacobian * importance[:, None, None]
    normal = weighted.flatten(0, 1).T @ jacobian.flatten(0, 1)
    inverse = torch.linalg.inv(normal + 1e-10 * normal.trace() * torch.eye(7).to(normal))
    scores = (weighted * residual[..., None]).sum(dim=1)
    _, width = shared.image_hw
    tile = _part(shared.pixel // width, shared.image_hw[0]) * TILES + _part(shared.pixel % width, width)
    scatter = _scatter(scores, shared.pair) + _scatter(scores, shared.pair * TILES**2 + tile)
    alone = importance @ residual.square().sum(dim=1) / 3 / len(points) + 1e-16
    covariance = inverse @ scatter @ inverse + alone * inverse
    units = torch.cat([size.expand(3), torch.ones(4).to(size)])
    return covariance_at_origin((units[:, None] * covariance * units)[None], middle[None])[0]


def _part(place: Tensor, length: int) -> Tensor:
    """Which of TILES equal parts of a side places [N] lie in."""
    return place * TILES // length


def _scatter(scores: Tensor, group: Tensor) -> Tensor:
    """Sum of the squares [7, 7] of the groups' summed scores [N, 7], corrected for small numbers of groups."""
    kinds, index = group.unique(return_inverse=True)
    sums = scores.new_zeros(len(kinds), scores.shape[1]).index_add(0, index, scores)
    return sums.T @ sums * (len(kinds) / max(len(kinds) - 1, 1))


def solve_on_all_pixels(
    fit: PointFit,
    earlier: ChunkGeometry,
    later: ChunkGeometry,
    shared: Correspondences,
    axis: DepthAxis | None,
    settings: AlignmentSettings,
    scale: float | None,
) -> Sim3:
    """Return the weighted fit of every shared pixel, with weights by their residuals under `fit`.

    One such step from a good robust estimate is as precise as rounds over all pixels would be (a one-step estimator,
    docs/numerics.md#robust-fit). Pixels count as in the correspondences `shared`.
    """
    threshold = confidence_threshold(shared, settings)
    sums = MomentSums(shared.later.mean(dim=0), shared.earlier.mean(dim=0))
    back, width = fit.sim3.inverse(), shared.earlier.new_tensor(fit.width)
    turn = back.scale * back.rotation.T
    for number, (row_earlier, row_later) in enumerate(shared_frames(earlier, later)):
        valid = (earlier.valid[row_earlier] & later.valid[row_later]).flatten()
        points = [
            chunk.world_points[row].flatten(0, 1)
            for chunk, row in ((earlier, row_earlier), (later, row_later))
        ]
        surenesses = [
            chunk.confidence[row].flatten() for chunk, row in ((earlier, row_earlier), (later, row_later))
        ]
        for start in range(0, len(valid), BLOCK):
            part = slice(start, start + BLOCK)
            target, source = (each[part].double() for each in points)
            one, other = (each[part].double() for each in surenesses)
            weights = (one * other).sqrt()
            apart = (target @ turn + back.translation).sub_(source)
            residuals = apart.square().sum(dim=1).sqrt()
            keep = (
                valid[part]
                & (torch.minimum(one, other) >= threshold)
                & residuals.isfinite()
                & weights.isfinite()
            )
            if not keep.all():
                target, source, apart = target[keep], source[keep], apart[keep]
                weights, residuals = weights[keep], residuals[keep]
            if axis is not None and fit.curve is not None:
                depths = (source + apart / 2) @ axis.direction[number] + axis.offset[number]
                noise = fit.curve.at(depths)
                residuals, weights = residuals / noise, weights / noise.square()
            factors = robust_factors(residuals, width, settings.robust, settled=True)
            sums.add(source, target, weights * factors)
    return sums.moments().similarity(scale)
