"""Whether an index from elsewhere can be what it says: Parquet keeps types, and nothing else.

Columns are looked at as a whole when an index is opened: no empty cells, as many entries as a sequence has frames, only
words that are known. The numbers of a sequence are looked at when it is taken. Raises UserError. Shapes: S frames.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import pyarrow
import pyarrow.compute

from scal3r_train.config import UserError
from scal3r_train.data.camera.camera_model import CAMERA_MODELS, MODELS
from scal3r_train.data.io.depth_codec import CODECS
from scal3r_train.data.io.image_codec import RULE
from scal3r_train.data.sequence import SequenceRecord

WORDS: dict[str, Collection[str]] = {
    "camera_model": ("", *CAMERA_MODELS),
    "depth_codec": ("", *CODECS),
    "pixel_centre": ("half", "integer"),
}
RULES = ("mask_rule", "sky_mask_rule")
MAX_SIDE = 1 << 20
MAX_TIMES_LARGER = 1000  # entries of a Parquet file for each of its bytes: repetitions take none
REMEDY = "write it again with `scal3r data index`"


def check_columns(name: str, names: Collection[str], column: Callable[[str], pyarrow.ChunkedArray]) -> None:
    """Raise UserError unless the columns of an index are whole and fit together.

    Args:
        name: of the index.
        names: of its columns.
        column: returns one.
    """
    num_frames = column("num_frames")
    for field in names:
        values = column(field)
        if sum(map(_num_nulls, values.chunks)):
            raise UserError(f"index {name}: column '{field}' has empty cells; {REMEDY}")
        if not pyarrow.types.is_list(values.type):
            continue
        lengths = pyarrow.compute.list_value_length(values)
        fits = pyarrow.compute.equal(lengths, num_frames)
        if field not in ("image", "image_size", "timestamp"):
            fits = pyarrow.compute.or_(fits, pyarrow.compute.equal(lengths, 0))
        bad = pyarrow.compute.index(fits, value=False).as_py()
        if bad >= 0:
            sequence = column("sequence_id")[bad].as_py()
            raise UserError(
                f"index {name}: {field} of {sequence} has {lengths[bad].as_py()} entries for "
                f"{num_frames[bad].as_py()} frames; {REMEDY}"
            )
    for field in (*WORDS, *RULES):
        for word in pyarrow.compute.unique(column(field)).to_pylist():
            if field in WORDS and word not in WORDS[field]:
                known = ", ".join(filter(None, WORDS[field]))
                raise UserError(f"index {name}: {field} '{word[:40]}' is unknown; known are {known}")
            if field in RULES and word and RULE.fullmatch(word) is None:
                raise UserError(f"index {name}: {field} '{word[:40]}' must be 'below N' or 'from N'")


def check_numbers(record: SequenceRecord, path: str) -> None:
    """Raise UserError unless the numbers of a sequence are possible."""
    size, time = record.image_size, record.timestamp
    faults = {
        "it has no frames": record.num_frames == 0,
        "an image_size is not above 0": size.size and (size.min() < 1 or size.max() > MAX_SIDE),
        "focal lengths must be above 0, and all intrinsics finite": not _has_cameras(record),
        "a coefficient of the lens is not finite": record.distortion is not None
        and not np.isfinite(record.distortion).all(),
        "a timestamp is not finite": not np.isfinite(time).all(),
        "depth has no codec": any(record.depth) and not record.depth_codec,
        "masks have no rule": any(record.mask) and not record.mask_rule,
        "sky masks have no rule": any(record.sky_mask) and not record.sky_mask_rule,
        "depth_scale is not above 0": not (np.isfinite(record.depth_scale) and record.depth_scale > 0),
        "max_depth is below 0": not record.max_depth >= 0,
        "max_depth_percentile is not in 0..100": not 0 <= record.max_depth_percentile <= 100,
        "its lens has too many coefficients": _has_surplus(record),
        "covisible names frames that it has not": record.covisible is not None
        and bool(((record.covisible < -1) | (record.covisible >= record.num_frames)).any()),
        "a name holds a zero byte": any(
            "\0" in text
            for names in (record.image, record.depth, record.mask, record.sky_mask)
            for text in names
        )
        or "\0" in str(record.root),
    }
    fault = next((line for line, is_so in faults.items() if is_so), None)
    if fault is not None:
        raise UserError(f"{path}: sequence {record.sequence_id}: {fault}; {REMEDY}")


def _has_cameras(record: SequenceRecord) -> bool:
    """Whether intrinsics are possible where there are some."""
    values = record.intrinsics
    return values is None or bool(np.isfinite(values).all() and (values[:, :2] > 0).all())


def _has_surplus(record: SequenceRecord) -> bool:
    """Whether there are more coefficients than the lens's model has; without a lens they are not read."""
    if record.distortion is None or record.camera_model not in MODELS:
        return False
    return record.distortion.shape[1] > MODELS[record.camera_model][0]


def _num_nulls(values: pyarrow.Array) -> int:
    if not pyarrow.types.is_nested(values.type):
        return values.null_count
    return values.null_count + _num_nulls(values.flatten())
