"""The unified layout of VGGT-Omega's training code, which public sets may be converted to.

Layout: SCENE/{images/NAME, depths/STEM.exr, image_names.json, cam_from_worlds.npy, intrinsics.npy}. image_names.json
lists the images in the order of the arrays; cam_from_worlds [N, 3, 4], OpenCV axes; intrinsics [N, 3, 3] in pixels of
the images, pinhole, pixel centres at half integers (VGGT's convention). Depth: z in the unit of the poses, 0 invalid,
one channel (converters that write depths/STEM.npy are read too). Masks are 0 where depth is invalid; which folder
holds them differs by set: option `mask`. ranking.npy is not read. Whether frames follow time and lengths are metres,
the files do not say: options. Frames without image or finite camera are counted as missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import Field

from scal3r_data_tools.formats.files import Names, folders_where, relative_name
from scal3r_data_tools.formats.json_files import read_json
from scal3r_data_tools.formats.reading import names_file
from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.io.image_codec import read_image_size
from scal3r_train.data.io.left_out import NO_CAMERA, NO_IMAGE, leave_out
from scal3r_train.data.io.numpy_files import read_npy
from scal3r_train.data.sequence import SequenceRecord

MAX_LEVELS = 6
NAMES_FILE, POSES_FILE, INTRINSICS_FILE = "image_names.json", "cam_from_worlds.npy", "intrinsics.npy"


class Options(StrictModel):
    """What the files do not say."""

    mask: str = Field("", description='folder of the masks in each scene, 0 = no valid depth; "": none')
    is_ordered: bool = Field(False, description="whether image_names.json follows time")
    is_metric: bool = Field(False, description="whether lengths are metres")
    is_synthetic: bool = Field(False, description="whether images are rendered")
    is_dynamic: bool = Field(False, description="whether things move")
    licence: str = Field("that of the converted set", description="licence of the set, for the index")


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """Records of all scenes in or below the folder, ordered by path."""
    source = source.resolve()
    for folder in folders_where(source, lambda names: NAMES_FILE in names, MAX_LEVELS):
        yield _scene(folder, source, options)


@names_file("folder")
def _scene(folder: Path, source: Path, options: Options) -> SequenceRecord:
    names = read_json(folder / NAMES_FILE)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{folder / NAMES_FILE} is no list of names")
    poses = _array(folder / POSES_FILE, (len(names), 3, 4))
    matrices = _array(folder / INTRINSICS_FILE, (len(names), 3, 3))
    finite = np.isfinite(poses).all((1, 2)) & np.isfinite(matrices).all((1, 2))
    there = Names(folder / "images")
    found = [there.find(name) for name in names]
    rows = [row for row, name in enumerate(found) if finite[row] and name]
    if not rows:
        raise UserError(
            f"{folder}/images holds none of the {len(names)} images of {NAMES_FILE} with a camera; the first is "
            f"{names[0] if names else 'none'}, {there.nearest(names[0]) if names else ''}"
        )
    leave_out(NO_IMAGE, [names[row] for row in range(len(names)) if not found[row]], folder / "images")
    unposed = [found[row] for row in range(len(names)) if found[row] and not finite[row]]
    leave_out(NO_CAMERA, unposed, folder / "images")
    names = found
    stems = [Path(names[row]).stem for row in rows]

    def files(kind: str, end: str) -> tuple[str, ...]:
        there = [
            f"{kind}/{stem}{end}" if (folder / kind / f"{stem}{end}").is_file() else "" for stem in stems
        ]
        return tuple(there) if any(there) else ()

    exr, npy = files("depths", ".exr"), files("depths", ".npy")
    mask = files(options.mask, ".png") if options.mask else ()
    return SequenceRecord(
        dataset="vggt_omega",
        sequence_id=relative_name(folder, source),
        root=folder,
        image=tuple(f"images/{names[row]}" for row in rows),
        image_size=np.array([read_image_size(folder / "images" / names[row]) for row in rows], np.int64),
        timestamp=np.arange(len(rows), dtype=np.float64),
        depth=exr or npy,
        depth_codec="exr" if exr else "npy" if npy else "",
        mask=mask,
        mask_rule="below 1" if mask else "",
        camera_model="pinhole",
        intrinsics=matrices[rows][:, [0, 1, 0, 1], [0, 1, 2, 2]],
        cam_from_world=poses[rows],
        num_missing=len(names) - len(rows),
        is_ordered=options.is_ordered,
        is_metric=options.is_metric,
        is_synthetic=options.is_synthetic,
        is_dynamic=options.is_dynamic,
        licence=options.licence,
        source="VGGT-Omega unified layout",
    )


def _array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of a .npy file as float64. Raises UserError when it is missing, damaged or of another shape."""
    try:
        array = read_npy(path).astype(np.float64)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; is this the layout of VGGT-Omega?") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if array.shape != shape:
        raise UserError(f"{path} has shape {array.shape}, expected {shape} for the images of {NAMES_FILE}")
    return array
