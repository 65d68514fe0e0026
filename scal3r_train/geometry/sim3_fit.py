"""Fitting a similarity to corresponding points: closed forms, and one that survives outliers.

All fits take corresponding points `source`, `target` [N, 3] of any floating type, compute in float64 (float32
sums over millions of points lose 1e-3 and more, docs/numerics.md#closed-form) and return `Sim3` target_from_source.
Points on a plane or a line are fine: a reflection is never returned, and where the data leave a rotation open
(about the line) any proper one is. Shapes: N points.

Sources: Kabsch 1976; Umeyama 1991; Horn 1988 for the symmetric scale; docs/numerics.md#closed-form and
docs/numerics.md#robust-fit.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from scal3r_train.config import StrictModel
from scal3r_train.geometry.sim3 import Sim3

NEARLY_SETTLED = 1e-3  # of the scene's scale: from here on the symmetric scale is safe to use
SMALLEST_WIDTH = 1e-12  # of the scene's scale: below float64's own rounding of the residuals
REFERENCE_ANGLE_DEG = 0.1


class RobustFitSettings(StrictModel):
    """How `fit_robust` reweights points and when it stops."""

    method: Literal["redescending", "huber"] = Field(
        "redescending",
        description="weight of a residual r beyond the width d: (d/r)^2, or (d/r) as the reference has it",
    )
    relative_width: float = Field(
        1.0, gt=0, le=10, description="width d as a multiple of the median residual of each round [factor]"
    )
    huber_delta: float | None = Field(
        None,
        gt=0,
        description="fixed width instead (reference: 0.1), not invariant to scale [scene units]",
    )
    max_rounds: int = Field(
        50, ge=0, le=1000, description="reweighted solves after the first (reference: 5) [rounds]"
    )
    tolerance: float = Field(
        1e-8,
        gt=0,
        lt=1,
        description="stop when points move less than this, in median, relative to the scene's scale [share]",
    )
    discard_last_estimate: bool = Field(
        default=False,
        description="stop as the reference does (parameters, cost) and return the estimate before the last",
    )


REFERENCE_FIT = RobustFitSettings(
    method="huber", huber_delta=0.1, max_rounds=5, tolerance=1e-9, discard_last_estimate=True
)


@dataclass(frozen=True, eq=False)
class RobustFit:
    """What `fit_robust` found.

    `residuals` [N] are distances |y - (s R x + t)| under `sim3`; `width` is the residual up to which a point
    counts fully; `solves` are all closed-form estimates in order, the unreweighted one first.
    """

    sim3: Sim3
    residuals: Tensor
    width: float
    solves: tuple[Sim3, ...]
    converged: bool


def fit_kabsch(source: Tensor, target: Tensor) -> Sim3:
    """The rigid transform (scale 1) of least squares, all points weighing the same.

    `align: se3` of the metrics, `alignment.mode: se3` of seams.
    """
    moments = _moments(source, target, torch.ones_like(source[:, 0]))
    rotation, _ = _closest_rotation(moments.covariance)
    return moments.place(source.new_ones((), dtype=torch.float64), rotation)


def fit_umeyama(source: Tensor, target: Tensor, weights: Tensor | None = None) -> Sim3:
    """The similarity of least squares in the target, all points weighing the same (`align: sim3` of the metrics,
    `alignment.mode: sim3_unweighted` of seams; their default `sim3` is `fit_robust`) or as `weights` [N] >= 0 say.

    The scale is the trace formula with population variances. Source points that all coincide (a camera that
    never moves) have no scale: the result is then scale 0, no rotation, and the target's centroid as
    translation, which is the least-squares answer.
    """
    return _fit_by_trace(source, target, torch.ones_like(source[:, 0]) if weights is None else weights)


def fit_weighted(source: Tensor, target: Tensor, weights: Tensor) -> Sim3:
    """The weighted similarity of docs/numerics.md#closed-form; weights [N] >= 0 of any sum > 0.

    Its scale is the ratio of the rms radii about the centroids. That treats source and target alike (Horn):
    noise in the source does not shrink it, so a chain of such fits keeps its scale, where the trace formula
    loses a little at each joint. It bends to distant outliers more than the trace formula does.
    """
    moments = _moments(source, target, weights)
    rotation, _ = _closest_rotation(moments.covariance)
    return moments.place((moments.target_variance / moments.source_variance).sqrt(), rotation)


def fit_robust(
    source: Tensor, target: Tensor, weights: Tensor, settings: RobustFitSettings, scale: float | None = None
) -> RobustFit:
    """Iteratively reweighted fit (docs/numerics.md#robust-fit): points that fit badly lose weight, round by round.

    The default differs from the reference where that is not invariant to scale or returns a stale estimate
    (see there). The width follows the median residual, so it means the same in metres and in chunk units and
    shrinks as the fit improves; the weight beyond it falls with the square of the residual, so that the pull
    of an outlier vanishes with its distance. The trace formula's scale is used until the estimate is nearly
    settled, and the symmetric one of `fit_weighted` after. Measured on synthetic clouds: 40 % of outliers at
    100 times the scene's size are harmless, while Huber weights with the symmetric scale alone fail at 20 %.
    With `scale` that scale is kept and rotation and translation are fitted (1: a robust SE(3) fit).
    """
    assert scale is None or scale > 0
    source, target, weights = source.double(), target.double(), weights.double()
    if settings.discard_last_estimate and scale is None:
        return _fit_like_reference(source, target, weights, settings)
    scene_scale = spread(target)
    symmetric = settings.method == "huber" or scale is not None

    def fit(factors: Tensor | float) -> Sim3:
        if scale is not None:
            return _fit_with_scale(source, target, weights * factors, scale)
        return (fit_weighted if symmetric else _fit_by_trace)(source, target, weights * factors)

    solves = [fit(1.0)]
    moved, converged = solves[0].apply(source), False
    while len(solves) <= settings.max_rounds and not converged:
        residuals = (target - moved).norm(dim=1)
        factors = _factors(residuals, _width(residuals, weights, scene_scale, settings), settings)
        solves.append(fit(factors))
        previous, moved = moved, solves[-1].apply(source)
        step = (moved - previous).norm(dim=1).median() / scene_scale
        converged = symmetric and bool(step < settings.tolerance)
        symmetric = symmetric or bool(step < NEARLY_SETTLED)
    measured = _measured(solves[-1], source, target, weights, settings)
    return RobustFit(solves[-1], *measured, tuple(solves), converged)


def spread(points: Tensor) -> Tensor:
    """Size of a point set [N, 3]: median distance from its coordinate-wise median; a [] tensor."""
    return (points - points.median(dim=0).values).norm(dim=1).median()


def _fit_like_reference(
    source: Tensor, target: Tensor, weights: Tensor, settings: RobustFitSettings
) -> RobustFit:
    """The release's fit to the letter (docs/numerics.md#robust-fit): it returns the estimate before the newest."""
    scene_scale = spread(target)
    solves = [fit_weighted(source, target, weights)]
    accepted, previous_cost, converged = solves[0], float("inf"), False
    for _ in range(settings.max_rounds):
        residuals = (target - accepted.apply(source)).norm(dim=1)
        width = _width(residuals, weights, scene_scale, settings)
        solves.append(fit_weighted(source, target, weights * _factors(residuals, width, settings)))
        huber = torch.where(residuals <= width, residuals**2 / 2, width * (residuals - width / 2))
        cost = (weights * huber).sum().item()
        if _parameters_settled(accepted, solves[-1], settings.tolerance) or (
            abs(previous_cost - cost) < settings.tolerance * previous_cost
        ):
            converged = True
            break
        accepted, previous_cost = solves[-1], cost
    measured = _measured(accepted, source, target, weights, settings)
    return RobustFit(accepted, *measured, tuple(solves), converged)


def _measured(
    chosen: Sim3, source: Tensor, target: Tensor, weights: Tensor, settings: RobustFitSettings
) -> tuple[Tensor, float]:
    """Residuals [N] of the chosen estimate, and the width that follows from them."""
    residuals = (target - chosen.apply(source)).norm(dim=1)
    return residuals, float(_width(residuals, weights, spread(target), settings))


def _width(residuals: Tensor, weights: Tensor, scene_scale: Tensor, settings: RobustFitSettings) -> Tensor:
    """Residual [] up to which points keep their weight."""
    if settings.huber_delta is not None:
        return residuals.new_tensor(settings.huber_delta)
    order = residuals.argsort()
    cumulative = weights[order].cumsum(0)
    median = residuals[order][torch.searchsorted(cumulative, cumulative[-1] / 2)]
    return torch.maximum(settings.relative_width * median, SMALLEST_WIDTH * scene_scale)


def _factors(residuals: Tensor, width: Tensor, settings: RobustFitSettings) -> Tensor:
    """Factors [N] in (0, 1] on the weights of points with the given residuals [N]."""
    ratio = width / torch.maximum(residuals, width)
    return ratio if settings.method == "huber" else ratio**2


def _parameters_settled(old: Sim3, new: Sim3, tolerance: float) -> bool:
    """The reference's test on two estimates, in the target's units and degrees."""
    change = (new.scale - old.scale).abs() + (new.translation - old.translation).norm()
    cosine = ((new.rotation @ old.rotation.T).trace() - 1) / 2
    angle = torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))
    return bool(change < tolerance) and bool(angle < REFERENCE_ANGLE_DEG)


