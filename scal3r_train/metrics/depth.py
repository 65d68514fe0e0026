"""Errors of a depth map after scaling by medians: AbsRel, delta thresholds, RMSE.

Valid are pixels whose true depth is above 0 and, for `depth_errors`, whose estimate is too. The scale is the ratio of
the median true depth to the median estimate (of an even number of pixels the lower of the two middle ones), as in
Zhou et al. 2017. The measures are those of Eigen et al. 2014.
Shapes: ... any leading axes, S frames, H W pixels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor

from scal3r_train.config import UserError

DepthScale = Literal["per_sequence", "per_frame", "none"]


@dataclass(frozen=True)
class DepthErrors:
    """Errors of the depth of one sequence.

    `abs_rel`: mean of |s d - t| / t for estimate d, truth t and scale s. `delta_1`, `delta_2`, `delta_3`: share of
    pixels with max(s d / t, t / s d) below 1.25, 1.25^2, 1.25^3. `rmse_m`: rms of s d - t, in the truth's units.
    `num_pixels` valid ones in `num_frames` frames that have any; `valid_share`: of the pixels with true depth, those
    that have an estimate.
    """

    abs_rel: float
    delta_1: float
    delta_2: float
    delta_3: float
    rmse_m: float
    num_pixels: int
    num_frames: int
    valid_share: float

    def as_dict(self) -> dict[str, float | int]:
        """Field names and values."""
        return asdict(self)


def abs_rel_after_median(estimate: Tensor, truth: Tensor) -> Tensor:
    """Return the mean of |s * estimate - truth| / truth over valid pixels, s from the ratio of medians.

    Args:
        estimate, truth: depth of one scene, any equal shape; truth 0 is invalid. NaN when nothing is valid.

    Nothing is read back from the device.
    """
    invalid = truth <= 0
    ours, true = (depth.masked_fill(invalid, float("nan")) for depth in (estimate, truth))
    scale = true.nanmedian() / ours.nanmedian()
    errors = ((scale * ours - true).abs() / true).masked_fill(invalid, 0.0)
    return errors.sum() / (~invalid).sum()


def depth_errors(estimate: Tensor, truth: Tensor, scale: DepthScale = "per_sequence") -> DepthErrors:
    """Return the errors of z-depth [S, H, W] of one sequence; 0, negative and not finite depth is no depth.

    Args:
        estimate, truth: of equal shape, each in its own unit.
        scale: "per_sequence": one scale for all frames, and all valid pixels weigh the same. "per_frame": each frame
            has its own scale, errors are taken per frame and averaged over the frames (the rms as mean of squares).
            "none": scale 1, weighed as per_sequence.

    Raises:
        UserError: no pixel has both an estimate and a true depth.
    """
    assert estimate.shape == truth.shape == (len(truth), *truth.shape[1:3]), (estimate.shape, truth.shape)
    estimate, truth = estimate.double(), truth.double()
    has_truth = truth.isfinite() & (truth > 0)
    valid = has_truth & estimate.isfinite() & (estimate > 0)
    if not valid.any():
        raise UserError("no pixel has both an estimated and a true depth; check the depth files")
    if scale == "per_frame":
        frames = [(estimate[frame][valid[frame]], truth[frame][valid[frame]]) for frame in range(len(truth))]
        parts = [(ours, true, true.median() / ours.median()) for ours, true in frames if len(true)]
    else:
        ours, true = estimate[valid], truth[valid]
        parts = [
            (ours, true, true.median() / ours.median() if scale == "per_sequence" else true.new_ones(()))
        ]
    means = torch.stack([_mean_errors(factor * ours, true) for ours, true, factor in parts]).mean(dim=0)
    abs_rel, delta_1, delta_2, delta_3, square = means.tolist()
    return DepthErrors(
        abs_rel=abs_rel,
        delta_1=delta_1,
        delta_2=delta_2,
        delta_3=delta_3,
        rmse_m=square**0.5,
        num_pixels=int(valid.sum()),
        num_frames=int(valid.flatten(1).any(dim=1).sum()),
        valid_share=float(valid.sum() / has_truth.sum()),
    )


def _mean_errors(ours: Tensor, true: Tensor) -> Tensor:
    """Return [5]: AbsRel, three shares, mean square, of scaled depth [N] and true depth [N]."""
    ratio = torch.maximum(ours / true, true / ours)
    shares = [(ratio < 1.25**power).double().mean() for power in (1, 2, 3)]
    return torch.stack([((ours - true).abs() / true).mean(), *shares, (ours - true).square().mean()])
