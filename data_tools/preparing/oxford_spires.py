"""Sparse depth for Oxford Spires: the laser scan (TLS) of a site projected into a sequence's fisheye images.

Writes OUTPUT/NAME/CAMERA/TIME.png, uint16 of 1/256 m (0 = nothing), in the camera's own, distorted image at
1/`downscale` of its size; index with `depth`=OUTPUT. OUTPUT/clouds/SITE.npy holds the scans in a form that is opened
fast. What is there is not written again. The scan of NAME = DATE-SITE-NUMBER is sought in SRC/ground_truth_map/SITE,
the finest first. In four sequences scan and trajectory are known not to fit; they are skipped.
"""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from pydantic import Field

from scal3r_data_tools.adapters import oxford_spires
from scal3r_data_tools.formats.files import folders_where
from scal3r_data_tools.formats.point_cloud import (
    PiecewiseCloud,
    read_piecewise,
    read_points,
    write_piecewise,
)
from scal3r_data_tools.preparing.sparse_depth import Projection, drawn_points, visible_depth
from scal3r_data_tools.progress import progress
from scal3r_train.config import UserError, atomic_output, dump_yaml, write_text_atomically
from scal3r_train.data.depth_codec import encode_uint16

SITE = re.compile(r"(?:\d{4}-\d{2}-\d{2}-)?(.+?)(?:-\d{1,2})?")
SETTINGS = "settings.yaml"
MISALIGNED = (
    "2024-03-14-blenheim-palace-01",
    "2024-03-14-blenheim-palace-02",
    "2024-03-14-blenheim-palace-05",
    "2024-03-18-christ-church-01",
)


class Options(oxford_spires.Options):
    """Those of the index, and how depth is made."""

    cloud: Path | None = Field(
        None, description="The scan as .ply or .pcd, when not in SRC/ground_truth_map."
    )
    downscale: int = Field(2, ge=1, description="Images are this many times larger than their depth.")
    max_depth: float = Field(100.0, gt=0, le=255, description="Metres beyond which points are not used.")
    window: int = Field(4, ge=0, description="Radius in pixels in which nearer points hide one; 0: none do.")
    max_enclosure: float = Field(2.5, description="How enclosed a point may be, -4 .. 4 (sparse_depth.py).")
    skip: tuple[str, ...] = Field(MISALIGNED, description="Sequences to leave out.")
    num_workers: int = Field(4, ge=0, description="Processes; 0: this one.")


@dataclass(frozen=True)
class _Frame:
    """One depth map to be made."""

    target: Path
    cloud: Path
    cam_from_world: np.ndarray
    camera: Projection
    window: int
    max_enclosure: float


def prepare(source: Path, output: Path, options: Options) -> None:
    """Write the depth of all sequences below `source` that is not there yet.

    Raises UserError when a sequence or its scan is missing, or part of its depth was made with other options.
    """
    source, output = source.resolve(), output.resolve()
    folders = folders_where(source, lambda names: "processed" in names, oxford_spires.SEARCH_LEVELS)
    wanted = [
        folder
        for folder in folders
        if folder.name not in options.skip and (folder / oxford_spires.TRUTH).is_file()
    ]
    if not wanted:
        raise UserError(
            f"{source} holds no sequence with {oxford_spires.TRUTH} to prepare; check SRC and skip"
        )
    frames = [frame for folder in wanted for frame in _frames(folder, source, output, options)]
    if options.num_workers == 0:
        for frame in progress(frames, len(frames), "depth"):
            _make(frame)
        return
    with multiprocessing.get_context("spawn").Pool(options.num_workers) as pool:
        for _ in progress(pool.imap_unordered(_make, frames), len(frames), "depth"):
            pass


def _frames(folder: Path, source: Path, output: Path, options: Options) -> Iterator[_Frame]:
    """What is still to be done for one sequence."""
    record = oxford_spires.raw_sequence(folder, source, options.model_copy(update={"depth": None}))
    assert record.intrinsics is not None
    assert record.distortion is not None
    assert record.cam_from_world is not None
    cloud = _piecewise_cloud(folder, source, output, options)
    height, width = (int(side) for side in record.image_size[0])
    depth_hw = height // options.downscale, width // options.downscale
    to_depth = np.tile([depth_hw[1] / width, depth_hw[0] / height], 2)
    centre = np.array([0, 0, 0.5, 0.5])  # the index has pixel centres at integers
    camera = Projection(
        record.camera_model,
        (record.intrinsics[0] + centre) * to_depth,
        record.distortion[0],
        depth_hw,
        options.max_depth,
    )
    target = oxford_spires.depth_folder(output, folder, options.camera)
    _check_settings(target / SETTINGS, options)
    for image, pose in zip(record.image, record.cam_from_world, strict=True):
        file = target / f"{Path(image).stem}.png"
        if not file.is_file():
            yield _Frame(file, cloud, pose, camera, options.window, options.max_enclosure)


def _check_settings(path: Path, options: Options) -> None:
    """Write down how depth is made; raise UserError when what is there was made otherwise."""
    changes_depth = options.model_copy(update={"num_workers": 0, "skip": (), "depth": None})
    text = dump_yaml(changes_depth)
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise UserError(f"{path} says that depth was made with other options; give the same, or another OUT")
    write_text_atomically(path, text)


def _piecewise_cloud(folder: Path, source: Path, output: Path, options: Options) -> Path:
    site = SITE.fullmatch(folder.name)
    assert site is not None, "the pattern matches any name"
    scan = options.cloud
    if scan is None:
        place = next(
            (
                above / "ground_truth_map"
                for above in (source, *folder.parents)
                if (above / "ground_truth_map").is_dir()
            ),
            source / "ground_truth_map",
        )
        found = sorted([*(place / site[1]).glob("*.pcd"), *(place / site[1]).glob("*.ply")])
        if not found:
            raise UserError(f"{place / site[1]} holds no .pcd or .ply; download the scan, or give cloud=FILE")
        scan = found[0]  # merged-cloud-1cm comes before -5cm
    target = output / "clouds" / f"{site[1] if options.cloud is None else scan.stem}.npy"
    if not target.is_file():
        write_piecewise(target, read_points(scan))
    return target


@lru_cache(maxsize=1)
def _opened(path: Path) -> PiecewiseCloud:
    return read_piecewise(path)


def _make(frame: _Frame) -> None:
    rotation, translation = frame.cam_from_world[:, :3], frame.cam_from_world[:, 3]
    reach = 2 * frame.camera.max_depth  # rays to the corners are longer than z
    pieces = _opened(frame.cloud).near(-rotation.T @ translation, rotation[2], reach)
    points = drawn_points(pieces, frame.cam_from_world, frame.camera)
    depth = visible_depth(points, frame.window, frame.max_enclosure)
    done, data = cv2.imencode(".png", encode_uint16(depth, oxford_spires.DEPTH_CODEC))
    assert done
    with atomic_output(frame.target) as temporary:
        temporary.write_bytes(data.tobytes())
