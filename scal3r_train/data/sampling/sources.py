"""The `data` section of a recipe, and the indexes that it names as sources of the step plan.

The plan of a step is a pure function of the sources' weights and lengths. A source that appears, vanishes or is
written again between two starts of a run would silently change every later step; so a run records which sources were
there and what they held, and a resumed run is compared with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from scal3r_train.config import StrictModel, UserError, write_text_atomically
from scal3r_train.data.augmentation import AugmentationSettings
from scal3r_train.data.index.index import SequenceIndex, load_index
from scal3r_train.data.io.frame_cache import CacheSettings
from scal3r_train.data.sampling.deny_list import VERSION, denied
from scal3r_train.data.sampling.plan import Source
from scal3r_train.parallel.collectives import gather_to_all
from scal3r_train.text_file import parse_json

MIXTURE_FILE = "mixture.json"
SYNTHETIC_INDEX = "index.parquet"  # what `scal3r data synth FOLDER` writes into its folder


class SourceSettings(StrictModel):
    """One index of the mixture."""

    index: str = Field(
        description="Parquet index: a file, or a URL such as hf://datasets/OWNER/NAME/index.parquet"
    )
    weight: float = Field(default=1.0, gt=0, description="relative share of the drawn sequences [weight]")


class DataSettings(StrictModel):
    """The `data` section of a training recipe."""

    sources: tuple[SourceSettings, ...] = Field(
        min_length=1, description="the indexes that sequences are drawn from"
    )
    missing: Literal["refuse", "skip"] = Field(
        default="refuse", description="what to do when indexes do not exist; skip trains on the others"
    )
    synthetic_share: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of rendered sequences; weights then count within each kind [share]",
    )
    deny_list: Literal["apply", "off"] = Field(
        default="apply", description="whether scenes that benchmarks are scored on are kept out"
    )
    augmentation: AugmentationSettings = AugmentationSettings()
    cache: CacheSettings = CacheSettings()
    num_workers: int = Field(
        default=0, ge=0, description="reading processes per rank; 0 reads in the loop [processes]"
    )
    max_skipped_frames: float = Field(
        default=0.25,
        ge=0,
        lt=1,
        description="share of a chunk's frames that may be unreadable and are replaced by their neighbours [share]",
    )
    max_fallbacks_per_step: int = Field(
        default=8,
        ge=0,
        description="other windows tried in place of one that cannot be read before the run ends; 0: none [windows]",
    )
    max_fallback_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="share of steps with unreadable data (of at least 100) above which the run ends [share]",
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
    """Return which sequences of an index are on the deny-list, [sequences] bool."""
    names = [index.column(name) for name in ("dataset", "sequence_id", "split")]
    return np.array(denied(*names), dtype=bool)


def kept_out(settings: DataSettings, index: SequenceIndex) -> np.ndarray:
    """Return which sequences of an index training never draws, [sequences] bool: those denied, if the list applies."""
    return denied_rows(index) if settings.deny_list == "apply" else np.zeros(len(index), bool)


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
    never_drawn = kept_out(settings, index)
    for field, column in (("poses", "cam_from_world"), ("intrinsics", "intrinsics")):
        lacking = [row for row in index.rows_without(column) if not never_drawn[row]]
        if lacking:
            raise UserError(
                f"data source {name}: sequence {index.sequence_ids[lacking[0]]!r} has no {field}; it cannot be "
                "trained on"
            )


def available_data(settings: DataSettings, needed: Sequence[SourceSettings] = ()) -> DataSettings:
    """Return the settings with the sources whose index exists on every process; all processes call this.

    Args:
        settings: whose `missing` says whether to refuse or skip the others.
        needed: further sources, of validation, that are never skipped.

    Raises:
        UserError: an index that may not be skipped is missing; one line with the command for each.
    """
    wanted = (*settings.sources, *needed)
    absent_here = {source.index for source in wanted if not index_exists(source.index)}
    absent: set[str] = set().union(*gather_to_all(absent_here))
    present = tuple(source for source in settings.sources if source.index not in absent)
    can_skip = settings.missing == "skip" and len(present) > 0
    refused = [source.index for source in (needed if can_skip else wanted) if source.index in absent]
    if refused:
        raise UserError(_missing_message(list(dict.fromkeys(refused)), can_skip=can_skip))
    return settings.model_copy(update={"sources": present})


def skipped_message(wanted: DataSettings, available: DataSettings) -> str | None:
    """Return one line on the sources that are left out and the shares of the others; None when none is left out."""
    skipped = [source.index for source in wanted.sources if source not in available.sources]
    if not skipped:
        return None
    if available.synthetic_share is not None:
        return f"data.missing: skipped {', '.join(skipped)}; data.synthetic_share holds for the others"
    total = sum(source.weight for source in available.sources)
    shares = ", ".join(f"{source.index} {100 * source.weight / total:.1f} %" for source in available.sources)
    return f"data.missing: skipped {', '.join(skipped)}; training on {shares}"


def check_mixture(
    folder: Path, sources: Sequence[Source], indexes: Sequence[SequenceIndex], *, is_resumed: bool
) -> None:
    """Note in a run's folder what it trains on; when it is resumed, compare instead. The main process calls this.

    Raises:
        UserError: weights, sequences or their lengths are not those that the run began with.
    """
    entries = [
        {
            "index": source.name,
            "weight": source.weight,
            "sequences": len(index),
            "sha256": _digest(source, index),
        }
        for source, index in zip(sources, indexes, strict=True)
    ]
    path = folder / MIXTURE_FILE
    if not (is_resumed and path.is_file()):
        write_text_atomically(path, json.dumps(entries, indent=1) + "\n")
        return
    before = parse_json(path.read_text(encoding="utf-8"))
    change = _difference(before, entries)
    if change:
        raise UserError(
            f"{path}: the mixture is not the one that this run began with: {change}; restore it, or begin a new run "
            "in another output_dir with model.checkpoint=CHECKPOINT/model"
        )


def _difference(before: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]]) -> str:
    """Return what differs first, an empty text when nothing does. An index may have moved."""
    for then, entry in zip(before, now, strict=False):
        if then["sha256"] != entry["sha256"]:
            return f"{then['index']} ({then['sequences']} sequences) is now {entry['index']} ({entry['sequences']})"
        if then["weight"] != entry["weight"]:
            return f"the weight of {entry['index']} was {then['weight']} and is {entry['weight']}"
    for entry in before[len(now) :]:
        return f"{entry['index']} is gone"
    for entry in now[len(before) :]:
        return f"{entry['index']} is new"
    return ""


def _digest(source: Source, index: SequenceIndex) -> str:
    """Return a hash of what a plan can see of an index: its sequences in order, and which of them may be drawn."""
    digest = hashlib.sha256(json.dumps(index.sequence_ids).encode())
    for numbers in (source.num_frames, source.aspects, source.is_ordered):
        digest.update(b"" if numbers is None else numbers.tobytes())
    return digest.hexdigest()


def _missing_message(indexes: Sequence[str], *, can_skip: bool) -> str:
    commands = "; ".join(f"`{_command_for(index)}`" for index in indexes)
    plural = "es are" if len(indexes) > 1 else " is"
    way_out = "these are of validation.sources and never skipped" if can_skip else "or set data.missing=skip"
    return f"{len(indexes)} index{plural} missing; write {commands}; {way_out}"


def _command_for(index: str) -> str:
    path = Path(index)
    if path.name == SYNTHETIC_INDEX:
        return f"scal3r data synth {path.parent}"
    return f"scal3r data index {path.stem} SRC {index}"
