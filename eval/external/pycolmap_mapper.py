"""COLMAP's incremental mapper on a sequence, through pycolmap: SIFT, matching along the video, mapping.

    python -m scal3r_eval.external.pycolmap_mapper INDEX OUT [stride=4] [sequences=[..]]

It gets every `stride`-th frame with the true intrinsics, which stay fixed; frames between two that were mapped are put
on the straight line and the shortest arc between them. Of several models the largest counts; frames outside of it have
no pose. Cameras of COLMAP are OpenCV's, its pixels count from the corner, as ours.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from scipy.spatial.transform import Rotation, Slerp

from scal3r_eval.external.command import ExternalSettings, known_intrinsics, run_external
from scal3r_train.config import UserError, run_command
from scal3r_train.data.io.frame_io import read_frame_image
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.geometry.camera import invert_extrinsics
from scal3r_train.scene.export.bundle_adjustment import require_pycolmap


class MapperSettings(ExternalSettings):
    """Of the mapper; all else is COLMAP's default."""

    stride: int = Field(1, ge=1, description="only every so many frames are mapped [frames]")
    overlap: int = Field(10, ge=1, description="next frames that each is matched with [frames]")
    max_minutes: float = Field(60.0, gt=0, description="mapping ends then; what is mapped counts [min]")
    num_threads: int = Field(1, ge=1, description="of COLMAP [threads]")


def mapped(
    record: SequenceRecord, frames: Sequence[int], settings: MapperSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Return the places [N] that have a pose, ascending, and world_from_cam [N, 3, 4] float64 in the model's unit.

    Raises:
        UserError: pycolmap is not there, an image cannot be read, a frame has no intrinsics, or nothing was mapped.
    """
    pycolmap = require_pycolmap("this method")
    chosen = list(range(0, len(frames), settings.stride))
    intrinsics = known_intrinsics(record, [frames[place] for place in chosen])
    with tempfile.TemporaryDirectory() as folder:
        names = _write_images(Path(folder) / "images", record, [frames[place] for place in chosen])
        model = _largest_model(pycolmap, Path(folder), names, intrinsics, settings)
    found = sorted(
        (chosen[names.index(image.name)], np.asarray(image.cam_from_world().matrix()))
        for image in model.images.values()
        if image.has_pose
    )
    if len(found) < 2:
        raise UserError(f"COLMAP mapped {len(found)} of {len(chosen)} frames")
    places = np.array([place for place, _ in found])
    cam_from_world = torch.from_numpy(np.stack([matrix for _, matrix in found]))
    world_from_cam = invert_extrinsics(cam_from_world).numpy()
    return between(places, world_from_cam, settings.stride)


def between(places: np.ndarray, world_from_cam: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return all places between those of `places` [N] that are at most `most` apart, and their poses [., 3, 4].

    world_from_cam: [N, 3, 4]; poses between two places lie on the line and the shortest arc.
    """
    every = np.arange(places[0], places[-1] + 1)
    after = np.searchsorted(places, every)
    before = np.where(places[after] == every, after, after - 1)
    every = every[places[after] - places[before] <= most]
    rotations = Slerp(places, Rotation.from_matrix(world_from_cam[:, :, :3]))(every).as_matrix()
    centres = np.stack([np.interp(every, places, world_from_cam[:, axis, 3]) for axis in range(3)], axis=1)
    return every, np.concatenate([rotations, centres[:, :, None]], axis=2)


def _largest_model(
    pycolmap: ModuleType, folder: Path, names: list[str], intrinsics: np.ndarray, settings: MapperSettings
) -> Any:
    """The reconstruction with most images. Raises UserError when there is none."""
    database, images = folder / "database.db", folder / "images"
    reader = pycolmap.ImageReaderOptions()
    is_one_camera = bool((intrinsics == intrinsics[0]).all())
    if not is_one_camera:
        raise UserError(
            "the focal lengths change along the sequence; this method takes one camera a sequence"
        )
    reader.camera_model = "PINHOLE"
    reader.camera_params = ",".join(str(float(value)) for value in intrinsics[0])
    extraction = pycolmap.FeatureExtractionOptions()
    extraction.num_threads, extraction.use_gpu = settings.num_threads, False
    pycolmap.extract_features(
        database_path=database,
        image_path=images,
        image_names=names,
        camera_mode=pycolmap.CameraMode.SINGLE,
        reader_options=reader,
        extraction_options=extraction,
        device=pycolmap.Device.cpu,
    )
    pairing = pycolmap.SequentialPairingOptions()
    pairing.overlap, pairing.quadratic_overlap = settings.overlap, True
    matching = pycolmap.FeatureMatchingOptions()
    matching.num_threads, matching.use_gpu = settings.num_threads, False
    pycolmap.match_sequential(
        database_path=database, matching_options=matching, pairing_options=pairing, device=pycolmap.Device.cpu
    )
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = settings.num_threads
    options.max_runtime_seconds = round(60 * settings.max_minutes)
    options.ba_refine_principal_point = options.ba_refine_extra_params = False
    (folder / "models").mkdir()
    models = pycolmap.incremental_mapping(database, images, folder / "models", options)
    if not models:
        raise UserError("COLMAP found no pair of frames to begin with")
    return max(models.values(), key=lambda model: model.num_reg_images())


def _write_images(folder: Path, record: SequenceRecord, frames: Sequence[int]) -> list[str]:
    folder.mkdir()
    names = []
    for index in frames:
        names.append(f"{index:08d}.png")
        Image.fromarray(read_frame_image(record, index)).save(folder / names[-1], compress_level=1)
    return names


if __name__ == "__main__":
    sys.exit(run_command(lambda: run_external(sys.argv[1:], "pycolmap_mapper", MapperSettings, mapped)))
