"""scal3r data index: write the index of a dataset, leaving its files where they are."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from scal3r_data_tools.adapters.registry import known_adapter
from scal3r_data_tools.progress import progress
from scal3r_train.config import UserError, load_config
from scal3r_train.data.index import check_rotations, write_index


def main(
    dataset: str,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    overrides: Sequence[str] = (),
) -> int:
    """Index the folder `source`, in the layout of `dataset` (a key of ADAPTERS), into a Parquet file; returns 0.

    `overrides` are options of the adapter as key=value. Raises UserError for an unknown dataset or option, a folder
    without its sequences and whatever an adapter finds wrong.
    """
    source = Path(source)
    adapter = known_adapter(dataset)
    if not source.exists():
        raise UserError(f"source {source} does not exist; name the folder that holds the dataset")
    if Path(output).suffix != ".parquet":
        raise UserError(f"output {output} must end in .parquet")
    options = load_config(adapter.options, None, overrides)
    records = list(progress(adapter.records(source, options), None, dataset))
    if not records:
        raise UserError(f"{source} holds no sequence in the layout of {dataset}; check DATASET and SRC")
    for record in records:
        check_rotations(record, source)
    write_index(output, records)
    missing = sum(record.num_missing for record in records)
    frames = sum(record.num_frames for record in records)
    sys.stdout.write(
        f"{output}: {len(records)} sequences, {frames} frames"
        + (f"; {missing} more are listed but not there" if missing else "")
        + "\n"
    )
    return 0
