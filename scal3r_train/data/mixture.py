"""Which indexes of a mixture are there, what they hold, and whether a resumed run still finds the same.

The plan of a step is a pure function of the sources' weights and lengths. A source that appears, vanishes or is
written again between two starts of a run would silently change every later step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scal3r_train.config import UserError, write_text_atomically
from scal3r_train.data.index import SequenceIndex
from scal3r_train.data.plan import Source
from scal3r_train.data.sources import DataSettings, SourceSettings, index_exists
from scal3r_train.parallel.collectives import gather_to_all

MIXTURE_FILE = "mixture.json"
SYNTHETIC_INDEX = "index.parquet"  # what `scal3r data synth FOLDER` writes into its folder


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
    before = json.loads(path.read_text(encoding="utf-8"))
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
