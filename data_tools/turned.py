"""Frames whose files ask to be turned (EXIF, XMP) have no place beside poses, which belong to the stored pixels.

One rule for all sets: they are left out and counted. Adapters that read every header leave them out themselves
(`formats.files.note_turned`); of the others, sets with thousands of equal images, a sample of headers tells whether all
have to be read.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from scal3r_data_tools.formats.files import note_turned
from scal3r_train.config import UserError
from scal3r_train.data.io.frame_files import video_frame
from scal3r_train.data.io.image_codec import DamagedImageError, read_image_header
from scal3r_train.data.sequence import SequenceRecord

NUM_SAMPLED = 16


def without_turned(record: SequenceRecord) -> SequenceRecord:
    """Return a sequence without the frames that are turned; the same where it has no poses or none is.

    Raises:
        UserError: every frame is turned.
    """
    if (
        record.cam_from_world is None
        or record.packed is not None
        or video_frame(record, record.image[0]) is not None
    ):
        return record
    sampled = np.unique(np.linspace(0, record.num_frames - 1, NUM_SAMPLED).astype(int))
    if not any(_is_turned(record, int(frame)) for frame in sampled):
        return record
    turned = [frame for frame in range(record.num_frames) if _is_turned(record, frame)]
    note_turned(record.root, [record.image[frame] for frame in turned])
    kept = np.setdiff1d(np.arange(record.num_frames), turned).tolist()
    if not kept:
        raise UserError(
            f"{record.root}: all {record.num_frames} images are to be turned by EXIF against their poses"
        )
    return replace(record.of_frames(kept), num_missing=record.num_missing + len(turned))


def _is_turned(record: SequenceRecord, frame: int) -> bool:
    path = record.root / record.image[frame]
    try:
        return path.is_file() and read_image_header(path).is_turned
    except DamagedImageError:  # `scal3r data check` finds those
        return False
