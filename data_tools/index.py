"""scal3r data index: write the index of a dataset, leaving its files where they are."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from scal3r_data_tools.covisibility import covisible_frames
from scal3r_data_tools.jobs import progress
from scal3r_data_tools.registry import known_adapter
from scal3r_data_tools.turned import without_turned
from scal3r_train.config import StrictModel, UserError, load_config
from scal3r_train.data.index.index import check_rotations, write_index
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.notes import answer
from scal3r_train.parallel.claimed_output import claimed


class IndexSettings(StrictModel):
    """Settings that every data set shares; adapters have their own beside them."""

    num_covisible: int = Field(
        32,
        ge=0,
        le=1000,
        description="covisible frames listed per frame of unordered sequences; 0: none [frames]",
    )


def main(
    dataset: str,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    overrides: Sequence[str] = (),
) -> int:
    """Index the folder `source`, in the layout of `dataset` (a key of ADAPTERS), into a Parquet file; returns 0.

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

    def checked() -> Iterator[SequenceRecord]:
        for given in progress(adapter.records(source, options), None, dataset):
            record = without_turned(given)
            check_rotations(record, source)
            counts.update(sequences=1, frames=record.num_frames, missing=record.num_missing)
            yield _with_covisible(record, settings.num_covisible)
        if not counts:
            raise UserError(f"{source} holds no sequence in the layout of {dataset}; check DATASET and SRC")

    with claimed(Path(output), "index", is_folder=False):
        write_index(output, checked())
    missing = f"; {counts['missing']} more are listed but not there" if counts["missing"] else ""
    answer(f"{output}: {counts['sequences']} sequences, {counts['frames']} frames{missing}")
    return 0


def _with_covisible(record: SequenceRecord, num_neighbours: int) -> SequenceRecord:
    can_know = record.cam_from_world is not None and record.intrinsics is not None
    if record.is_ordered or num_neighbours == 0 or not can_know or record.covisible is not None:
        return record
    return replace(record, covisible=covisible_frames(record, num_neighbours))
