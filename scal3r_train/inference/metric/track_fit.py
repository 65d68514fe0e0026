"""The similarity that lays a scene's camera centres over a track in metres, and how sure its scale is.

Least squares in the track, since its error is the larger one: a fit that treats both alike would take the receiver's
noise for length. Entries that lie far off lose weight first (`fit_robust`). A camera that drives straight on leaves the
turn about its line open; then gravity decides, as the cameras show it (people hold them upright). Shapes: M pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.geometry.sim3_fit import RobustFitSettings, fit_robust, fit_umeyama
from scal3r_train.inference.metric.jackknife import jackknife_std

WIDTH = 2.5  # of the median misfit: up to it entries count fully, as all but the worst of Gaussian ones do
NUM_ROUNDS = 8
STD_OF_MEDIAN = 1.4826  # times the median absolute value of a Gaussian variable is its standard deviation
MIN_LENGTH_RATIO = 3.0  # a track shorter than that many of its errors shows no scale
LINE_RATIO = 3.0  # a track whose width is below that many of its errors is a line
MIN_WIDTH = 1e-3  # of its length: below it is a line however exact it is
UP = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class TrackFit:
    """What `fit_track` found.

    Attributes:
        track_from_world: the similarity.
        weights: [M] in (0, 1], what is left of each entry.
        relative_std: error of the scale, one standard deviation as a share; None with too few entries.
        std_m: robust standard deviations of the misfit along x, y and z, [3] metres.
        is_line: whether the turn about the track's line is open.
        radius_m: root mean square distance of the positions from their middle.
    """

    track_from_world: Sim3
    weights: Tensor
    relative_std: float | None
    std_m: Tensor
    is_line: bool
    radius_m: float

    def std_of_independent(self, num: float) -> float:
        """Return the error of the scale, as a share, if only `num` of the entries err independently."""
        return float(self.std_m.norm() / math.sqrt(3)) / (self.radius_m * math.sqrt(max(num, 1.0)))


def fit_track(points: Tensor, positions: Tensor) -> TrackFit:
    """Fit points [M, 3] of the scene to positions [M, 3] in metres, entries in order of time.

    Raises:
        UserError: the camera does not move in the scene or in the track, or the track is shorter than its own error.
    """
    if not min(_extent(points), _extent(positions)) > 0:
        where = "scene" if _extent(positions) > 0 else "track"
        raise UserError(
            f"in the {where} the camera stays at one place, which shows no scale; take another source"
        )
    robust = fit_robust(points, positions, torch.ones(len(points)), RobustFitSettings())
    width = WIDTH * max(float(robust.residuals.median()), 1e-9 * float(_extent(positions)))
    fit, weights = _reweighted(points, positions, robust.sim3, width)
    misfit = positions - fit.apply(points)
    std = STD_OF_MEDIAN * misfit.abs().median(dim=0).values
    length, breadth, radius = _radii(positions, weights)
    error = float(std.norm() / math.sqrt(3))
    if not float(fit.scale) > 0 or length < MIN_LENGTH_RATIO * error:
        raise UserError(
            f"the camera's path and the track do not fit: the track is {length:.3g} m from its middle, and the path "
            f"lies {error:.3g} m from it; are they of one drive, and is alignment.metric.time_offset_s right?"
        )

    def log_scale(kept: np.ndarray) -> float:
        mask = torch.from_numpy(kept)
        without, _ = _reweighted(points[mask], positions[mask], fit, width)
        return math.log(max(float(without.scale), 1e-300))

    return TrackFit(
        fit,
        weights,
        jackknife_std(len(points), log_scale),
        std,
        is_line=breadth < max(LINE_RATIO * error, MIN_WIDTH * length),
        radius_m=radius,
    )


def _reweighted(points: Tensor, positions: Tensor, start: Sim3, width: float) -> tuple[Sim3, Tensor]:
    """The fit in which entries beyond `width` weigh (width / misfit)^2, from one near it, and those weights [M]."""
    fit = start
    for _ in range(NUM_ROUNDS):
        misfit = (positions - fit.apply(points)).norm(dim=1)
        weights = (width / misfit.clamp(min=width)) ** 2
        fit = fit_umeyama(points, positions, weights)
    return fit, weights


def turned_by_gravity(fit: Sim3, positions: Tensor, down: Tensor) -> Sim3:
    """Return the fit turned about the line of the positions [M, 3] until `down` [3] of the scene points down."""
    centred = positions - positions.mean(dim=0)
    axis = torch.linalg.svd(centred, full_matrices=False).Vh[0]
    now = -(fit.rotation @ down)
    across, wanted = now - axis * (axis @ now), UP - axis * (axis @ UP)
    angle = torch.atan2(axis @ torch.linalg.cross(across, wanted), across @ wanted)
    skew = torch.zeros(3, 3, dtype=torch.float64)
    skew[0, 1], skew[0, 2], skew[1, 2] = -axis[2], axis[1], -axis[0]
    turn = torch.linalg.matrix_exp(angle * (skew - skew.T))
    middle = positions.mean(dim=0)
    about = Sim3(torch.ones((), dtype=torch.float64), turn, middle - turn @ middle)
    return about @ fit


def _extent(points: Tensor) -> Tensor:
    """Largest side [] of the box of points [M, 3]."""
    return (points.max(dim=0).values - points.min(dim=0).values).max()


def _radii(points: Tensor, weights: Tensor) -> tuple[float, float, float]:
    """Weighted standard deviations of points [M, 3] along their longest and second longest axis, and in all."""
    share = weights / weights.sum()
    centred = points - (share[:, None] * points).sum(dim=0)
    variances = torch.linalg.eigvalsh(centred.T @ (share[:, None] * centred)).clamp(min=0)
    return math.sqrt(float(variances[2])), math.sqrt(float(variances[1])), math.sqrt(float(variances.sum()))
