"""How far a seam can be wrong: the covariance of a similarity fitted to points (docs/alignment.md).

A fit to points about their middle has independent errors there: of translation, as a share of the points' spread, of
rotation and of log scale. How large they are, the seams of the run show (`run_noise.py`), and how far the chunk itself
drifts from one overlap to the next. Where too few seams show it, a model stands in: the relative residual over the root
of the number of measurements, and as neighbouring pixels err together, a point is only a fraction of one. Seen from the
chunk's origin, which may lie far from the points, the same errors move by the adjoint. Tangent vectors are (tau, phi,
sigma) in the later chunk's frame.

A seam by cameras shows how well the frames of an overlap agree, but not how well the motion along a chunk was measured:
two chunks that read the same pairs of frames err alike. That is what odometry drifts by, a rotation for each frame and
a share of the distance, known from drives with truth (`SeamNoiseSettings.odometry_*`).

Shapes: E seams.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from scal3r_train.geometry.sim3 import Sim3Batch
from scal3r_train.geometry.sim3_tangent import adjoint
from scal3r_train.inference.alignment.run_noise import RunNoise
from scal3r_train.inference.alignment.seam import Seam
from scal3r_train.inference.alignment.settings import SeamNoiseSettings


class Advance(NamedTuple):
    """How far a chunk moves on from the one before it: frames, and distance in the earlier chunk's units."""

    frames: float = 0.0
    distance: float = 0.0


@dataclass(frozen=True, eq=False)
class SeamErrors:
    """How far the seams of a run can be wrong, as the run shows it.

    Attributes:
        noise: measured; None with too few seams.
        advance: by which chunks usually follow one another.
        covariances: [E, 7, 7] of the seams, with the drift of the chunks that they join.
    """

    noise: RunNoise | None
    advance: Advance
    covariances: Tensor

    @staticmethod
    def of(seams: Sequence[Seam], ranges: Sequence[range], settings: SeamNoiseSettings) -> SeamErrors:
        """Return the errors of all E seams of a run; ranges: frames of its E + 1 chunks."""
        noise = RunNoise.measured([seam.quality for seam in seams])
        advances = [
            Advance(float(later.start - earlier.start), float(seam.earlier_from_later.translation.norm()))
            for (earlier, later), seam in zip(pairwise(ranges), seams, strict=True)
        ]
        covariances = seam_covariances(seams, settings, noise, advances)
        usual = torch.tensor([[one.frames, one.distance] for one in advances]).median(dim=0).values
        return SeamErrors(noise, Advance(*usual.tolist()), covariances)


def seam_covariances(
    seams: Sequence[Seam],
    settings: SeamNoiseSettings,
    noise: RunNoise | None = None,
    advances: Sequence[Advance] | None = None,
) -> Tensor:
    """Covariances [E, 7, 7] of at least one seam, for earlier_from_later @ Exp(error).

    A seam without points has no spread of its own: it takes the median of the others', or 1. One by cameras that
    measured their own noise has that covariance, and on top what odometry drifts by along the chunk; of the scale,
    unless it is given, the usual error of cameras, about the middle of those that the chunks share.

    Args:
        seams: E of them.
        settings: of what cannot be measured.
        noise: measured in this run; None: the model of `settings` for all.
        advances: of each seam, how far the chunk that it joins drifts on; None: it does not.
    """
    known = [seam.quality.spread / seam.quality.scale for seam in seams if seam.quality.spread is not None]
    usual_spread = float(torch.tensor(known).median()) if known else 1.0
    later_from_earlier = Sim3Batch.stack([seam.earlier_from_later for seam in seams]).inverse()
    stds: list[list[float]] = []
    middles: list[Sequence[float]] = []
    for seam, advance in zip(seams, advances or [Advance()] * len(seams), strict=True):
        scale = seam.quality.scale
        spread = usual_spread if seam.quality.spread is None else seam.quality.spread / scale
        if _is_measured(seam):
            stds.append(_odometry_stds(seam, settings, advance, spread))
            middles.append(seam.earlier_from_later.translation.tolist())
            continue
        translation, rotation, of_scale = _relative_stds(seam, settings, noise, advance.frames)
        stds.append([translation * spread] * 3 + [rotation] * 3 + [of_scale])
        middles.append(seam.quality.centre or seam.earlier_from_later.translation.tolist())
    middle = torch.tensor(middles, dtype=torch.float64)
    moved = (later_from_earlier.rotation @ middle[..., None])[..., 0]
    middle = later_from_earlier.scale[:, None] * moved + later_from_earlier.translation
    ones = torch.ones(len(seams), dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64).expand(len(seams), 3, 3)
    to_origin = adjoint(Sim3Batch(ones, eye, middle)) * torch.tensor(stds, dtype=torch.float64)[:, None, :]
    covariances = to_origin @ to_origin.transpose(1, 2)
    for place, seam in enumerate(seams):
        if _is_measured(seam):
            assert seam.covariance is not None
            covariances[place] += seam.covariance
            with_scale = scale_gain(seam.covariance)
            std = settings.cameras_relative_std
            if seam.quality.log_scale_std is None:  # given
                std = settings.min_relative_std
            covariances[place] += std**2 * torch.outer(with_scale, with_scale)
    return covariances


def scale_gain(covariances: Tensor) -> Tensor:
    """How all seven errors of seams follow that of their log-scale, [..., 7]: a change of scale about its middle."""
    return covariances[..., 6] / covariances[..., 6, 6, None]


def _is_measured(seam: Seam) -> bool:
    return seam.quality.method == "cameras" and seam.covariance is not None


def _odometry_stds(seam: Seam, settings: SeamNoiseSettings, advance: Advance, spread: float) -> list[float]:
    """Errors [7] of place and rotation at the later chunk's origin that the cameras of an overlap do not show."""
    least = settings.min_relative_std
    distance = advance.distance / seam.quality.scale
    translation = max(settings.odometry_distance_std * distance, least * spread)
    rotation = max(math.radians(settings.odometry_turn_std_deg) * advance.frames, least)
    return [translation] * 3 + [rotation] * 3 + [0.0]


def _relative_stds(
    seam: Seam, settings: SeamNoiseSettings, noise: RunNoise | None, advance: float
) -> list[float]:
    """Errors of one component of translation (over the points' spread), of rotation, and of log scale."""
    quality = seam.quality
    if quality.method == "cameras" or quality.residual_median is None:
        known = settings.break_relative_std if quality.method == "break" else settings.cameras_relative_std
        return [known] * 3
    if noise is None:
        num_measurements = max(1.0, quality.num_points / settings.points_per_measurement)
        std = max(quality.residual_median / num_measurements**0.5, settings.min_relative_std)
        return [std if quality.trusted else std * settings.untrusted_factor] * 3
    variance = noise.fit_variance(quality) + noise.drift_variance(advance)
    return variance.sqrt().clamp(min=settings.min_relative_std).tolist()
