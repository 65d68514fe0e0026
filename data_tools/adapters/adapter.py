"""What an adapter is: a function from a folder, as published, to records that say where everything lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scal3r_train.config import StrictModel
from scal3r_train.data.sequence import SequenceRecord


class NoOptions(StrictModel):
    """The options of most adapters."""


@dataclass(frozen=True)
class Adapter:
    """One data set that `scal3r data index` knows.

    Attributes:
        index: from the folder to the records of all sequences below it, in a fixed order; reads headers and tables
            only. With options, it takes them as second argument. Raises UserError for what the user must mend; frames
            that are listed but not there are left out and counted in `num_missing`.
        options: their type; what cannot be known from the files, each with a safe default.
        prepare: for sets whose pixels must change (meshes to render, LiDAR to project, recordings to unpack): writes
            derived files from the folder into another, and can be interrupted and started again.
        prepare_options: type of its options.
    """

    index: Callable[..., Iterator[SequenceRecord]]
    options: type[StrictModel] = NoOptions
    prepare: Callable[[Path, Path, Any], None] | None = None
    prepare_options: type[StrictModel] = NoOptions

    def records(self, source: Path, options: StrictModel) -> Iterator[SequenceRecord]:
        """Return the records of the sequences below `source`."""
        return self.index(source) if self.options is NoOptions else self.index(source, options)
