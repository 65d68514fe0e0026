"""Map-free relocalization: pairs of walks with a phone around 655 places; cameras in metres, no depth.

Layouts, told apart by their files. As published: {train, val, test}/s%05d/{intrinsics.txt, poses.txt, seq0, seq1} with
frame_%05d.jpg, numbers may be left out. A line of intrinsics.txt is `seq0/frame_00000.jpg fx fy cx cy width height`,
one of poses.txt `seq0/frame_00000.jpg qw qx qy qz tx ty tz`, cam_from_world in metres, OpenCV axes (the set's README).
Each of seq0 and seq1 is a sequence. val and test have one reference image in seq0, which alone is no sequence; poses
of test are zeros, so those frames are left out, as are all without file or finite pose. poses_device.txt (the phone's
own tracking) is not read. The rate is not published: timestamps are frame numbers / 30. Pixel centres: taken to be at
half integers. Or CUT3R's preprocessing, SCENE/dense{0,1}/{rgb, depth, cam, sky_mask} (`cut3r.py`), with depth by
multi-view stereo that is dropped beyond 400 m and above the 98th percentile.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from scal3r_data_tools.adapters import cut3r
from scal3r_data_tools.formats.files import Names, folders_where
from scal3r_data_tools.formats.poses import pose_from_wxyz
from scal3r_data_tools.formats.reading import names_file
from scal3r_data_tools.formats.text import read_named_rows
from scal3r_train.data.io.left_out import NO_CAMERA, NO_IMAGE, NO_POSE, SEQUENCE, Cause, leave_out
from scal3r_train.data.sequence import SequenceRecord

FRAMES_PER_SECOND = 30.0
MAX_LEVELS = 4
MIN_FRAMES = 2
SPLITS = ("train", "val", "test")
SINGLE = Cause("of fewer than two frames")
FACTS: dict[str, Any] = {
    "dataset": "map_free",
    "is_metric": True,
    "licence": "Niantic Map-free terms, non-commercial research",
    "source": "Map-free Visual Relocalization",
}

PROCESSED = cut3r.Options(
    dataset="map_free",
    max_depth=400.0,
    max_depth_percentile=98.0,
    is_metric=True,
    pixel_centre="half",
    licence=FACTS["licence"],
)


def index(source: Path) -> Iterator[SequenceRecord]:
    """Records of all sequences in or below the folder, ordered by path."""
    source = source.resolve()
    for folder in folders_where(source, {"poses.txt", "intrinsics.txt"}.issubset, MAX_LEVELS):
        yield from _scene(folder, source)
    for record in cut3r.index(source, PROCESSED):
        yield replace(record, source=FACTS["source"])


@names_file("folder")
def _scene(folder: Path, source: Path) -> Iterator[SequenceRecord]:
    poses = read_named_rows(folder / "poses.txt", 7)
    cameras = read_named_rows(folder / "intrinsics.txt", 6)
    there = Names(folder)
    prefix = "" if folder == source else folder.relative_to(source).as_posix() + "/"
    split = next((part for part in folder.parts[::-1] if part in SPLITS), "train")
    for sequence in sorted({name.partition("/")[0] for name in poses}):
        listed = sorted(name for name in poses if name.partition("/")[0] == sequence)
        usable = [name for name in listed if _is_pose(poses[name]) and name in cameras]
        found = {name: there.find(name) for name in listed}
        names = [name for name in usable if found[name]]
        lacking = [name for name in listed if not found[name]]
        unposed = [name for name in listed if found[name] and not _is_pose(poses[name])]
        leave_out(NO_IMAGE, lacking, folder)
        leave_out(NO_POSE, unposed, folder)
        leave_out(
            NO_CAMERA, [n for n in listed if found[n] and n not in unposed and n not in cameras], folder
        )
        if len(names) < MIN_FRAMES:
            leave_out(SINGLE, [prefix + sequence], source, SEQUENCE)
            leave_out(SINGLE, names, folder)
            continue
        pose, camera = np.stack([poses[name] for name in names]), np.stack([cameras[name] for name in names])
        yield SequenceRecord(
            sequence_id=prefix + sequence,
            split=split,
            root=folder,
            image=tuple(found[name] for name in names),
            image_size=camera[:, [5, 4]].astype(np.int64),
            timestamp=np.array([_number(name) for name in names]) / FRAMES_PER_SECOND,
            camera_model="pinhole",
            intrinsics=camera[:, :4],
            cam_from_world=pose_from_wxyz(pose[:, :4], pose[:, 4:]),
            num_missing=len(listed) - len(names),
            **FACTS,
        )


def _is_pose(row: np.ndarray) -> bool:
    return bool(np.isfinite(row).all() and np.linalg.norm(row[:4]) > 0)


def _number(name: str) -> int:
    return int(re.findall(r"\d+", name)[-1])
