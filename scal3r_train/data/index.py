"""The index of a dataset: a Parquet file readable by `datasets`, one row a sequence. Files stay where they are.

Columns are the fields of `SequenceRecord` and `num_frames`. `root` is stored relative to the index when the files
lie beside or below it (so that a folder may be moved with its index), absolute otherwise.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import fsspec
import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from scal3r_train.config import UserError, atomic_output
from scal3r_train.data.index_row import FEATURES, record_from_row, row_from_record
from scal3r_train.data.sequence import SequenceRecord

ROTATION_TOLERANCE = 1e-3
ROWS_PER_GROUP = 64  # held in memory while an index of millions of frames is written


class SequenceIndex:
    """A loaded index: `len`, `[i]` -> SequenceRecord with an absolute root, `.num_frames`, `.find`."""

    def __init__(self, path: str, rows: datasets.Dataset) -> None:
        """Serve the rows of the index at a path or URL."""
        self.path = path
        self._rows = rows.with_format("arrow")
        self.num_frames: list[int] = self.column("num_frames")
        self.sequence_ids: list[str] = self.column("sequence_id")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> SequenceRecord:
        """Row `number`. Raises UserError when a pose is not a rigid transform."""
        record = self.unchecked(number)
        check_rotations(record, self.path)
        return record

    def unchecked(self, number: int) -> SequenceRecord:
        """Row `number` as it is stored, for those who check it themselves."""
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of an index with {len(self)} rows")
        return record_from_row(self._rows[number : number + 1], self.path.rpartition("/")[0])

    def find(self, sequence_id: str) -> SequenceRecord:
        """The sequence of that name. Raises UserError when there is none, or more than one."""
        found = [number for number, name in enumerate(self.sequence_ids) if name == sequence_id]
        if len(found) != 1:
            some = ", ".join(self.sequence_ids[:8]) + (", ..." if len(self) > 8 else "")
            problem = f"has {len(found)} sequences" if found else "has no sequence"
            raise UserError(f"{self.path} {problem} named '{sequence_id}'; it holds {some}")
        return self[found[0]]

    def rows_without(self, name: str) -> list[int]:
        """Rows that know nothing of a per-frame column such as cam_from_world; reads no values."""
        lengths = pyarrow.compute.list_value_length(self._rows.data.column(name))
        return np.flatnonzero(lengths.to_numpy() == 0).tolist()

    def durations_s(self) -> np.ndarray:
        """Seconds between the first and the last frame of each sequence; NaN where frames are in no order."""
        column = self._rows.data.column("timestamp")
        spans = [np.empty(0)]
        for rows in column.chunks:
            ends, values = rows.offsets.to_numpy(), rows.values.to_numpy(zero_copy_only=False)
            spans.append(values[ends[1:] - 1] - values[ends[:-1]])
        return np.where(self.column("is_ordered"), np.concatenate(spans), np.nan)

    def aspects(self) -> np.ndarray:
        """Width / height of the first image of each sequence, upright; NaN for one without frames."""
        found = [np.empty(0)]
        for rows in self._rows.data.column("image_size").chunks:
            sizes = rows.flatten().flatten().to_numpy(zero_copy_only=False).reshape(-1, 2)
            lengths = rows.value_lengths().to_numpy(zero_copy_only=False)
            first = np.cumsum(lengths) - lengths
            found.append(np.full(len(lengths), np.nan))
            found[-1][lengths > 0] = sizes[first[lengths > 0], 1] / sizes[first[lengths > 0], 0]
        aspects = np.concatenate(found)
        return np.where(np.array(self.column("quarter_turns")) % 2 == 1, 1 / aspects, aspects)

    def column(self, name: str) -> list[Any]:
        """All values of a column that holds one per sequence."""
        return self._rows.data.column(name).to_pylist()

    def frame_column(self, name: str) -> pyarrow.ChunkedArray:
        """A column that holds a list per sequence, one entry a frame, as Arrow (see index_columns.py)."""
        return self._rows.data.column(name)


def write_index(path: str | os.PathLike[str], records: Iterable[SequenceRecord]) -> None:
    """Write an index atomically, a few records at a time; a later `load_index` returns equal records."""
    target, names, rows = Path(path), set(), []
    with atomic_output(target) as temporary:
        with pyarrow.parquet.ParquetWriter(temporary, FEATURES.arrow_schema) as writer:
            for record in records:
                name = record.dataset, record.sequence_id
                assert name not in names, f"sequence_id must be unique within a dataset: {name}"
                names.add(name)
                rows.append(row_from_record(record, target.parent))
                if len(rows) == ROWS_PER_GROUP:
                    writer.write_table(pyarrow.Table.from_pylist(rows, schema=FEATURES.arrow_schema))
                    rows = []
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=FEATURES.arrow_schema))


def load_index(path: str | os.PathLike[str], cache_dir: Path | None = None) -> SequenceIndex:
    """Open an index, a file or a URL that fsspec knows (hf://, s3://, https://).

    A file is memory-mapped: `datasets` unpacks Parquet once into an Arrow file under cache_dir (default: a folder of
    this user in the system's temporary folder), keyed by path and modification time and guarded by a file lock, so
    that any number of ranks may load at once and share its pages. Nothing is fetched from the network then.
    Raises UserError when it is missing, is no Parquet file, lacks a column, or has no rows.
    """
    if "://" in os.fspath(path):
        return SequenceIndex(os.fspath(path), _read_url(os.fspath(path)))
    path = Path(path).absolute()
    _check_schema(str(path), path)
    if cache_dir is None:
        cache_dir = Path(tempfile.gettempdir()) / f"scal3r_index_{os.getuid()}"
    cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    was_disabled = datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        rows = datasets.Dataset.from_parquet(str(path), cache_dir=str(cache_dir), columns=list(FEATURES))
    finally:
        if not was_disabled:
            datasets.enable_progress_bars()
    return SequenceIndex(str(path), rows)


def _read_url(url: str) -> datasets.Dataset:
    """Fetch an index, which is small beside the files that it names, into memory."""
    try:
        file_system, name = fsspec.core.url_to_fs(url)
        with file_system.open(name, "rb") as file:
            _check_schema(url, file)
            file.seek(0)
            table = pyarrow.parquet.read_table(file, columns=list(FEATURES))
    except UserError:
        raise
    except Exception as error:  # network packages raise errors of their own
        raise UserError(f"index {url} cannot be read: {str(error).splitlines()[0]}") from None
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=FEATURES))


def _check_schema(name: str, file: Path | BinaryIO) -> None:
    """Raise UserError unless the file is Parquet with rows and all columns of FEATURES and their types."""
    try:
        metadata = pyarrow.parquet.read_metadata(file)
    except FileNotFoundError:
        raise UserError(f"index {name} does not exist; write one with `scal3r data index`") from None
    except (OSError, pyarrow.ArrowInvalid) as error:
        first_line = str(error).splitlines()[0]
        raise UserError(f"index {name} is not a Parquet file: {first_line}") from None
    schema = metadata.schema.to_arrow_schema()
    for field in FEATURES.arrow_schema:
        if field.name not in schema.names:
            raise UserError(f"index {name} lacks column '{field.name}'; write it with `scal3r data index`")
        # as features, because Parquet renames the items of nested lists
        found = datasets.Features.from_arrow_schema(pyarrow.schema([schema.field(field.name)]))[field.name]
        if found != FEATURES[field.name]:
            raise UserError(
                f"index {name}: column '{field.name}' is {found}, expected {FEATURES[field.name]}"
            )
    if metadata.num_rows == 0:
        raise UserError(f"index {name} has no sequences; write it again with `scal3r data index`")


def check_rotations(record: SequenceRecord, path: str | Path) -> None:
    """Raise UserError unless every pose is finite with R R^T = I and det R = +1 (reflected worlds do exist)."""
    if record.cam_from_world is None:
        return
    rotation = record.cam_from_world[:, :, :3]
    error = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
    determinant = np.linalg.det(rotation)
    finite = np.isfinite(record.cam_from_world).all(axis=(1, 2))
    good = finite & (error < ROTATION_TOLERANCE) & (determinant > 0)
    if not good.all():
        frame = int(np.argmin(good))
        raise UserError(
            f"{path}: pose of {record.sequence_id} frame {frame} ({record.image[frame]}) is not a rigid transform "
            f"(det {determinant[frame]:.4g}, |R R^T - I| {error[frame]:.2g}); mend it in the source and index again"
        )
