"""scal3r data index: write the index of a dataset, leaving its files where they are."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import Field

from scal3r_data_tools.beside import Unused
from scal3r_data_tools.covisibility import covisible_frames
from scal3r_data_tools.jobs import progress
from scal3r_data_tools.plausible import check_numbers
from scal3r_data_tools.registry import known_adapter
from scal3r_data_tools.turned import without_turned
from scal3r_train.config import StrictModel, UserError, load_config
from scal3r_train.data.index.index import check_rotations, write_index
from scal3r_train.data.io.left_out import (
    COUNTED_ONLY,
    FRAME,
    IMAGE,
    SEQUENCE,
    Cause,
    Ledger,
    counted,
    leave_out,
)
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.notes import answer, note
from scal3r_train.parallel.claimed_output import claimed

AGAIN = Cause("that is found again, through a link")


class IndexSettings(StrictModel):
    """Settings that every data set shares; adapters have their own beside them."""

    num_covisible: int = Field(
        32,
        ge=0,
        le=1000,
        description="covisible frames listed per frame of unordered sequences; 0: none [frames]",
    )
    unit: float = Field(
        1.0,
        gt=0,
        description="what one unit of the index is long: 33 in metres lets a camera 1.65 m above a road be 0.05 "
        "above it, so that sets with another unit can be trained on together [scene units]",
    )


def main(
    dataset: str,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    overrides: Sequence[str] = (),
) -> int:
    """Index the folder `source`, in the layout of `dataset` (a key of ADAPTERS), into a Parquet file; returns 0.

    What is left out is counted by cause: a note each, with an example, and the last line sums them up.

    `overrides` are key=value: IndexSettings and options of the adapter. Raises UserError for an unknown dataset or
    option, a folder without its sequences and whatever an adapter finds wrong.
    """
    source = Path(source)
    adapter = known_adapter(dataset)
    if not source.exists():
        raise UserError(f"source {source} does not exist; name the folder that holds the dataset")
    if Path(output).suffix != ".parquet":
        raise UserError(f"output {output} must end in .parquet")
    ours = [text for text in overrides if text.partition("=")[0] in IndexSettings.model_fields]
    settings = load_config(IndexSettings, None, ours)
    options = load_config(adapter.options, None, [text for text in overrides if text not in ours])
    counts: Counter[str] = Counter()
    unused = Unused()
    roots: dict[tuple[str, str], Path] = {}

    def checked(ledger: Ledger) -> Iterator[SequenceRecord]:
        num_said = 0
        for given in progress(adapter.records(source, options), None, dataset):
            if _is_known(given, roots):
                continue
            record = without_turned(given)
            check_rotations(record, source)
            check_numbers(record, source)
            record = in_unit(record, settings.unit)
            unused.look(record, ledger)
            ledger.forget_names()
            num_unsaid = record.num_missing - (ledger.num(FRAME, IMAGE) - num_said)
            if num_unsaid > 0:  # adapters of other packages may only count
                leave_out(COUNTED_ONLY, [record.sequence_id], source, FRAME, num_unsaid)
            num_said = ledger.num(FRAME, IMAGE)
            counts.update(_counts(record))
            yield _with_covisible(record, settings.num_covisible)
        unused.leave_out()

    with claimed(Path(output), "index", is_folder=False), counted() as ledger:
        try:
            write_index(output, _some(checked(ledger), source, dataset))
        finally:
            for line in ledger.lines():
                note(line)
    num, left_out = counts["sequences"], ledger.summary()
    answer(
        f"{output}: {num} sequence{'' if num == 1 else 's'}, {counts['frames']} frames, {counts['posed']} with pose, "
        f"{counts['with_depth']} with depth; {f'left out: {left_out}' if left_out else 'nothing left out'}"
    )
    return 0


def in_unit(record: SequenceRecord, unit: float) -> SequenceRecord:
    """Return the sequence with `unit` of its scene units as the one unit of length; it is then no longer metric."""
    if unit == 1:
        return record
    poses = record.cam_from_world
    if poses is not None:
        poses = np.concatenate([poses[:, :, :3], poses[:, :, 3:] / unit], axis=2)
    return replace(
        record,
        cam_from_world=poses,
        is_metric=False,
        depth_scale=record.depth_scale / unit,
        max_depth=record.max_depth / unit,
    )


def _is_known(record: SequenceRecord, roots: dict[tuple[str, str], Path]) -> bool:
    """Whether a sequence was found before, through a link. Raises UserError for another one of the same name."""
    name = record.dataset, record.sequence_id
    if name not in roots:
        roots[name] = record.root
        return False
    if roots[name].resolve() != record.root.resolve():
        raise UserError(
            f"two sequences are called {record.sequence_id}: {roots[name]} and {record.root}; index them one by one, "
            "or rename one"
        )
    leave_out(AGAIN, [record.sequence_id], record.root, SEQUENCE)
    return True


def _some(records: Iterator[SequenceRecord], source: Path, dataset: str) -> Iterator[SequenceRecord]:
    """The same records. Raises UserError when there are none."""
    is_empty = True
    for record in records:
        is_empty = False
        yield record
    if is_empty:
        raise UserError(f"{source} holds no sequence in the layout of {dataset}; check DATASET and SRC")


def _counts(record: SequenceRecord) -> dict[str, int]:
    num = record.num_frames
    posed = 0 if record.cam_from_world is None else num
    return {"sequences": 1, "frames": num, "posed": posed, "with_depth": sum(map(bool, record.depth))}


def _with_covisible(record: SequenceRecord, num_neighbours: int) -> SequenceRecord:
    can_know = record.cam_from_world is not None and record.intrinsics is not None
    if record.is_ordered or num_neighbours == 0 or not can_know or record.covisible is not None:
        return record
    return replace(record, covisible=covisible_frames(record, num_neighbours))
