"""Numbers of cameras that can be true, whatever file they come from; the same rule for all sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scal3r_train.config import UserError
from scal3r_train.data.io.left_out import note_once
from scal3r_train.data.sequence import SequenceRecord

MIN_FOCAL, MAX_FOCAL = (
    0.05,
    100.0,
)  # of the image's width: 170 degrees of a fisheye, 0.6 degrees of a telescope
MAX_STRETCH = 3.0  # focal lengths of the two axes
MAX_CENTRE = 1.0  # principal point outside of the image, of the image's size: crops are that far off


def check_numbers(record: SequenceRecord, source: Path) -> None:
    """Check sizes, times and cameras of a sequence.

    Raises:
        UserError: a number is not finite, or a size or focal length not above 0; the line names the first frame. What
            is possible but strange (a focal length of 0.8 pixels) is only said.
    """
    _refuse(record, source, "image size", record.image_size, np.asarray((record.image_size > 0).all(1)))
    _refuse(record, source, "time", record.timestamp[:, None], np.isfinite(record.timestamp[:, None]).all(1))
    if record.distortion is not None:
        _refuse(record, source, "distortion", record.distortion, np.isfinite(record.distortion).all(1))
    values = record.intrinsics
    if values is None:
        return
    good = np.isfinite(values).all(1) & (values[:, :2] > 0).all(1)
    _refuse(record, source, "fx fy cx cy", values, good)
    size = record.image_size[:, ::-1]
    strange = (values[:, 0] < MIN_FOCAL * size[:, 0]) | (values[:, 0] > MAX_FOCAL * size[:, 0])
    strange |= np.abs(np.log(values[:, 0] / values[:, 1])) > np.log(MAX_STRETCH)
    strange |= (np.abs(values[:, 2:] / size - 0.5) > 0.5 + MAX_CENTRE).any(1)
    if strange.any():
        frame = int(strange.argmax())
        numbers = " ".join(f"{number:.5g}" for number in values[frame])
        note_once(
            "strange cameras",
            f"{source}: fx fy cx cy = {numbers} of {record.sequence_id} {record.image[frame]} ({size[frame][0]}x"
            f"{size[frame][1]} pixels) and {int(strange.sum()) - 1} more are strange; are they in pixels of the "
            "images?",
        )


def _refuse(record: SequenceRecord, source: Path, what: str, values: np.ndarray, good: np.ndarray) -> None:
    if not good.all():
        frame = int(np.argmin(good))
        numbers = " ".join(f"{number:.6g}" for number in values[frame])
        above = " and above 0" if what in ("image size", "fx fy cx cy") else ""
        raise UserError(
            f"{source}: {what} of {record.sequence_id} frame {frame} ({record.image[frame]}) is {numbers}; it must be "
            f"finite{above}; correct it in the source and index again"
        )
