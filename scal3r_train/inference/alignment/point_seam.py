"""A seam from shared pixels: robust rounds over some of them, then one solve over all, and how sure the result is.

`fit_points` estimates the similarity from the correspondences that were drawn, with noise measured at every depth
(point_noise.py) and, where cameras speak, from their place too, so that a sky that both chunks invented alike does not
win by its size. `solve_on_all_pixels` takes one more step with everything the overlap has.

Shapes: P pairs of frames, H W pixels, N correspondences.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scal3r_train.geometry.point_moments import MomentSums
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.geometry.sim3_fit import RobustStart, fit_robust, robust_factors, spread, weighted_quantile
from scal3r_train.inference.alignment.chunk_geometry import ChunkGeometry, shared_frames
from scal3r_train.inference.alignment.correspondences import Correspondences, confidence_threshold
from scal3r_train.inference.alignment.point_noise import DepthAxis, NoiseCurve, least_depth
from scal3r_train.inference.alignment.settings import AlignmentSettings

STRIPS = 4  # of a frame: the points of one are taken to err together
BLOCK = 1 << 15  # pixels at once: what a processor's cache holds
FEW = 8  # rows of which one takes part in the first of the last two solves
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
        weights: [N] of the points drawn, by confidence and noise, before their residuals were looked at.
    """

    sim3: Sim3
    noise: float
    covariance: Tensor
    curve: NoiseCurve | None
    width: float
    weights: Tensor


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

    depths = None
    if axis is not None:
        depths = axis.depths(source, shared.pair)
        depths = depths.clamp(min=least_depth(depths))
    found, quantile = rounds(depths, None), 0.5
    if camera_guess is not None:
        other = rounds(depths, RobustStart(camera_guess, 0.25))
        found, quantile = _better_supported(found, other, shared, depths)
    if not found.scale > 0:  # the points that count coincide in one chunk
        return PointFit(found, math.inf, torch.eye(7, dtype=torch.float64), None, 1.0, weights)
    residuals, middle_depths = _residuals(found, shared, axis)
    curve = noise = None
    if middle_depths is not None:
        curve = NoiseCurve.measured(middle_depths, residuals, weights)
        noise = curve.at(middle_depths)
    fit = fit_robust(source, target, weights, settings.robust, scale, noise, RobustStart(found, quantile))
    residuals, middle_depths = _residuals(fit.sim3, shared, axis)
    sizes = spread(source) if middle_depths is None else middle_depths.clamp(min=least_depth(middle_depths))
    relative = residuals / sizes
    scaled = residuals if noise is None else residuals / noise
    width = fit.width / float(fit.sim3.scale)
    known = weights if noise is None else weights / noise.square()
    importance = known * robust_factors(scaled, scaled.new_tensor(width), settings.robust, settled=True)
    height, width_px = shared.image_hw
    group = shared.pair * STRIPS + shared.pixel // width_px * STRIPS // height
    sums = MomentSums(int(group.max()) + 1, source.mean(dim=0), target.mean(dim=0))
    for number in group.unique().tolist():
        here = group == number
        sums.add(number, sums.columns(source[here], target[here]), importance[here])
    covariance = sums.covariance(fit.sim3, torch.arange(int(group.max()) + 1) // STRIPS)
    return PointFit(
        fit.sim3, float(weighted_quantile(relative, weights, 0.5)), covariance, curve, width, known
    )


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
    if not by_cameras.scale > 0 or not plain.scale > 0:
        return (plain if plain.scale > 0 else by_cameras), 0.5
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


def solve_on_all_pixels(
    fit: PointFit,
    earlier: ChunkGeometry,
    later: ChunkGeometry,
    shared: Correspondences,
    axis: DepthAxis | None,
    settings: AlignmentSettings,
    scale: float | None,
) -> PointFit:
    """Return the weighted fit of every shared pixel, after one of every eighth row.

    Weights follow from the residuals under the fit before. Each such step takes away most of what that one was off
    (docs/numerics.md#robust-fit), so two are as precise as rounds over all pixels until nothing moves. Pixels count as
    in the correspondences `shared`.
    """
    for every in (FEW, 1):
        fit = _solve_on_pixels(fit, earlier, later, shared, axis, settings, scale, every)
    return fit


def _solve_on_pixels(
    fit: PointFit,
    earlier: ChunkGeometry,
    later: ChunkGeometry,
    shared: Correspondences,
    axis: DepthAxis | None,
    settings: AlignmentSettings,
    scale: float | None,
    every: int,
) -> PointFit:
    threshold = float(confidence_threshold(shared, settings))
    pairs = shared_frames(earlier, later)
    sums = MomentSums(len(pairs) * STRIPS, shared.later.mean(dim=0), shared.earlier.mean(dim=0))
    to_residual, width = sums.residual_of_columns(fit.sim3), shared.earlier.new_tensor(fit.width)
    to_middle = sums.source_of_columns() + to_residual / 2
    for number, (row_earlier, row_later) in enumerate(pairs):
        rows = ((earlier, row_earlier), (later, row_later))
        valid = earlier.valid[row_earlier] & later.valid[row_later]
        maps = to_residual
        if axis is not None:
            to_depth = axis.direction[number] @ to_middle
            to_depth[0] += axis.offset[number]
            maps = torch.cat([to_residual, to_depth[None]])
        for strip, part in _blocks(shared.image_hw, every):
            target, source = (chunk.world_points[row, part].flatten(0, 1) for chunk, row in rows)
            one, other = (chunk.confidence[row, part].flatten() for chunk, row in rows)
            columns = sums.columns(source, target)
            weights = (one.double() * other).sqrt()
            seen = maps @ columns
            residuals = seen[:3].square().sum(dim=0).sqrt()
            keep = valid[part].flatten() & (one >= threshold) & (other >= threshold)
            finite = residuals.isfinite() & weights.isfinite()
            if not finite.all():
                columns, seen, residuals = columns[:, finite], seen[:, finite], residuals[finite]
                weights, keep = weights[finite], keep[finite]
            weights = weights * keep
            if fit.curve is not None:
                noise = fit.curve.at(seen[3])
                residuals, weights = residuals / noise, weights / noise.square()
            factors = robust_factors(residuals, width, settings.robust, settled=True)
            sums.add(number * STRIPS + strip, columns, weights * factors)
    sim3 = sums.moments().similarity(scale)
    return replace(
        fit, sim3=sim3, covariance=sums.covariance(sim3, torch.arange(len(pairs) * STRIPS) // STRIPS)
    )


def _blocks(image_hw: tuple[int, int], every: int) -> Iterator[tuple[int, slice]]:
    """(strip, rows) of a frame, block by block, and of the rows every so manyth."""
    height, width = image_hw
    step = max(1, BLOCK // width) * every
    for strip in range(STRIPS):
        start, stop = (-(-number * height // STRIPS) for number in (strip, strip + 1))
        for first in range(start, stop, step):
            yield strip, slice(first, min(first + step, stop), every)