@dataclass(frozen=True, eq=False)
class _Moments:
    """Weighted moments of two point sets, float64; covariance [3, 3] = E[source target^T]."""

    source_mean: Tensor
    target_mean: Tensor
    source_variance: Tensor
    target_variance: Tensor
    covariance: Tensor

    def place(self, scale: Tensor, rotation: Tensor) -> Sim3:
        """The similarity with this scale and rotation that maps centroid onto centroid."""
        return Sim3(scale, rotation, self.target_mean - scale * (rotation @ self.source_mean))


def _moments(source: Tensor, target: Tensor, weights: Tensor) -> _Moments:
    """Moments of corresponding points [N, 3] under weights [N] (normalised here)."""
    assert source.shape == target.shape == (len(weights), 3), (source.shape, target.shape, weights.shape)
    source, target, weights = source.double(), target.double(), weights.double()
    total = weights.sum()
    assert total > 0, "correspondences without weight"
    weights = weights / total
    source_mean, target_mean = weights @ source, weights @ target
    source, target = source - source_mean, target - target_mean
    source_variance, target_variance = weights @ source.square().sum(1), weights @ target.square().sum(1)
    covariance = (source * weights[:, None]).T @ target
    return _Moments(source_mean, target_mean, source_variance, target_variance, covariance)


def _closest_rotation(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The proper rotation R maximising trace(R covariance), and that trace (a reflection is never taken)."""
    u, singular_values, v_transposed = torch.linalg.svd(covariance)
    sign = torch.sign(torch.linalg.det(u) * torch.linalg.det(v_transposed))
    signs = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign])
    return (v_transposed.T * signs) @ u.T, (singular_values * signs).sum()


def _fit_with_scale(source: Tensor, target: Tensor, weights: Tensor, scale: float) -> Sim3:
    """Weighted least squares over rotation and translation."""
    moments = _moments(source, target, weights)
    rotation, _ = _closest_rotation(moments.covariance)
    return moments.place(moments.covariance.new_tensor(scale), rotation)


def _fit_by_trace(source: Tensor, target: Tensor, weights: Tensor) -> Sim3:
    """Weighted Umeyama; scale 0 for coinciding source points."""
    moments = _moments(source, target, weights)
    if moments.source_variance <= (1e-12 * moments.source_mean.norm()) ** 2:
        zero, eye = moments.source_variance.new_zeros(()), torch.eye(3).to(moments.covariance)
        return moments.place(zero, eye)
    rotation, trace = _closest_rotation(moments.covariance)
    return moments.place(trace / moments.source_variance, rotation)
