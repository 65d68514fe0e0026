"""The index of a dataset: a Parquet file readable by `datasets`, one row a sequence. Files stay where they are.

Columns are the fields of `SequenceRecord` and `num_frames`. `root` is stored relative to the index when the files
lie beside or below it (so that a folder may be moved with its index), absolute otherwise.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from scal3r_train.config import UserError, atomic_output
from scal3r_train.data.sequence import SequenceRecord

ROTATION_TOLERANCE = 1e-3
PER_FRAME = "depth mask sky_mask distortion covisible intrinsics cam_from_world timestamp image_size".split()

_TEXT, _FLAG = datasets.Value("string"), datasets.Value("bool")
_FLOAT = datasets.Value("float64")

FEATURES = datasets.Features(
    {
        "dataset": _TEXT,
        "sequence_id": _TEXT,
        "split": _TEXT,
        "root": _TEXT,
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


class SequenceIndex:
    """A loaded index: `len`, `[i]` -> SequenceRecord with an absolute root, `.num_frames`, `.find`."""

    def __init__(self, path: Path, rows: datasets.Dataset) -> None:
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
        return _record_from_row(self._rows[number : number + 1], self.path.parent)

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

    def column(self, name: str) -> list[Any]:
        """All values of a column that holds one per sequence."""
        return self._rows.data.column(name).to_pylist()


def write_index(path: str | os.PathLike[str], records: Sequence[SequenceRecord]) -> None:
    """Write an index atomically; a later `load_index` returns equal records."""
    target = Path(path)
    names = [(record.dataset, record.sequence_id) for record in records]
    assert len(set(names)) == len(names), "sequence_id must be unique within a dataset"
    rows = [_row_from_record(record, target.parent) for record in records]
    table = pyarrow.Table.from_pylist(rows, schema=FEATURES.arrow_schema)
    with atomic_output(target) as temporary:
        pyarrow.parquet.write_table(table, temporary)


def load_index(path: str | os.PathLike[str], cache_dir: Path | None = None) -> SequenceIndex:
    """Open an index, memory-mapped.

    `datasets` unpacks Parquet once into an Arrow file under cache_dir (default: a folder of this user in the
    system's temporary folder), keyed by path and modification time and guarded by a file lock, so that any number
    of ranks may load at once and share its pages. Nothing is fetched from the network.
    Raises UserError when the file is missing, is no Parquet file, lacks a column, or has no rows.
    """
    path = Path(path).absolute()
    _check_schema(path)
    if pyarrow.parquet.read_metadata(path).num_rows == 0:
        raise UserError(f"index {path} has no sequences; write it again with `scal3r data index`")
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
    return SequenceIndex(path, rows)


def _check_schema(path: Path) -> None:
    """Raise UserError unless the file is Parquet with all columns of FEATURES and their types."""
    try:
        schema = pyarrow.parquet.read_schema(path)
    except FileNotFoundError:
        raise UserError(f"index {path} does not exist; write one with `scal3r data index`") from None
    except (OSError, pyarrow.ArrowInvalid) as error:
        first_line = str(error).splitlines()[0]
        raise UserError(f"index {path} is not a Parquet file: {first_line}") from None
    for field in FEATURES.arrow_schema:
        if field.name not in schema.names:
            raise UserError(f"index {path} lacks column '{field.name}'; write it with `scal3r data index`")
        # as features, because Parquet renames the items of nested lists
        found = datasets.Features.from_arrow_schema(pyarrow.schema([schema.field(field.name)]))[field.name]
        if found != FEATURES[field.name]:
            raise UserError(
                f"index {path}: column '{field.name}' is {found}, expected {FEATURES[field.name]}"
            )


def _row_from_record(record: SequenceRecord, folder: Path) -> dict[str, Any]:
    num = record.num_frames
    root, base = Path(os.path.abspath(record.root)), Path(os.path.abspath(folder))
    inside = root.is_relative_to(base)
    poses = record.cam_from_world
    for name in PER_FRAME:
        value = vars(record)[name]
        assert value is None or len(value) in (0, num), (
            f"{name} of {record.sequence_id}: {len(value)} of {num} frames"
        )
    return {
        "dataset": record.dataset,
        "sequence_id": record.sequence_id,
        "split": record.split,
        "root": (root.relative_to(base) if inside else root).as_posix(),
        "num_frames": num,
        "image": list(record.image),
        "depth": list(record.depth),
        "depth_codec": record.depth_codec,
        "depth_scale": float(record.depth_scale),
        "mask": list(record.mask),
        "mask_rule": record.mask_rule,
        "sky_mask": list(record.sky_mask),
        "sky_mask_rule": record.sky_mask_rule,
        "camera_model": record.camera_model,
        "intrinsics": _rows(record.intrinsics),
        "distortion": _rows(record.distortion),
        "cam_from_world": _rows(None if poses is None else np.reshape(poses, (num, 12))),
        "timestamp": [float(value) for value in record.timestamp],
        "image_size": np.asarray(record.image_size, np.int32).tolist(),
        "pixel_centre": record.pixel_centre,
        "quarter_turns": record.quarter_turns,
        "covisible": [] if record.covisible is None else np.asarray(record.covisible, np.int32).tolist(),
        "num_missing": record.num_missing,
        "is_ordered": record.is_ordered,
        "is_metric": record.is_metric,
        "is_synthetic": record.is_synthetic,
        "is_dynamic": record.is_dynamic,
        "max_depth": float(record.max_depth),
        "max_depth_percentile": float(record.max_depth_percentile),
        "licence": record.licence,
        "source": record.source,
    }


def _rows(values: np.ndarray | None) -> list[list[float]]:
    return [] if values is None else np.asarray(values, np.float64).tolist()


def _record_from_row(row: pyarrow.Table, folder: Path) -> SequenceRecord:
    """One-row Arrow table -> record; numbers are taken over as arrays, without a detour through Python objects."""

    def scalar(name: str) -> Any:
        return row.column(name)[0].as_py()

    def array(name: str, width: int) -> np.ndarray | None:
        values = row.column(name).combine_chunks().flatten()
        while pyarrow.types.is_nested(values.type):
            values = values.flatten()
        return values.to_numpy(zero_copy_only=False).reshape(-1, width).copy() if len(values) else None

    num = scalar("num_frames")
    poses, sizes = array("cam_from_world", 12), array("image_size", 2)

    def ragged(name: str) -> np.ndarray | None:
        """Rows of one width that the file does not fix."""
        cell = row.column(name)[0]
        width = len(cell[0]) if len(cell) else 0
        return array(name, width) if width else None

    covisible = ragged("covisible")
    timestamps = array("timestamp", 1)
    assert sizes is not None, "an index row without image sizes"
    assert timestamps is not None, "an index row without timestamps"
    return SequenceRecord(
        dataset=scalar("dataset"),
        sequence_id=scalar("sequence_id"),
        split=scalar("split"),
        root=Path(os.path.normpath(folder / scalar("root"))),
        image=tuple(scalar("image")),
        depth=tuple(scalar("depth")),
        depth_codec=scalar("depth_codec"),
        depth_scale=scalar("depth_scale"),
        mask=tuple(scalar("mask")),
        mask_rule=scalar("mask_rule"),
        sky_mask=tuple(scalar("sky_mask")),
        sky_mask_rule=scalar("sky_mask_rule"),
        camera_model=scalar("camera_model"),
        intrinsics=array("intrinsics", 4),
        distortion=ragged("distortion"),
        cam_from_world=None if poses is None else poses.reshape(num, 3, 4),
        timestamp=timestamps[:, 0],
        image_size=sizes.astype(np.int64),
        pixel_centre=scalar("pixel_centre"),
        quarter_turns=scalar("quarter_turns"),
        covisible=None if covisible is None else covisible.astype(np.int64),
        num_missing=scalar("num_missing"),
        is_ordered=scalar("is_ordered"),
        is_metric=scalar("is_metric"),
        is_synthetic=scalar("is_synthetic"),
        is_dynamic=scalar("is_dynamic"),
        max_depth=scalar("max_depth"),
        max_depth_percentile=scalar("max_depth_percentile"),
        licence=scalar("licence"),
        source=scalar("source"),
    )


def check_rotations(record: SequenceRecord, path: Path) -> None:
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
