"""How large every chunk is, by its seams and by what all chunks have in common, and the chain of seams with that.

A seam measures the ratio of two neighbours' scales with an error; chunks whose memory was shared are predicted in one
scale up to a spread. `scale_spread` makes one estimate of both. A seam whose scale is changed turns and moves as its
covariance says it must: about the middle of what it was fitted to. The chain of such seams is the optimum of a pose
graph of seams and scales, in closed form (docs/alignment.md).

Shapes: K chunks, K - 1 seams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scal3r_train.geometry import sim3_tangent
from scal3r_train.geometry.sim3 import Sim3, Sim3Batch
from scal3r_train.inference.alignment.scale_spread import ScaleEstimate, estimate_scales
from scal3r_train.inference.alignment.seam import Seam
from scal3r_train.inference.alignment.seam_covariance import scale_gain, seam_covariances
from scal3r_train.inference.alignment.settings import AlignmentSettings, SeamNoiseSettings


@dataclass(frozen=True, eq=False)
class ChunkScales:
    """Scales of all chunks as the seams say them, as they are estimated, and where the chunks lie with the latter.

    Attributes:
        estimate: scales and spreads.
        log_ratios: [K - 1] float64 of the seams.
        stated_stds: [K - 1] float64, the errors of these that the seams state.
        first_from_chunk: K similarities.
    """

    estimate: ScaleEstimate
    log_ratios: np.ndarray
    stated_stds: np.ndarray
    first_from_chunk: list[Sim3]

    @staticmethod
    def of(
        seams: Sequence[Seam], settings: AlignmentSettings, noise: SeamNoiseSettings
    ) -> ChunkScales | None:
        """Return the scales of all chunks; None where each seam's own is taken (no seam, another mode, turned off)."""
        if not seams or settings.mode != "sim3" or not settings.common_scale.enabled:
            return None
        covariances = seam_covariances(seams, noise)
        stated = covariances[:, 6, 6].sqrt().numpy()
        ratios = Sim3Batch.stack([seam.earlier_from_later for seam in seams]).scale.log().numpy()
        estimate = estimate_scales(ratios, stated, settings.common_scale)
        first_from_chunk = chain_with_scales(seams, covariances, estimate.log_scales)
        return ChunkScales(estimate, ratios, stated, first_from_chunk)

    def after(self, placed: Sequence[Sim3], last: Seam, noise: SeamNoiseSettings) -> ChunkScales:
        """Return the same with chunks that stay where they were `placed` [K - 1], and the last one joined to them.

        Its scale is what all seams say now, about the common value of those that have been placed.
        """
        said = self.estimate.log_scales
        before = np.array([float(sim3.scale.log()) for sim3 in placed])
        scales = np.append(before, said[-1] + (before - said[:-1]).mean())
        (relative,) = _rescaled([last], seam_covariances([last], noise), scales[-1:] - scales[-2:-1])
        estimate = replace(self.estimate, log_scales=scales)
        return replace(self, estimate=estimate, first_from_chunk=[*placed, placed[-1] @ relative])

    def with_variances(self, covariances: Tensor, variances: np.ndarray) -> Tensor:
        """Return the seams' covariances [K - 1, 7, 7] with other variances [K - 1] of their log-scales.

        What of the other errors follows from those of scale goes along.
        """
        gain = scale_gain(covariances)
        change = torch.from_numpy(variances) - covariances[:, 6, 6]
        return covariances + change[:, None, None] * gain[:, :, None] * gain[:, None, :]

    def as_dict(self, world_from_chunk: Sequence[Sim3]) -> dict[str, Any]:
        """Return plain values for scene.json (`SceneInfo.chunk_scales`), scales `after` from `world_from_chunk`."""
        estimate = self.estimate
        before = np.exp(np.concatenate([[0.0], np.cumsum(self.log_ratios)]))
        return {
            "chunk_std": estimate.chunk_std,
            "seam_std": float(np.median(estimate.noise_factor * self.stated_stds)),
            "noise_factor": estimate.noise_factor,
            "drift_share": estimate.drift_share,
            "before": before.tolist(),
            "after": [float(sim3.scale / world_from_chunk[0].scale) for sim3 in world_from_chunk],
        }


def with_estimated_scales(covariances: Tensor, scales: ChunkScales | None) -> Tensor:
    """Return the seams' covariances [K - 1, 7, 7] with the errors of scale that the estimate found, if there is one."""
    return (
        covariances if scales is None else scales.with_variances(covariances, scales.estimate.seam_variances)
    )


def chain_with_scales(seams: Sequence[Seam], covariances: Tensor, log_scales: np.ndarray) -> list[Sim3]:
    """Return first_from_chunk of all K chunks when they have given log-scales [K].

    Args:
        seams: of all chunks.
        covariances: [K - 1, 7, 7] of the seams, which say how a seam follows its scale.
        log_scales: up to a constant.
    """
    first_from_chunk = [Sim3.identity()]
    for relative in _rescaled(seams, covariances, np.diff(log_scales)):
        first_from_chunk.append(first_from_chunk[-1] @ relative)
    return first_from_chunk


def _rescaled(seams: Sequence[Seam], covariances: Tensor, log_ratios: np.ndarray) -> list[Sim3]:
    """earlier_from_later of every seam with another log-ratio, the rest as its covariance says."""
    measured = Sim3Batch.stack([seam.earlier_from_later for seam in seams])
    change = torch.from_numpy(np.asarray(log_ratios)) - measured.scale.log()
    return (measured @ sim3_tangent.exp(scale_gain(covariances) * change[:, None])).unstack()
