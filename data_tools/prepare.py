"""scal3r data prepare: write files that a data set needs but does not hold, as depth from its mesh."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from scal3r_data_tools.registry import ADAPTERS, known_adapter
from scal3r_train.config import UserError, load_config
from scal3r_train.notes import answer
from scal3r_train.parallel.claimed_output import claimed


def main(
    dataset: str,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    overrides: Sequence[str] = (),
) -> int:
    """Prepare the folder `source`, in the layout of `dataset` (a key of ADAPTERS), into the folder `output`; returns 0.

    What is finished already is left alone, so that a stopped run can be started again. `overrides` are options of the
    preparation as key=value. Raises UserError for an unknown dataset or option, a set that needs no preparation and
    whatever the preparation finds wrong.
    """
    source, output = Path(source), Path(output)
    adapter = known_adapter(dataset)
    if adapter.prepare is None:
        names = ", ".join(name for name in sorted(ADAPTERS) if ADAPTERS[name].prepare is not None)
        raise UserError(f"{dataset} needs no preparation, use `scal3r data index`; sets that do: {names}")
    if not source.is_dir():
        raise UserError(f"source {source} is no folder; name the folder that holds the dataset")
    options = load_config(adapter.prepare_options, None, overrides)
    with claimed(output, "folder", is_folder=True):
        adapter.prepare(source, output, options)
    answer(f"{output}: {dataset} is prepared; index it next (docs/data/{dataset}.md)")
    return 0
