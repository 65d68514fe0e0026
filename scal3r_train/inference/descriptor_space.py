"""The space in which the descriptors of one sequence are compared: centred, whitened, averaged over time.

Raw descriptors of one video are all alike: what the frames share drowns what tells them apart. So the mean of the
sequence is removed, and its principal directions are evened out (Jegou and Chum, ECCV 2012), here half way: each is
divided by the square root of its standard deviation, which keeps more of what is strong than full whitening does. A
mean over neighbouring frames then keeps what a place looks like and averages out what a single frame does.

Shapes: S frames, D numbers of a descriptor, E kept directions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_FITTED_FRAMES = 1024
NEGLIGIBLE = 1e-5


def comparison_space(descriptors: Tensor, num_components: int, temporal_window: int) -> Tensor:
    """Return unit vectors whose inner products are the similarities of frames, [S, E] float32 on the same device.

    A frame that cannot be told from the sequence's mean becomes zeros: it resembles nothing.

    Args:
        descriptors: [S, D], one per frame in temporal order.
        num_components: how many principal directions are kept; 0 compares the descriptors as they are.
        temporal_window: odd number of frames whose mean stands for the middle one; 1 for each alone.
    """
    if num_components > 0 and len(descriptors) > 0:
        space = _whiten(descriptors.float(), num_components)
    else:
        space = F.normalize(descriptors.float(), dim=1)
    return _average_over_time(space, temporal_window) if temporal_window > 1 else space


def _whiten(descriptors: Tensor, num_components: int) -> Tensor:
    """Return half-whitened unit vectors, [S, E] float32; fitted in float64 on evenly spaced frames."""
    magnitude = descriptors.norm(dim=1).max()
    mean = descriptors.mean(dim=0, dtype=torch.float64)
    fitted = descriptors[:: -(-len(descriptors) // MAX_FITTED_FRAMES)].double() - mean
    # The eigenvectors of the small Gram matrix lead to the principal directions, however long a descriptor is.
    energies, vectors = torch.linalg.eigh(fitted @ fitted.mT)
    spreads = energies.clamp_min(0).sqrt().flip(0)[:num_components]
    vectors = vectors.flip(1)[:, :num_components]
    # What is left of equal frames after centring is rounding; stretched to unit length it would pass for a signal.
    kept = spreads > NEGLIGIBLE * magnitude
    spreads, vectors = spreads[kept], vectors[:, kept]
    directions = (fitted.mT @ vectors / spreads).float()  # [D, E], orthonormal
    parts = [(part - mean.float()) @ directions for part in descriptors.split(MAX_FITTED_FRAMES)]
    projected = torch.cat(parts)
    faint = projected.norm(dim=1, keepdim=True) <= NEGLIGIBLE * magnitude
    return F.normalize(projected / spreads.sqrt().float(), dim=1).masked_fill(faint, 0)


def _average_over_time(space: Tensor, window: int) -> Tensor:
    """Return each frame's mean with its neighbours, of unit length; at the ends with those that there are."""
    half = window // 2
    frames = torch.arange(len(space), device=space.device)
    total = F.pad(space.double().cumsum(dim=0), (0, 0, 1, 0))
    sums = total[(frames + half + 1).clamp_max(len(space))] - total[(frames - half).clamp_min(0)]
    # Sums of opposite vectors, or of zeros, leave rounding only.
    return F.normalize(sums, dim=1).masked_fill(sums.norm(dim=1, keepdim=True) <= NEGLIGIBLE, 0).float()
