"""scal3r data index: write the index of a dataset, leaving its files where they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from scal3r_data_tools.adapters import game_loop, images, seven_scenes, towns
from scal3r_data_tools.progress import progress
from scal3r_train.config import UserError
from scal3r_train.data.index import check_rotations, write_index
from scal3r_train.data.sequence import SequenceRecord

ADAPTERS: dict[str, Callable[[Path], Iterator[SequenceRecord]]] = {
    "game_loop": game_loop.index,
    "images": images.index,
    "seven_scenes": seven_scenes.index,
    "towns": towns.index,
}


def main(dataset: str, source: str | os.PathLike[str], output: str | os.PathLike[str]) -> int:
    """Index the folder `source`, in the layout of `dataset` (a key of ADAPTERS), into a Parquet file; returns 0.

    Raises UserError for an unknown dataset, a folder without its sequences and whatever an adapter finds wrong.
    """
    source = Path(source)
    if dataset not in ADAPTERS:
        raise UserError(f"dataset '{dataset}' is unknown; known are {', '.join(sorted(ADAPTERS))}")
    if not source.is_dir():
        raise UserError(f"source {source} is not a folder; name the folder that holds the dataset")
    if Path(output).suffix != ".parquet":
        raise UserError(f"output {output} must end in .parquet")
    records = list(progress(ADAPTERS[dataset](source), None, dataset))
    if not records:
        raise UserError(f"{source} holds no sequence in the layout of {dataset}; check DATASET and SRC")
    for record in records:
        check_rotations(record, source)
    write_index(output, records)
    return 0
