"""What true points and true depth depend on besides the poses: of it are the identities of what is kept of them."""

from __future__ import annotations

import hashlib

from scal3r_eval.sequences import EvalSequence
from scal3r_train.data.sequence import SequenceRecord

# Of the whole sequence, in the order that they are hashed in.
FIELDS = (
    "root",
    "depth_codec",
    "depth_scale",
    "max_depth",
    "max_depth_percentile",
    "mask_rule",
    "sky_mask_rule",
    "camera_model",
    "pixel_centre",
    "quarter_turns",
    "packed",
)
ARRAYS = ("intrinsics", "distortion", "cam_from_world", "image_size")  # a row a frame
FILES = ("depth", "mask", "sky_mask")  # a name a frame


def truth_files_sha256(sequence: EvalSequence) -> str:
    """Return one hash of how depth is read, of the cameras, and of names and sizes of depth and mask files.

    Files that are packed or not there have no size. Their contents are not read: a file that was replaced by one of the
    same size is not noticed.
    """
    record, frames = sequence.record, list(sequence.frame_indices)
    digest = hashlib.sha256()
    for name in FIELDS:
        digest.update(f"{name}={vars(record)[name]!s}\n".encode())
    for name in ARRAYS:
        values = vars(record)[name]
        shown = None if values is None else values[frames]
        digest.update(f"{name}={None if shown is None else (shown.shape, str(shown.dtype))}\n".encode())
        digest.update(b"" if shown is None else shown.tobytes())
    for name in FILES:
        names = vars(record)[name]
        for frame in frames if names else ():
            digest.update(f"{name} {names[frame]} {_size(record, names[frame])}\n".encode())
    return digest.hexdigest()


def _size(record: SequenceRecord, name: str) -> int | None:
    """Bytes of a file of its own, None without."""
    path = record.root / name
    return path.stat().st_size if name and record.packed is None and path.is_file() else None
