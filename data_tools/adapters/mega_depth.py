"""MegaDepth: internet photos of landmarks; depth by multi-view stereo, cleaned; a unit of its own for each model.

Layout: SCENE/dense<k>/{imgs/NAME.jpg, depths/NAME.h5} and, in the package of SfM models, SCENE/sparse/manhattan/<k>/
{cameras, images}.txt of COLMAP, whose cameras are SIMPLE_RADIAL and those of the original photos: poses are
cam_from_world, quaternions wxyz. The two packages may be unpacked into one folder, or `sfm` names the other one.
`imgs` and depth are rectified (COLMAP's image_undistorter: pinhole, the focal length is kept and the size changes),
with the principal point where it was in proportion. Where images were resized too, the focal length follows from
OpenCV's getOptimalNewCameraMatrix for the file's size, which is right to about a percent. Pixel centres are at half
integers. Depth: HDF5 `depth`, 0 or negative = invalid (some files hold ordinal labels only, all negative: no depth at
all). Photos are unordered, in portrait and landscape format. Photos without pose or file are counted as missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from pydantic import Field

from scal3r_data_tools.formats.colmap import ColmapImage, is_model, read_cameras, read_images
from scal3r_data_tools.formats.files import folders_where, relative_name
from scal3r_data_tools.formats.reading import names_file
from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.camera.camera_model import Lens, lens_of
from scal3r_train.data.index.source import natural_key
from scal3r_train.data.io.image_codec import read_image_size
from scal3r_train.data.io.left_out import NO_IMAGE, NO_POSE, SEQUENCE, Cause, leave_out
from scal3r_train.data.sequence import SequenceRecord

MAX_LEVELS = 6
NOT_DENSE = Cause("in folders that are not called denseN")
KEPT_FOCAL = 0.02  # the estimate is that close when the images were not resized


class Options(StrictModel):
    """Where the other package is."""

    sfm: str = Field("", description='folder of the SfM package (SCENE/sparse/...); "": unpacked into SRC')


@dataclass(frozen=True)
class Photo:
    """A rectified photo: path below its scene's folder, size, fx fy cx cy, cam_from_world [3, 4]."""

    image: str
    hw: tuple[int, int]
    intrinsics: tuple[float, float, float, float]
    cam_from_world: np.ndarray


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """Records of all dense models in or below the folder, ordered by path."""
    source = source.resolve()
    for dense in folders_where(source, lambda names: "imgs" in names, MAX_LEVELS):
        number = re.fullmatch(r"dense(\d+)", dense.name)
        if number is None:
            leave_out(NOT_DENSE, [relative_name(dense, source)], source, SEQUENCE)
        else:
            yield _sequence(dense, _model_of(dense, number[1], source, options.sfm), source)


def rectified(
    camera_hw: tuple[int, int], lens: Lens, hw: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return fx fy cx cy of a rectified image of size hw, from the camera of the original photo."""
    fx, _, cx, cy = lens.intrinsics
    matrix = np.array([[fx, 0, cx - 0.5], [0, fx, cy - 0.5], [0, 0, 1]])  # OpenCV's centres are integers
    coefficients = np.zeros(4)
    coefficients[: len(lens.coefficients)] = lens.coefficients[:4]
    size = camera_hw[::-1]
    optimal, _ = cv2.getOptimalNewCameraMatrix(
        matrix, coefficients, size, alpha=0, newImgSize=hw[::-1], centerPrincipalPoint=True
    )
    focal = fx if abs(optimal[0, 0] / fx - 1) < KEPT_FOCAL else float(optimal[0, 0])
    return focal, focal, cx * hw[1] / camera_hw[1], cy * hw[0] / camera_hw[0]


def _model_of(dense: Path, number: str, source: Path, sfm: str) -> Path:
    scene = dense.parent
    roots = [scene]
    if sfm:
        inside = scene.relative_to(source) if scene.is_relative_to(source) else Path(scene.name)
        roots = [Path(sfm) / inside, Path(sfm) / scene.name]
    for root in roots:
        for model in (root / "sparse" / "manhattan" / number, root / "sparse" / number):
            if is_model(model):
                return model
    raise UserError(
        f"{dense}: no model {roots[0]}/sparse/manhattan/{number}; unpack the SfM package, name it with sfm=FOLDER"
    )


@names_file("dense")
def _sequence(dense: Path, model: Path, source: Path) -> SequenceRecord:
    cameras = read_cameras(model)
    files = {path.stem: path.name for path in (dense / "imgs").iterdir()}
    listed = sorted(read_images(model), key=lambda image: natural_key(image.name))
    photos: list[Photo] = []
    absent: list[str] = []
    unposed: list[str] = []
    for image in listed:
        name = files.get(Path(image.name).stem)
        if name is None or not _is_usable(image):
            (absent if name is None else unposed).append(f"imgs/{name or image.name}")
            continue
        camera, hw = cameras[image.camera_id], read_image_size(dense / "imgs" / name)
        intrinsics = rectified(camera.hw, lens_of(camera), hw)
        photos.append(Photo(name, hw, intrinsics, image.cam_from_world))
    leave_out(NO_IMAGE, absent, dense)
    leave_out(NO_POSE, unposed, dense)
    if not photos:
        raise UserError(
            f"{dense}/imgs holds none of the {len(listed)} images of {model}; do the packages fit?"
        )
    depths = [f"depths/{Path(photo.image).stem}.h5" for photo in photos]
    depths = [name if (dense / name).is_file() else "" for name in depths]
    return SequenceRecord(
        dataset="mega_depth",
        sequence_id=relative_name(dense, source),
        root=dense,
        image=tuple(f"imgs/{photo.image}" for photo in photos),
        image_size=np.array([photo.hw for photo in photos], np.int64),
        timestamp=np.arange(len(photos), dtype=np.float64),
        depth=tuple(depths) if any(depths) else (),
        depth_codec="hdf5_depth" if any(depths) else "",
        camera_model="pinhole",
        intrinsics=np.array([photo.intrinsics for photo in photos]),
        cam_from_world=np.stack([photo.cam_from_world for photo in photos]),
        num_missing=len(listed) - len(photos),
        is_ordered=False,
        licence="CC BY 4.0; the photos are their owners'",
        source="MegaDepth",
    )


def _is_usable(image: ColmapImage) -> bool:
    return bool(np.isfinite(image.cam_from_world).all())
