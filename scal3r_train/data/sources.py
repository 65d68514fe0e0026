"""The `data` section of a recipe, and the indexes that it names as sources of the step plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.augmentation import AugmentationSettings
from scal3r_train.data.deny_list import VERSION, denied
from scal3r_train.data.frame_cache import CacheSettings
from scal3r_train.data.index import SequenceIndex, load_index
from scal3r_train.data.plan import Source


class SourceSettings(StrictModel):
    """One index of the mixture."""

    index: str = Field(
        description="Parquet index: a file, or a URL such as hf://datasets/OWNER/NAME/index.parquet"
    )
    weight: float = Field(default=1.0, gt=0, description="relative share of the drawn sequences")


class DataSettings(StrictModel):
    """The `data` section of a training recipe."""

    sources: tuple[SourceSettings, ...] = Field(min_length=1)
    missing: Literal["refuse", "skip"] = Field(
        default="refuse", description="what to do when indexes do not exist; skip trains on the others"
    )
    synthetic_share: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of rendered sequences; weights then count within each kind",
    )
    deny_list: Literal["apply", "off"] = Field(
        default="apply", description="whether scenes that benchmarks are scored on are kept out"
    )
    augmentation: AugmentationSettings = AugmentationSettings()
    cache: CacheSettings = CacheSettings()
    num_workers: int = Field(default=0, ge=0, description="reading processes per rank; 0 reads in the loop")
    max_skipped_frames: float = Field(
        default=0.25,
        ge=0,
        lt=1,
        description="share of a chunk's frames that may be unreadable and are replaced by their neighbours",
    )
    max_fallbacks_per_step: int = Field(
        default=8,
        ge=0,
        description="other windows tried in place of one that cannot be read before the run ends; 0: none",
    )
    max_fallback_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="share of steps with unreadable data (of at least 100) above which the run ends",
    )


def open_sources(settings: DataSettings) -> tuple[list[SequenceIndex], list[Source]]:
    """Load the indexes of a mixture and what the plan needs to know of them.

    Raises UserError when an index cannot be read, has sequences that cannot be trained on, or none that may be.
    """
    indexes = [load_index(source.index) for source in settings.sources]
    for source, index in zip(settings.sources, indexes, strict=True):
        _refuse_untrainable(settings, source.index, index)
    weights = _balanced(settings, indexes)
    sources = [
        Source(
            source.index,
            weight,
            _lengths(settings, source.index, index),
            index.aspects(),
            np.array(index.column("is_ordered"), dtype=bool),
        )
        for source, weight, index in zip(settings.sources, weights, indexes, strict=True)
    ]
    return indexes, sources


def denied_rows(index: SequenceIndex) -> np.ndarray:
    """Return which sequences of an index the deny-list keeps out of training, [sequences] bool."""
    names = [index.column(name) for name in ("dataset", "sequence_id", "split")]
    return np.array(denied(*names), dtype=bool)


def deny_list_in_words(settings: DataSettings, indexes: Sequence[SequenceIndex]) -> str:
    """Return what a checkpoint says of the deny-list."""
    if settings.deny_list == "off":
        return "not applied (data.deny_list: off)"
    num = sum(int(denied_rows(index).sum()) for index in indexes)
    return f"deny-list version {VERSION} applied; {num} sequences of these indexes were kept out"


def index_exists(name: str) -> bool:
    """Whether an index can be opened; of a URL this is only known when it is."""
    return "://" in name or Path(name).exists()


def _lengths(settings: DataSettings, name: str, index: SequenceIndex) -> np.ndarray:
    """Frames of each sequence, 0 for those that must not be drawn."""
    lengths = np.asarray(index.num_frames, dtype=np.int64)
    if settings.deny_list == "off":
        return lengths
    lengths = np.where(denied_rows(index), 0, lengths)
    if not lengths.any():
        raise UserError(
            f"data source {name}: all of its sequences are on the deny-list, because benchmarks are scored on them; "
            "drop the source, or set data.deny_list=off if this model will not be evaluated on them"
        )
    return lengths


def _balanced(settings: DataSettings, indexes: Sequence[SequenceIndex]) -> list[float]:
    """Weights of the sources, so scaled that rendered ones have settings.synthetic_share."""
    weights = [source.weight for source in settings.sources]
    if settings.synthetic_share is None:
        return weights
    kinds = [
        _is_synthetic(source.index, index) for source, index in zip(settings.sources, indexes, strict=True)
    ]
    totals = {kind: sum(w for w, k in zip(weights, kinds, strict=True) if k == kind) for kind in set(kinds)}
    if len(totals) == 1:
        found = "rendered" if kinds[0] else "real"
        raise UserError(
            f"data.synthetic_share = {settings.synthetic_share:g}, but all sources are {found}; leave it out"
        )
    shares = {True: settings.synthetic_share, False: 1 - settings.synthetic_share}
    return [shares[kind] * weight / totals[kind] for weight, kind in zip(weights, kinds, strict=True)]


def _is_synthetic(name: str, index: SequenceIndex) -> bool:
    kinds = set(index.column("is_synthetic"))
    if len(kinds) > 1:
        raise UserError(
            f"data source {name} mixes real and rendered sequences; data.synthetic_share needs them apart"
        )
    return kinds.pop()


def _refuse_untrainable(settings: DataSettings, name: str, index: SequenceIndex) -> None:
    never_drawn = denied_rows(index) if settings.deny_list == "apply" else np.zeros(len(index), bool)
    for field, column in (("poses", "cam_from_world"), ("intrinsics", "intrinsics")):
        lacking = [row for row in index.rows_without(column) if not never_drawn[row]]
        if lacking:
            raise UserError(
                f"data source {name}: sequence {index.sequence_ids[lacking[0]]!r} has no {field}; it cannot be "
                "trained on"
            )
