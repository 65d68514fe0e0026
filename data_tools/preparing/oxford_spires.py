"""Sparse depth for Oxford Spires: the laser scan (TLS) of a site projected into a sequence's fisheye images.

Writes OUTPUT/NAME/CAMERA/TIME.png, uint16 of 1/256 m (0 = nothing), in the camera's own, distorted image at
1/`downscale` of its size; index with `depth`=OUTPUT. OUTPUT/clouds/SITE.npy holds the scans in a form that is opened
fast. What is there is not written again. The scan of NAME = DATE-SITE-NUMBER is sought in SRC/ground_truth_map/SITE,
the finest first. In four sequences scan and trajectory are known not to fit; they are skipped.

The depth of a pixel is that of the nearest point in it, without points that something hides. A cloud has holes,
through which a camera would see what is behind. A pixel's point p is hidden if, seen from it,
neighbours lie towards the camera on all sides: in each of the four quadrants of a window around the pixel the largest
cosine between the directions to a neighbour's point and to the camera is taken, and their sum says how enclosed p is
(4: entirely; below 2 on a plane, whatever its slant, since opposite neighbours cancel). Neighbours in the pixel's own
row and column are left out: points lie anywhere in their pixels, so on a slanted plane those beside one seem nearer or
farther by chance. After Pintus, Gobbetti and Agus, "Real-time rendering of massive unstructured raw point clouds using
screen-space operators", VAST 2011.
Shapes: P points, H W pixels.
"""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from pydantic import Field

from scal3r_data_tools.adapters import oxford_spires
from scal3r_data_tools.formats.files import folders_where
from scal3r_data_tools.formats.point_cloud import PiecewiseCloud, read_piecewise, read_points, write_piecewise
from scal3r_data_tools.jobs import progress
from scal3r_train.config import UserError, atomic_output, dump_yaml, write_text_atomically
from scal3r_train.data.camera.camera_model import distort
from scal3r_train.data.io.depth_codec import encode_uint16

MIN_DEPTH_M = 0.1
MAX_TANGENT = 4.0  # beyond 76 degrees a fisheye's polynomial may turn back into the image
CLOSE_TO_ZERO = 1e-9
SITE = re.compile(r"(?:\d{4}-\d{2}-\d{2}-)?(.+?)(?:-\d{1,2})?")
SETTINGS = "settings.yaml"
MISALIGNED = (
    "2024-03-14-blenheim-palace-01",
    "2024-03-14-blenheim-palace-02",
    "2024-03-14-blenheim-palace-05",
    "2024-03-18-christ-church-01",
)


@dataclass(frozen=True)
class Projection:
    """A camera that points are drawn into.

    Attributes:
        model: a camera_model.CAMERA_MODELS.
        intrinsics: fx fy cx cy, pixel centres at half integers.
        coefficients: of the lens.
        image_hw: size in pixels.
        max_depth: metres.
    """

    model: str
    intrinsics: np.ndarray
    coefficients: np.ndarray
    image_hw: tuple[int, int]
    max_depth: float


def drawn_points(pieces: Iterable[np.ndarray], cam_from_world: np.ndarray, camera: Projection) -> np.ndarray:
    """Nearest point in each pixel [H, W, 3] float32, in the camera's frame, zero where there is none.

    pieces: points [P, 3] in the world; cam_from_world: [3, 4].
    """
    height, width = camera.image_hw
    nearest = np.zeros((height * width, 3), np.float32)
    for piece in pieces:
        points = piece.astype(np.float64) @ cam_from_world[:, :3].T + cam_from_world[:, 3]
        z = points[:, 2]
        in_front = (z > MIN_DEPTH_M) & (z <= camera.max_depth)
        in_front &= (np.abs(points[:, :2]) < MAX_TANGENT * z[:, None]).all(1)
        points = points[in_front]
        plane = distort(points[:, :2] / points[:, 2:], camera.model, camera.coefficients)
        column, row = np.floor(plane * camera.intrinsics[:2] + camera.intrinsics[2:]).astype(np.int64).T
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        points, pixel = points[inside], row[inside] * width + column[inside]
        known = nearest[pixel, 2]
        is_nearer = (known == 0) | (points[:, 2] < known)
        points, pixel = points[is_nearer], pixel[is_nearer]
        order = np.argsort(
            -points[:, 2], kind="stable"
        )  # of several in a pixel the nearest comes last and stays
        nearest[pixel[order]] = points[order]
    return nearest.reshape(height, width, 3)


def enclosure(points: np.ndarray, radius: int) -> np.ndarray:
    """How enclosed each pixel's point is, [H, W] float32 in -4 .. 4.

    points: [H, W, 3] in the camera's frame, zero where there is none; radius: of the window, in pixels. A quadrant
    without points counts -1.
    """
    height, width = points.shape[:2]
    distance = np.linalg.norm(points, axis=-1)
    to_camera = -points / np.maximum(distance, CLOSE_TO_ZERO)[..., None]
    largest = np.full((4, height, width), -1, np.float32)
    for down, right, quadrant in _window(radius):
        here = slice(max(-down, 0), height - max(down, 0)), slice(max(-right, 0), width - max(right, 0))
        there = slice(max(down, 0), height - max(-down, 0)), slice(max(right, 0), width - max(-right, 0))
        towards = points[there] - points[here]
        length = np.linalg.norm(towards, axis=-1)
        cosine = (towards * to_camera[here]).sum(-1) / np.maximum(length, CLOSE_TO_ZERO)
        cosine[(distance[there] == 0) | (distance[here] == 0)] = -1
        np.maximum(largest[quadrant][here], cosine, out=largest[quadrant][here])
    return largest.sum(0)


def visible_depth(points: np.ndarray, radius: int, max_enclosure: float) -> np.ndarray:
    """z-depth [H, W] float32, 0 where there is no point or something hides it. Arguments as of `enclosure`."""
    is_visible = enclosure(points, radius) < max_enclosure
    return np.where(is_visible, points[..., 2], np.float32(0))


def _window(radius: int) -> Iterator[tuple[int, int, int]]:
    """Offsets down and right of all neighbours that are in a quadrant, and which one."""
    for down in range(-radius, radius + 1):
        for right in range(-radius, radius + 1):
            if down and right:
                yield down, right, 2 * (down > 0) + (right > 0)


class Options(oxford_spires.Options):
    """Those of the index, and how depth is made."""

    cloud: Path | None = Field(
        None, description="The scan as .ply or .pcd, when not in SRC/ground_truth_map."
    )
    downscale: int = Field(2, ge=1, description="Images are this many times larger than their depth [factor]")
    max_depth: float = Field(100.0, gt=0, le=255, description="Points farther away are not used [m]")
    window: int = Field(4, ge=0, description="Radius in which nearer points hide one; 0: none do [pixels]")
    max_enclosure: float = Field(
        2.5, ge=-4, description="How enclosed a point may be, -4 .. 4 (oxford_spires.py) [score]"
    )
    skip: tuple[str, ...] = Field(MISALIGNED, description="Sequences to leave out, by name.")
    num_workers: int = Field(4, ge=0, description="Processes that work at a time; 0: this one [processes]")


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
