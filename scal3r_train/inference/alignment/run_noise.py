"""What the seams of a run say about the errors of its chunks: measured, not assumed.

From the wander of all seams (`seam_wander.py`), mean squares of the difference of two pieces that lie l quarters of an
overlap apart are fitted by a + b l^2. The first part is what each fit errs by itself: a fit to a whole overlap has a
variance of a / 8 (four pieces, each with a / 2). The second grows along a chunk: between the middles of its two
overlaps, L quarters apart, a chunk has drifted with a variance of b L^2 / 2; b is taken a standard error low, for it is
extrapolated. Where the whole differs from its pieces by more than a / 8, that difference is its variance. Along a chain
such differences may cancel (a chunk whose depths are too long makes the seam before it too large, and the one after it
too small) or add up; their sums over a quarter of the chain say which. No seam counts for more than OUTLYING times
the upper quartile.

Three numbers each: translation as a share of the points' spread, rotation in radians, logarithm of the scale; variances
of one component.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scal3r_train.inference.alignment.seam import SeamQuality
from scal3r_train.inference.alignment.seam_wander import PIECES

LEAST_SEAMS = 3
LEAST_SQUARE = (
    1e-14  # what single precision cannot tell from nothing: chunks of one still picture may not differ at all
)
OUTLYING = 4.0
LEAST_SHARE = (
    0.25  # of the difference of adjacent pieces that counts as independent, however steep the growth looks
)


@dataclass(frozen=True, eq=False)
class RunNoise:
    """Errors that the seams of a run show.

    Attributes:
        fit: [3] variance of a seam whose residual and number of frames are the usual ones.
        growth: [3] variance by which a chunk drifts along one frame, times the square of the number of frames.
        residual: usual median residual of a seam, relative to the scene's scale.
        num_frames: usual number of frames of a seam.
    """

    fit: Tensor
    growth: Tensor
    residual: float
    num_frames: float

    @staticmethod
    def measured(qualities: Sequence[SeamQuality]) -> RunNoise | None:
        """Return the noise of a run by the quality of its seams; None when fewer than 3 of them show their wander."""
        known = [quality for quality in qualities if quality.wander is not None]
        if len(known) < LEAST_SEAMS:
            return None
        wander = [quality.wander for quality in known if quality.wander is not None]
        squares = torch.tensor([one.apart for one in wander], dtype=torch.float64).square()  # [E, 3, 3]
        clipped = torch.minimum(squares, OUTLYING * squares.quantile(0.75, dim=0))
        means, num = clipped.mean(dim=0).clamp(min=LEAST_SQUARE), len(known)
        apart = torch.arange(1, PIECES, dtype=torch.float64)[:, None]
        # Of each row: independent pairs of pieces in all seams, three components (the scale has one).
        pairs = num * (PIECES - apart) * torch.tensor([3.0, 3.0, 1.0], dtype=torch.float64)
        weight = pairs / (2 * means.square())
        total = weight.sum(dim=0)
        middle = (weight * apart.square()).sum(dim=0) / total
        lever = weight * (apart.square() - middle)
        curvature = (lever * (apart.square() - middle)).sum(dim=0)
        growth = ((lever * means).sum(dim=0) / curvature - curvature.rsqrt()).clamp(min=0)
        independent = torch.maximum(means[0] - growth, LEAST_SHARE * means[0])
        misfit = _of_misfits(torch.tensor([one.misfit for one in wander], dtype=torch.float64))
        few = num / (
            num - 2
        )  # what an estimate from few samples may have missed (Student's t has this variance)
        frames = float(torch.tensor([float(quality.num_frames) for quality in known]).median())
        return RunNoise(
            fit=few * torch.maximum(independent / (2 * PIECES), misfit),
            growth=few * growth / 2 * (PIECES / frames) ** 2,
            residual=float(torch.tensor([float(quality.residual_median or 0) for quality in known]).median()),
            num_frames=frames,
        )

    def fit_variance(self, quality: SeamQuality) -> Tensor:
        """Return [3] of one seam, by its residual and number of frames, or its own where that is far more."""
        if quality.residual_median is None or quality.wander is None:
            return self.fit
        ratio = quality.residual_median / self.residual if self.residual > 0 else 1.0
        usual = self.fit * max(1.0, ratio) ** 2 * max(1.0, self.num_frames / quality.num_frames)
        adjacent = torch.tensor(quality.wander.apart[0], dtype=torch.float64).square()
        own = adjacent / (2 * PIECES)
        return torch.where(own > OUTLYING * usual, own, usual)

    def drift_variance(self, num_frames: float) -> Tensor:
        """Return [3] by which a chunk drifts along so many frames."""
        return self.growth * num_frames**2


def _of_misfits(misfits: Tensor) -> Tensor:
    """What the differences [E, 7] of wholes from their pieces add to a chain's variance, at each seam, [3].

    That is the mean square of their sums over stretches of the chain, by the number of seams of a stretch.
    """
    limit = OUTLYING**0.5 * misfits.abs().quantile(0.75, dim=0)
    length = max(2, len(misfits) // 4)
    sums = misfits.clamp(-limit, limit).unfold(0, length, 1).sum(dim=2)
    return _by_kind(sums.square().mean(dim=0) / length)


def _by_kind(values: Tensor) -> Tensor:
    """Means [3] over the components of translation, of rotation and of log scale of values [7]."""
    return torch.stack([values[:3].mean(), values[3:6].mean(), values[6]])
