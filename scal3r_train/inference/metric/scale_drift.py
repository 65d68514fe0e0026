"""How far two cameras may be from where the seams put them, compared with the scene as a whole.

The seams' covariances (docs/alignment.md) say how each may err. Many chains are drawn from them; each is laid over the
one that was found, as a similarity fits it, and the distance of the two cameras in it is compared. So a chain's drift
between the two frames counts, and that of the scale from one end of the scene to the other, but not what the whole has
in common. Loops make the true error smaller. Shapes: K chunks, F frames, D draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from scal3r_train.geometry import sim3_tangent
from scal3r_train.geometry.sim3 import Sim3, Sim3Batch
from scal3r_train.geometry.sim3_fit import fit_umeyama
from scal3r_train.inference.alignment.seam import Seam, chain
from scal3r_train.inference.alignment.seam_covariance import SeamErrors
from scal3r_train.inference.alignment.settings import SeamNoiseSettings
from scal3r_train.inference.metric.chunk_cameras import ChunkCameras

NUM_DRAWS = 100
MAX_FRAMES = 300  # that stand for the whole


def drift_of_distance(
    cameras: ChunkCameras, seams: Sequence[Seam], frames: tuple[int, int], noise: SeamNoiseSettings
) -> float:
    """Return the standard deviation, as a share, of the distance between two frames' cameras by the seams' errors."""
    num_frames = cameras.layout.ranges[-1].stop
    whole = np.arange(0, num_frames, max(1, -(-num_frames // MAX_FRAMES)))
    at = np.concatenate([np.array(frames), whole]).astype(np.float64)
    chunk, points = cameras.points(at)
    found = cameras.placed(at, chain(seams))
    covariances = SeamErrors.of(seams, cameras.layout.ranges, noise).covariances if seams else None
    scale, rotation, translation = (values[chunk] for values in _drawn_chains(seams, covariances))
    centres = scale[..., None] * (rotation @ points[:, None, :, None])[..., 0] + translation  # [F, D, 3]
    distance = (found[0] - found[1]).norm()
    logs = []
    for draw in range(NUM_DRAWS):
        of_whole = fit_umeyama(centres[2:, draw], found[2:]).scale
        logs.append((of_whole * (centres[0, draw] - centres[1, draw]).norm() / distance).log())
    return float(torch.stack(logs).square().mean().sqrt())


def _drawn_chains(seams: Sequence[Seam], covariances: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Scales [K, D], rotations [K, D, 3, 3] and translations [K, D, 3] of all chunks, the first of which stays."""
    place = Sim3Batch.stack([Sim3.identity()] * NUM_DRAWS)
    drawn = [place]
    if covariances is not None:
        roots = torch.linalg.cholesky(covariances)
        generator = torch.Generator().manual_seed(0)
        errors = torch.randn(len(seams), NUM_DRAWS, 7, generator=generator, dtype=torch.float64)
        errors = (roots[:, None] @ errors[..., None])[..., 0]
        for seam, error in zip(seams, errors, strict=True):
            step = Sim3Batch.stack([seam.earlier_from_later] * NUM_DRAWS)
            place = place @ step @ sim3_tangent.exp(error)
            drawn.append(place)
    return (
        torch.stack([one.scale for one in drawn]),
        torch.stack([one.rotation for one in drawn]),
        torch.stack([one.translation for one in drawn]),
    )
