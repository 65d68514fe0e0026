"""Scenes as CUT3R's preprocessing leaves them, for sets that are shared in that form.

Layout: FOLDER/{rgb/NAME.png|jpg, depth/NAME.npy, cam/NAME.npz, sky_mask/NAME.png, outlier_mask/NAME.png}. cam holds
`intrinsic` (3x3, pixels) and `pose` (world_from_cam 4x4, OpenCV axes); depth is z in the unit of the poses, 0 invalid.
A mask of at least 127 marks sky or a depth that is not to be used; masks and depth may be missing. All images of a
folder have one size. Pixel centres: taken to be at half integers (the files do not say; COLMAP made the cameras).
Frames without camera file, or with one that cannot be read or is not finite, are counted as missing.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from scal3r_data_tools.adapters.axes import inverted
from scal3r_train.config import UserError
from scal3r_train.data.image_codec import read_image_size
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.data.source import IMAGE_SUFFIXES, natural_key

MARKED = "from 127"
FOLDERS = ("rgb", "cam")  # what marks a scene


def scene(folder: Path, **fields: Any) -> SequenceRecord:
    """Return the record of one folder; `fields` are those that do not follow from the files.

    Raises UserError when none of the images has a camera.
    """
    names = [path.name for path in (folder / "rgb").iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    names.sort(key=natural_key)
    cameras = [_camera(folder / "cam" / f"{Path(name).stem}.npz") for name in names]
    present = [(name, camera) for name, camera in zip(names, cameras, strict=True) if camera is not None]
    if not present:
        raise UserError(f"{folder}/rgb has {len(names)} images, none of them a camera in {folder}/cam")
    stems = [Path(name).stem for name, _ in present]
    intrinsics, poses = (np.stack(values) for values in zip(*(camera for _, camera in present), strict=True))

    def files(kind: str, end: str) -> tuple[str, ...]:
        found = [f"{kind}/{stem}{end}" for stem in stems]
        there = tuple(name if (folder / name).is_file() else "" for name in found)
        return there if any(there) else ()

    depth, sky, outliers = files("depth", ".npy"), files("sky_mask", ".png"), files("outlier_mask", ".png")
    return SequenceRecord(
        root=folder,
        image=tuple(f"rgb/{name}" for name, _ in present),
        image_size=np.tile(read_image_size(folder / "rgb" / present[0][0]), (len(present), 1)),
        timestamp=np.arange(len(present), dtype=np.float64),
        depth=depth,
        depth_codec="npy" if depth else "",
        mask=outliers,
        mask_rule=MARKED if outliers else "",
        sky_mask=sky,
        sky_mask_rule=MARKED if sky else "",
        camera_model="pinhole",
        intrinsics=intrinsics,
        cam_from_world=inverted(poses),
        num_missing=len(names) - len(present),
        **fields,
    )


def _camera(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Return fx fy cx cy [4] and world_from_cam [3, 4] of a camera file, None when it cannot be used."""
    try:
        with np.load(path, allow_pickle=False) as file:
            matrix, pose = (file[key].astype(np.float64) for key in ("intrinsic", "pose"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if (
        matrix.shape != (3, 3)
        or pose.shape != (4, 4)
        or not np.isfinite([*matrix.ravel(), *pose.ravel()]).all()
    ):
        return None
    return matrix[[0, 1, 0, 1], [0, 1, 2, 2]], pose[:3]
