"""Which frames seem to show a place seen before: loop candidates from the frames' descriptors (SPEC 7.1).

Every frame asks for the frames most like it among those at least `min_gap` away in time, in blocks, so that no S x S
table is ever held. The pairs above a threshold are taken best first, and each silences its neighbourhood in time.
Candidates are guesses: geometry decides on them later.

Shapes: S frames, D numbers of a descriptor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from scal3r_train.config import StrictModel, UserError
from scal3r_train.inference.descriptor_space import comparison_space

BLOCK_PAIRS = 1 << 19  # compared at once, so that memory does not grow with the length of the sequence
SAMPLED_FRAMES = 1024
NORMAL_FROM_MAD = 1.4826  # standard deviation of a normal distribution over its median absolute deviation
SALAD_MIN_SIMILARITY = 0.7

DescriptorKind = Literal["tokens", "salad", "thumbnail"]


class LoopSettings(StrictModel):
    """Whether and how places seen again are looked for."""

    enabled: bool = Field(True, description="Look for loops; a video of one chunk has none.")
    descriptor: DescriptorKind = Field(
        "tokens",
        description="What frames are compared by: the model's own patch tokens (free), a SALAD network (needs "
        "salad_checkpoint), or grey thumbnails.",
    )
    salad_checkpoint: Path | None = Field(
        None, description="Weights of DINOv2 SALAD (.safetensors or torch file), for descriptor: salad."
    )
    num_components: int | None = Field(
        None,
        ge=0,
        description="Principal directions of the sequence's descriptors kept and evened out; 0: descriptors as they "
        "are; null: 0 for salad, else 128.",
    )
    temporal_window: int | None = Field(
        None,
        ge=1,
        description="Odd number of frames whose mean descriptor stands for the middle one; null: 1 for salad, else 5.",
    )
    min_similarity: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="Pairs must be more alike; null: 0.7 for salad, else min_deviations decides.",
    )
    min_deviations: float = Field(
        3.0,
        ge=0,
        description="Without min_similarity, pairs must be more alike than the sequence's median pair by this many "
        "(robust) standard deviations.",
    )
    top_k: int = Field(5, ge=1, description="Most alike frames that each frame proposes.")
    min_gap: int = Field(60, ge=0, description="Pairs must be more than this many frames apart.")
    near_frames_compete: bool = Field(
        False,
        description="Frames nearer than min_gap count among the top_k too, as in the reference release, where they "
        "crowd out most loops.",
    )
    must_leave: bool = Field(
        True, description="A pair counts only if some frame in between resembles neither of the two."
    )
    nms_radius: int = Field(
        25, ge=0, description="An accepted pair silences all others within this many frames of either end."
    )
    max_candidates: int = Field(
        20, ge=1, description="Most candidates handed on; each costs one pass over two windows."
    )
    min_common_view: float = Field(
        0.15,
        ge=0,
        le=1,
        description="Least share of one end's points that the other end's frames see at the same depth.",
    )
    window_size: int = Field(
        20,
        ge=2,
        multiple_of=2,
        description="Frames taken from each end of a candidate for its joint prediction.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> LoopSettings:
        if self.enabled and self.descriptor == "salad" and self.salad_checkpoint is None:
            raise ValueError("descriptor = salad needs salad_checkpoint = FILE; or use descriptor = tokens")
        if self.temporal_window is not None and self.temporal_window % 2 == 0:
            raise ValueError(f"temporal_window = {self.temporal_window} must be odd")
        return self

    @property
    def components(self) -> int:
        """`num_components`, or the descriptor's default."""
        if self.num_components is not None:
            return self.num_components
        return 0 if self.descriptor == "salad" else 128

    @property
    def window_in_time(self) -> int:
        """`temporal_window`, or the descriptor's default."""
        if self.temporal_window is not None:
            return self.temporal_window
        return 1 if self.descriptor == "salad" else 5

    @property
    def fixed_threshold(self) -> float | None:
        """`min_similarity`, or the descriptor's default; None where the sequence decides."""
        if self.min_similarity is None and self.descriptor == "salad":
            return SALAD_MIN_SIMILARITY
        return self.min_similarity


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

    def is_told_apart(pair: LoopCandidate) -> bool:
        return not settings.must_leave or _left_between(space, pair, threshold)

    chosen = islice(
        suppress_neighbours(pairs, len(space), settings.nms_radius, is_told_apart), settings.max_candidates
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
