"""How far a seam can be wrong: the covariance of a similarity fitted to points (docs/alignment.md).

A fit to points about their middle has independent errors there: rotation and log scale by about the relative residual,
translation by that times the spread of the points. Neighbouring pixels err together, so a point counts only as a
fraction of a measurement. Seen from the chunk's origin, which may lie far from the points, the same errors move by
the adjoint. Tangent vectors are (tau, phi, sigma) in the later chunk's frame.

Shapes: E seams.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scal3r_train.geometry.sim3 import Sim3Batch
from scal3r_train.geometry.sim3_tangent import adjoint
from scal3r_train.inference.alignment.seam import Seam
from scal3r_train.inference.alignment.settings import SeamNoiseSettings


def seam_covariances(seams: Sequence[Seam], settings: SeamNoiseSettings) -> Tensor:
    """Covariances [E, 7, 7] of at least one seam, for earlier_from_later @ Exp(error).

    A seam without points has no spread of its own: it takes the median of the others', or 1. One by cameras that
    measured their own noise has that covariance, and the least error on top.
    """
    known = [seam.quality.spread / seam.quality.scale for seam in seams if seam.quality.spread is not None]
    usual_spread = float(torch.tensor(known).median()) if known else 1.0
    later_from_earlier = Sim3Batch.stack([seam.earlier_from_later for seam in seams]).inverse()
    stds, middles = [], []
    for seam in seams:
        spread = usual_spread if seam.quality.spread is None else seam.quality.spread / seam.quality.scale
        relative = _relative_std(seam, settings)
        stds.append([relative * spread] * 3 + [relative] * 4)
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
    return covariances


def _is_measured(seam: Seam) -> bool:
    return seam.quality.method == "cameras" and seam.covariance is not None


def _relative_std(seam: Seam, settings: SeamNoiseSettings) -> float:
    quality = seam.quality
    if quality.method == "break":
        return settings.break_relative_std
    if _is_measured(seam):
        return settings.min_relative_std
    if quality.residual_median is None:
        return settings.cameras_relative_std
    num_measurements = max(1.0, quality.num_points / settings.points_per_measurement)
    std = max(quality.residual_median / num_measurements**0.5, settings.min_relative_std)
    return std if quality.trusted else std * settings.untrusted_factor
