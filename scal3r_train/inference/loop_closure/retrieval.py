"""Loop candidates: pairs of frames, far apart in time, whose descriptors say that they show one place.

First the descriptors are brought into a space in which they can be compared (`comparison_space`): raw ones of one video
are all alike, for what the frames share drowns what tells them apart. So the mean of the sequence is removed, and its
principal directions are evened out (Jegou and Chum, ECCV 2012), here half way: each is divided by the square root of
its standard deviation, which keeps more of what is strong than full whitening does. A mean over neighbouring frames
then keeps what a place looks like and averages out what a single frame does.

Then every frame asks for the frames most like it among those at least `min_gap` away in time, in blocks, so that no
S x S table is ever held. The pairs above a threshold are taken best first, and each silences its neighbourhood in time.
Candidates are guesses: geometry decides on them later (edges.py). docs/loop_closure.md has the steps,
docs/numerics.md#loop-candidates what the release does.

Shapes: S frames, D numbers of a descriptor, E kept directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from scal3r_train.config import UserError
from scal3r_train.inference.loop_closure.settings import LoopSettings

MAX_FITTED_FRAMES = 1024
NEGLIGIBLE = 1e-5
BLOCK_PAIRS = 1 << 19  # compared at once, so that memory does not grow with the length of the sequence
SAMPLED_FRAMES = 1024
NORMAL_FROM_MAD = 1.4826  # standard deviation of a normal distribution over its median absolute deviation


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


class LoopCandidate(NamedTuple):
    """Two frames, earlier < later, that seem to show one place."""

    earlier: int
    later: int
    similarity: float


@dataclass(frozen=True)
class LoopSearch:
    """What came out of a search.

    Attributes:
        candidates: most alike first.
        min_similarity: the threshold used; infinite when no two frames are far enough apart.
        num_pairs: pairs above the threshold, before the neighbours of better ones were silenced.
    """

    candidates: tuple[LoopCandidate, ...]
    min_similarity: float
    num_pairs: int


def find_loop_candidates(descriptors: Tensor, settings: LoopSettings) -> LoopSearch:
    """Return the loop candidates of a sequence; any number of frames will do, and equal input gives equal output.

    Args:
        descriptors: [S, D] of `frame_descriptor`, `thumbnail_descriptor` or a SALAD network, in temporal order.
        settings: all but `enabled`, which is the caller's.

    Raises:
        UserError: a descriptor holds NaN or infinity.
    """
    bad = ~descriptors.isfinite().all(dim=1)
    if bad.any():
        raise UserError(
            f"the {settings.descriptor} descriptor of frame {int(bad.nonzero()[0])} holds NaN or infinity; check the "
            "checkpoint and the image, or use precision float32"
        )
    space = comparison_space(descriptors, settings.components, settings.window_in_time)
    threshold = settings.fixed_threshold
    if threshold is None:
        threshold = sequence_threshold(space, settings.min_gap, settings.min_deviations)
    pairs = similar_pairs(space, threshold, settings)

    def camera_left(pair: LoopCandidate) -> bool:
        return not settings.must_leave or _left_between(space, pair, threshold)

    chosen = islice(
        suppress_neighbours(pairs, len(space), settings.nms_radius, camera_left),
        settings.max_candidates,
    )
    return LoopSearch(tuple(chosen), threshold, len(pairs))


def sequence_threshold(space: Tensor, min_gap: int, deviations: float) -> float:
    """Return the similarity that stands out in this sequence: median + deviations * robust standard deviation.

    Over pairs of at most SAMPLED_FRAMES evenly spaced frames that are more than `min_gap` apart; infinite without
    any. Most such pairs show different places, so few true loops leave the median and its deviation alone.
    """
    frames = torch.arange(0, len(space), max(1, -(-len(space) // SAMPLED_FRAMES)), device=space.device)
    far = frames[None] - frames[:, None] > min_gap
    values = (space[frames] @ space[frames].mT)[far]
    if len(values) == 0:
        return math.inf
    median = values.median()
    deviation = NORMAL_FROM_MAD * (values - median).abs().median()
    return float(median + deviations * deviation)


def similar_pairs(space: Tensor, threshold: float, settings: LoopSettings) -> list[LoopCandidate]:
    """Return the pairs that frames propose, above the threshold and far enough apart, most alike first.

    Each frame proposes its `top_k` most alike others. Equally alike ones rank by frame number.

    Args:
        space: [S, E] unit vectors.
        threshold: similarity that a pair must exceed.
        settings: `top_k`, `min_gap`, `near_frames_compete`.
    """
    similarity_of: dict[tuple[int, int], float] = {}
    frames = torch.arange(len(space), device=space.device)
    excluded_gap = 0 if settings.near_frames_compete else settings.min_gap
    block = max(1, BLOCK_PAIRS // max(1, len(space)))
    for start in range(0, len(space), block):
        rows = frames[start : start + block]
        similarity = space[rows] @ space.mT
        near = slice(max(0, start - excluded_gap), start + block + excluded_gap)
        similarity[:, near].masked_fill_((rows[:, None] - frames[near]).abs() <= excluded_gap, -torch.inf)
        row, other = _top_of_rows(similarity, settings.top_k).nonzero().T
        values = similarity[row, other]
        kept = (values > threshold) & ((start + row - other).abs() > settings.min_gap)
        proposed = zip((start + row[kept]).tolist(), other[kept].tolist(), values[kept].tolist(), strict=True)
        for frame, partner, value in proposed:
            # Both ends may propose a pair, with roundings of their own: the first stands.
            similarity_of.setdefault((min(frame, partner), max(frame, partner)), value)
    pairs = [LoopCandidate(*pair, value) for pair, value in similarity_of.items()]
    return sorted(pairs, key=lambda pair: (-pair.similarity, pair.earlier, pair.later))


def suppress_neighbours(
    pairs: Sequence[LoopCandidate],
    num_frames: int,
    radius: int,
    accept: Callable[[LoopCandidate], bool] = lambda _: True,
) -> Iterator[LoopCandidate]:
    """Yield pairs, best first, unless one end lies within `radius` frames of an end of a pair yielded before.

    Pairs that `accept` refuses are left out and silence nothing; it is asked of no pair that is silenced already.
    """
    silenced = bytearray(num_frames)
    for pair in pairs:
        if silenced[pair.earlier] or silenced[pair.later] or pair.earlier >= pair.later or not accept(pair):
            continue
        for frame in (pair.earlier, pair.later):
            around = range(max(0, frame - radius), min(num_frames, frame + radius + 1))
            silenced[around.start : around.stop] = b"\1" * len(around)
        yield pair


def _top_of_rows(values: Tensor, count: int) -> Tensor:
    """Mask of the `count` largest values of each row; of equal ones, those further left."""
    count = min(count, values.shape[1])
    least = values.topk(count, dim=1).values[:, -1:]
    top = values >= least
    if int(top.sum(dim=1).max()) == count:
        return top
    above, level = values > least, values == least
    room = count - above.sum(dim=1, keepdim=True)
    return above | (level & (level.cumsum(dim=1) <= room))


def _left_between(space: Tensor, pair: LoopCandidate, threshold: float) -> bool:
    """Whether some frame between the two is like neither of them."""
    between = space[pair.earlier + 1 : pair.later] @ space[[pair.earlier, pair.later]].mT
    return bool((between <= threshold).all(dim=1).any())
