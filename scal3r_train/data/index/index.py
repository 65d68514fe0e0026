"""The index of a dataset: a Parquet file readable by `datasets`, one row a sequence; written, read and summed up.

Columns are the fields of `SequenceRecord` and `num_frames`; the files that a row names stay where they are. `root` is
stored relative to the index when the files lie beside or below it (so that a folder may be moved with its index),
absolute otherwise. `summarize` adds rows up by data set and licence, for the model card.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import fsspec
import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from scal3r_train.config import UserError, atomic_output
from scal3r_train.data.index.soundness import MAX_TIMES_LARGER, check_columns, check_numbers
from scal3r_train.data.sequence import PackedFrames, SequenceRecord

_TEXT, _FLAG = datasets.Value("string"), datasets.Value("bool")
_FLOAT = datasets.Value("float64")

FEATURES = datasets.Features(
    {
        "dataset": _TEXT,
        "sequence_id": _TEXT,
        "split": _TEXT,
        "root": _TEXT,
        "packed_row": datasets.Value("int64"),
        "num_frames": datasets.Value("int32"),
        "image": datasets.List(_TEXT),
        "depth": datasets.List(_TEXT),
        "depth_codec": _TEXT,
        "depth_scale": _FLOAT,
        "mask": datasets.List(_TEXT),
        "mask_rule": _TEXT,
        "sky_mask": datasets.List(_TEXT),
        "sky_mask_rule": _TEXT,
        "camera_model": _TEXT,
        "intrinsics": datasets.List(datasets.List(_FLOAT, length=4)),
        "distortion": datasets.List(datasets.List(_FLOAT)),
        "cam_from_world": datasets.List(datasets.List(_FLOAT, length=12)),
        "timestamp": datasets.List(_FLOAT),
        "image_size": datasets.List(datasets.List(datasets.Value("int32"), length=2)),
        "pixel_centre": _TEXT,
        "quarter_turns": datasets.Value("int32"),
        "covisible": datasets.List(datasets.List(datasets.Value("int32"))),
        "num_missing": datasets.Value("int32"),
        "is_ordered": _FLAG,
        "is_metric": _FLAG,
        "is_synthetic": _FLAG,
        "is_dynamic": _FLAG,
        "max_depth": _FLOAT,
        "max_depth_percentile": _FLOAT,
        "licence": _TEXT,
        "source": _TEXT,
    }
)

POSE = (3, 4)
PACKED_ROW = (
    "packed_row"  # first row of the sequence's frames in the Parquet file `root`; -1: files are below root
)
ROTATION_TOLERANCE = 1e-3
ROWS_PER_GROUP = 64  # held in memory while an index of millions of frames is written


def row_from_record(record: SequenceRecord, folder: Path) -> dict[str, Any]:
    """Return the values of a row of an index that lies in `folder`; `root` becomes relative if it is below it."""
    root, base = Path(os.path.abspath(record.root)), Path(os.path.abspath(folder))
    place = root.relative_to(base) if root.is_relative_to(base) else root
    assert record.decoded is None, f"{record.sequence_id} lies in no files"
    values = {name: value for name, value in vars(record).items() if name not in ("packed", "decoded")}
    row = {name: _plain(value) for name, value in values.items()}
    for name, value in row.items():
        if isinstance(value, list) and value:
            assert len(value) == record.num_frames, (
                f"{name} of {record.sequence_id}: {len(value)} of {record.num_frames} frames"
            )
    first_row = -1 if record.packed is None else record.packed.first_row
    return row | {"root": place.as_posix(), "num_frames": record.num_frames, PACKED_ROW: first_row}


def record_from_row(row: pyarrow.Table, folder: str) -> SequenceRecord:
    """One-row Arrow table of an index in `folder`, a path or URL -> record.

    Numbers are taken over as arrays, without a detour through Python objects.
    """
    values = {name: _value(row, name) for name in FEATURES if name not in ("num_frames", PACKED_ROW)}
    poses, first_row = values["cam_from_world"], _value(row, PACKED_ROW)
    location = os.path.join(folder, values["root"])
    return SequenceRecord(
        **values
        | {
            "root": Path(os.path.normpath(location)),
            "packed": PackedFrames(location, first_row) if first_row >= 0 else None,
            "cam_from_world": None if poses is None else poses.reshape(-1, *POSE),
        }
    )


def _plain(value: Any) -> Any:
    """What pyarrow stores; nothing known is an empty list."""
    if value is None:
        return []
    if isinstance(value, np.ndarray):
        return (value.reshape(len(value), -1) if value.ndim > 2 else value).tolist()
    return list(value) if isinstance(value, tuple) else value


def _value(row: pyarrow.Table, name: str) -> Any:
    """The field of a record: a scalar, a tuple of texts, an array [S] or [S, D], or None for an array without rows."""
    feature, cell = FEATURES[name], row.column(name)[0]
    if not isinstance(feature, datasets.List):
        return cell.as_py()
    if feature.feature == _TEXT:
        return tuple(cell.as_py())
    is_nested = isinstance(feature.feature, datasets.List)
    width = len(cell[0]) if is_nested and len(cell) else 1
    values = row.column(name).combine_chunks().flatten()
    while pyarrow.types.is_nested(values.type):
        values = values.flatten()
    if not len(values):
        return None if is_nested else np.empty(0)
    array = values.to_numpy(zero_copy_only=False).copy()
    array = array.astype(np.int64) if array.dtype.kind == "i" else array
    return array.reshape(-1, width) if is_nested else array


class SequenceIndex:
    """A loaded index: `len`, `[i]` -> SequenceRecord with an absolute root, `.num_frames`, `.find`."""

    def __init__(self, path: str, rows: datasets.Dataset) -> None:
        """Serve the rows of the index at a path or URL."""
        self.path = path
        self._rows = rows.with_format("arrow")
        check_columns(path, FEATURES, self.frame_column)
        self.num_frames: list[int] = self.column("num_frames")
        self.sequence_ids: list[str] = self.column("sequence_id")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> SequenceRecord:
        """Row `number`. Raises UserError when a pose is not a rigid transform, or another number is impossible."""
        record = self.unchecked(number)
        check_numbers(record, self.path)
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
            first, last = ends[:-1], ends[1:] - 1
            spans.append(np.full(len(first), np.nan))
            has_frames = last >= first
            spans[-1][has_frames] = values[last[has_frames]] - values[first[has_frames]]
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
        """A column that holds a list per sequence, one entry a frame, as Arrow (see data_tools/summary.py)."""
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
    except Exception as error:  # of `datasets`, around whatever pyarrow says of a damaged body
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"index {path} cannot be read: {reason[0]}; copy or write it again") from None
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
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    num_values = sum(group.column(place).num_values for group in groups for place in range(group.num_columns))
    if num_values > MAX_TIMES_LARGER * _num_bytes(file):
        raise UserError(f"index {name} declares {num_values} entries, more than it can hold; write it again")
    if metadata.num_rows == 0:
        raise UserError(f"index {name} has no sequences; write it again with `scal3r data index`")


def _num_bytes(file: Path | BinaryIO) -> int:
    if isinstance(file, Path):
        return file.stat().st_size
    return file.seek(0, os.SEEK_END)


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
            f"(det {determinant[frame]:.4g}, |R R^T - I| {error[frame]:.2g}); correct it in the source and index again"
        )


@dataclass(frozen=True)
class DatasetSummary:
    """The sequences of one data set under one licence.

    Attributes:
        name, licence, source: as the index says; "" when it does not.
        num_sequences, num_frames: how many.
        hours: length of the videos; 0 for frames that are in no order.
        is_synthetic: whether all of it is rendered.
    """

    name: str
    licence: str
    source: str
    num_sequences: int
    num_frames: int
    hours: float
    is_synthetic: bool


def summarize(
    indexes: Sequence[SequenceIndex], used: Sequence[Sequence[bool]] | None = None
) -> tuple[DatasetSummary, ...]:
    """Return the data sets of some indexes by name, those of the same name, licence and source together.

    Args:
        indexes: the sequences.
        used: for each index which of its sequences count; None: all.
    """
    rows: dict[tuple[str, str, str], list[tuple[int, float, bool]]] = {}
    for index, counts in zip(indexes, used or [[True] * len(index) for index in indexes], strict=True):
        names = zip(index.column("dataset"), index.column("licence"), index.column("source"), strict=True)
        facts = zip(index.num_frames, index.durations_s(), index.column("is_synthetic"), strict=True)
        for name, fact in compress(zip(names, facts, strict=True), counts):
            rows.setdefault(name, []).append(fact)
    return tuple(
        DatasetSummary(
            *names,
            num_sequences=len(facts),
            num_frames=sum(num_frames for num_frames, _, _ in facts),
            hours=float(np.nansum([seconds for _, seconds, _ in facts])) / 3600,
            is_synthetic=all(is_synthetic for _, _, is_synthetic in facts),
        )
        for names, facts in sorted(rows.items())
    )
