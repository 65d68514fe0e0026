"""A folder of images, a file of poses and a calibration, as nearly everybody has them.

SRC holds the images, in itself or in a folder (images, image, rgb, color, colour, image_2, cam0/data, PV, ..); poses in
one file or one file an image (`scal3r_data_tools.formats.pose_files` says in which forms); a calibration
(`intrinsics_files`) or a field of view; and, if there are any, depth maps, masks and time stamps. Options name what is
called otherwise and say what files do not: direction and axes of the poses, codec of depth, metric or not. What was
found and how it was read is said in one line; `scal3r data check` then says whether it can be true.

Which pose belongs to which image is told, in this order, by names in the pose file (with or without folder and suffix),
by time where both have times, by the numbers in the images' names where they count the poses, else by order, which
needs as many poses as images.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator
from scipy.spatial.transform import Rotation

from scal3r_data_tools.formats.files import note, note_turned
from scal3r_data_tools.formats.intrinsics_files import IntrinsicsTable, intrinsics_of_numbers, read_intrinsics
from scal3r_data_tools.formats.matching import (
    MatchBy,
    Matched,
    example_of,
    frame_keys,
    match_poses,
    numbers_of,
    times_of_names,
)
from scal3r_data_tools.formats.pose_files import PoseTable, read_pose_file, read_pose_table
from scal3r_data_tools.formats.poses import (
    FLU_FROM_OPENCV,
    NED_FROM_OPENCV,
    OPENGL_FROM_OPENCV,
    Trajectory,
    inverted,
    opencv_world_from_cam,
)
from scal3r_data_tools.formats.reading import names_file
from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.camera.camera_model import CAMERA_MODELS
from scal3r_train.data.index.source import in_order, is_image_name
from scal3r_train.data.io.depth_codec import CODECS
from scal3r_train.data.io.image_codec import ImageHeader, read_image_header
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.text_file import read_text_file

IMAGE_FOLDERS = (
    "images",
    "image",
    "rgb",
    "color",
    "colour",
    "image_2",
    "cam0/data",
    "PV",
    "undistorted",
    "frames",
    "",
)
POSE_FILES = (
    "poses.txt",
    "pose.txt",
    "groundtruth.txt",
    "trajectory.txt",
    "traj.txt",
    "traj_gt.txt",
    "poses.csv",
    "poses.json",
    "cameras.json",
    "pv.txt",
    "state_groundtruth_estimate0/data.csv",
)
POSE_FOLDERS = ("poses", "pose", "cameras", "extrinsics", "")
POSE_SUFFIXES = (".txt", ".npy", ".camera")
INTRINSICS_FILES = (
    "intrinsics.txt",
    "intrinsic.txt",
    "camera-intrinsics.txt",
    "calib.txt",
    "calibration.txt",
    "K.txt",
    "intrinsics.json",
    "camera.json",
    "intrinsics/intrinsic_color.txt",
)
TIME_FILES = ("times.txt", "timestamps.txt", "rgb.txt")
DEPTH_FOLDERS = ("depth", "depths", "depth_maps")
DEPTH_SUFFIXES = (".png", ".npy", ".exr", ".pfm", ".h5", ".hdf5", ".tif", ".tiff")
AXES = {
    "opencv": np.eye(3),
    "opengl": OPENGL_FROM_OPENCV,
    "ned": NED_FROM_OPENCV,
    "flu": FLU_FROM_OPENCV,
}


class Options(StrictModel):
    """What is called otherwise, and what the files do not say. Paths are relative to SRC."""

    images: str = Field(
        "auto", description="Folder of the images; auto: the first of the usual names that is there."
    )
    poses: str = Field("auto", description="File of the poses, or folder with a file for each image.")
    intrinsics: str = Field(
        "auto",
        description="File of the calibration, or the numbers fx fy cx cy (pixels) themselves; none: not known.",
    )
    calibration_row: str = Field("P2", description="Line of a KITTI calib.txt that belongs to the images.")
    fov_x_deg: float | None = Field(
        None, gt=0, lt=180, description="Horizontal field of view, instead of a calibration [deg]"
    )
    calibrated_size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = Field(
        None, description="Width and height that the calibration is for; null: those of the images [pixels]"
    )
    camera_model: str = Field("pinhole", description=f"Lens: {', '.join(CAMERA_MODELS)}.")
    distortion: tuple[float, ...] = Field(
        (), description="Coefficients of the lens, in its model's order [-]"
    )
    pixel_centre: Literal["half", "integer"] = Field(
        "half",
        description="Coordinate of the top-left pixel's centre that cx, cy refer to: (0.5, 0.5) or (0, 0).",
    )
    poses_are: Literal["world_from_cam", "cam_from_world"] = Field(
        "world_from_cam",
        description="Direction: world_from_cam has the camera's position in its last column.",
    )
    camera_axes: Literal["auto", "opencv", "opengl", "ned", "flu"] = Field(
        "auto",
        description="Camera axes of the poses: opencv x right y down z forward; opengl x right y up z backward; ned "
        "x forward y right z down; flu x forward y left z up; auto: those of the format, else opencv.",
    )
    match: MatchBy = Field("auto", description="By what a pose is found for an image.")
    times: str = Field(
        "auto", description="File of time stamps, one an image, after its name or alone; none: none."
    )
    fps: float | None = Field(
        None, gt=0, description="Rate of the images, where there are no times [frames/s]"
    )
    max_gap_s: float = Field(0.02, gt=0, description="Furthest pose in time that an image may take [s]")
    interpolate: bool = Field(
        False, description="Interpolate between two poses in time instead of taking the nearest."
    )
    depth: str = Field(
        "auto", description="Folder of depth maps, named as the images are; none: not to be used."
    )
    depth_codec: str = Field(
        "",
        description="How depth files are read; a name of data/io/depth_codec.py, needed with depth in PNG.",
    )
    max_depth_m: float = Field(0.0, ge=0, description="Depth beyond is not used; 0: no limit [m]")
    masks: str = Field("none", description="Folder of masks, named as the images are.")
    mask_rule: str = Field("below 1", description="Mask values that mark pixels not to be used.")
    is_metric: bool = Field(False, description="Whether lengths are metres.")
    split: str = Field("test", description="Split that the sequence belongs to.")

    @model_validator(mode="after")
    def _names_are_known(self) -> Options:
        if self.camera_model not in CAMERA_MODELS:
            raise ValueError(f"camera_model {self.camera_model} is not one of {', '.join(CAMERA_MODELS)}")
        if self.depth_codec and self.depth_codec not in CODECS:
            raise ValueError(f"depth_codec {self.depth_codec} is not one of {', '.join(CODECS)}")
        if self.fov_x_deg is not None and self.intrinsics not in ("auto", "none"):
            raise ValueError("give either fov_x_deg or intrinsics")
        return self


def index(source: Path, options: Options) -> Iterator[SequenceRecord]:
    """The one sequence of the folder."""
    source = source.resolve()
    if not source.is_dir():
        raise UserError(f"{source} is no folder; name the one that holds images and poses")
    folder, images = _images(source, options)
    headers = {name: read_image_header(folder / name) for name in images}
    note_turned(folder, [name for name in images if headers[name].is_turned])
    yield _sequence(source, folder, headers, options)


@names_file("source")
def _sequence(
    source: Path, folder: Path, headers: dict[str, ImageHeader], options: Options
) -> SequenceRecord:
    images = list(headers)
    stamps = _times(source, images, options)
    pose, matched, table, where = _poses(source, folder, images, stamps, options)
    is_turned = np.array([header.is_turned for header in headers.values()])
    known = np.flatnonzero((matched.row >= 0) & ~is_turned)
    if not len(known):
        raise UserError(
            f"{source}: none of the {len(images)} images (the first is {images[0]}) has a pose in {where}, whose "
            f"{example_of(table)}; they were compared by {matched.rule}, change match=, times= or max_gap_s="
        )
    kept = [images[place] for place in known]
    sizes = np.array([headers[name].hw for name in kept], np.int64)
    found, calibration = _calibration(source, options)
    if found is not None and found.cam_from_rig is not None:
        pose[:, :, 3] += found.cam_from_rig
        calibration += f", {np.linalg.norm(found.cam_from_rig):.3g} from the camera that is posed"
    intrinsics = _intrinsics(images, known, sizes, table, matched, found, calibration, options)
    prefix = "" if folder == source else f"{folder.relative_to(source).as_posix()}/"
    depth, codec = _depth(source, folder, kept, options)
    masks = _beside(source, options.masks, kept, (".png",)) if options.masks != "none" else ()
    times = stamps[known] if stamps is not None else known / (options.fps or 1.0)
    note(
        f"{source.name}: {len(kept)} of {len(images)} images have a pose; {where} read as {table.form}, "
        f"{options.poses_are}, {_axes(options, table)} axes, matched by {matched.rule}; {calibration}"
        + (f"; {sum(map(bool, depth))} depth maps" if depth else "")
    )
    return SequenceRecord(
        dataset="posed",
        sequence_id=source.name,
        split=options.split,
        root=source,
        image=tuple(f"{prefix}{name}" for name in kept),
        image_size=sizes,
        timestamp=times,
        depth=depth,
        depth_codec=codec,
        mask=masks,
        mask_rule=options.mask_rule if masks else "",
        camera_model="" if intrinsics is None else options.camera_model,
        intrinsics=intrinsics,
        distortion=np.tile(options.distortion, (len(kept), 1)) if options.distortion else None,
        cam_from_world=pose[known],
        pixel_centre=options.pixel_centre,
        num_missing=len(images) - len(kept) + matched.num_unused,
        is_metric=options.is_metric,
        max_depth=options.max_depth_m,
        source="posed",
    )


def _images(source: Path, options: Options) -> tuple[Path, list[str]]:
    """Folder and names, in order, of the images."""
    choices = IMAGE_FOLDERS if options.images == "auto" else (options.images,)
    for choice in choices:
        folder = source / choice
        names = (
            [
                path.name
                for path in folder.iterdir()
                if is_image_name(path.name) and path.is_file() and not re.search(r"(?i)depth|mask", path.name)
            ]
            if folder.is_dir()
            else []
        )
        if names:
            return folder, in_order(names)
    there = ", ".join(sorted(path.name for path in source.iterdir() if path.is_dir())[:6]) or "no folder"
    raise UserError(
        f"{source} holds no images in {options.images if options.images != 'auto' else 'the usual folders'}; name "
        f"theirs with images=FOLDER (there is {there})"
    )


def _times(source: Path, images: list[str], options: Options) -> np.ndarray | None:
    """Time stamps [S] in seconds, by name or by order, None without."""
    if options.times == "none":
        return None
    if options.times == "auto":
        path = next(
            (
                source / name
                for name in ("times.txt", "timestamps.txt", "rgb.txt")
                if (source / name).is_file()
            ),
            None,
        )
        if path is None:
            return times_of_names(images)
    else:
        path = source / options.times
    try:
        lines = read_text_file(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    rows = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    try:
        pairs = [row.split(maxsplit=1) for row in rows]
        if all(len(pair) == 1 for pair in pairs):
            times = np.array([float(pair[0]) for pair in pairs])
            return _times_by_order(times, images, path)
        by_name = {Path(rest).name: float(time) for time, rest in pairs}
    except ValueError as error:
        raise UserError(
            f"{path}: {error}; a line is a time in seconds, or a time and the name of an image"
        ) from None
    lacking = [name for name in images if name not in by_name]
    if len(lacking) == len(images):
        raise UserError(f"{path} names {next(iter(by_name))}, but the images are called {images[0]}")
    return np.array([by_name.get(name, np.nan) for name in images])


def _times_by_order(times: np.ndarray, images: list[str], path: Path) -> np.ndarray:
    if len(times) == len(images):
        return times
    numbers = numbers_of(images)
    if numbers is not None and numbers.max() < len(times):
        return times[numbers]
    raise UserError(
        f"{path} has {len(times)} times for {len(images)} images; give times=none or the right file"
    )


def _poses(
    source: Path, folder: Path, images: list[str], stamps: np.ndarray | None, options: Options
) -> tuple[np.ndarray, Matched, PoseTable, str]:
    """cam_from_world [S, 3, 4] with OpenCV axes, by what each was found, the table, and its name."""
    path = _pose_source(source, folder, images, options)
    table = _table_of_files(path, images) if path.is_dir() else read_pose_table(path)
    where = path.name if path != source else "files beside the images"
    world_from_cam = inverted(table.pose) if options.poses_are == "cam_from_world" else table.pose
    world_from_cam = opencv_world_from_cam(world_from_cam, AXES[_axes(options, table)])
    usable = np.isfinite(world_from_cam).all((1, 2))
    matched = match_poses(images, stamps, table, where, options.match, options.max_gap_s)
    pose = np.full((len(images), 3, 4), np.nan)
    if matched.rule == "time" and options.interpolate:
        assert stamps is not None, "matched by them"
        assert table.time is not None, "matched by them"
        pose, found = _between(world_from_cam[usable], table.time[usable], stamps, path, options)
        return inverted(pose), Matched(np.where(found, matched.row, -1), "time, interpolated"), table, where
    row = np.where((matched.row >= 0) & usable[matched.row], matched.row, -1)
    pose[row >= 0] = world_from_cam[row[row >= 0]]
    return inverted(pose), Matched(row, matched.rule, matched.num_unused), table, where


def _between(
    world_from_cam: np.ndarray, times: np.ndarray, stamps: np.ndarray, path: Path, options: Options
) -> tuple[np.ndarray, np.ndarray]:
    quaternion = Rotation.from_matrix(world_from_cam[:, :, :3]).as_quat()
    trajectory = Trajectory.of(times, world_from_cam[:, :, 3], quaternion, path)
    return trajectory.at(stamps, options.max_gap_s, interpolate=True)


def _axes(options: Options, table: PoseTable) -> str:
    if options.camera_axes != "auto":
        return options.camera_axes
    return "opengl" if table.is_opengl else "opencv"


def _pose_source(source: Path, folder: Path, images: list[str], options: Options) -> Path:
    if options.poses != "auto":
        path = source / options.poses
        if not path.exists():
            raise UserError(f"{path} does not exist; poses= is a file or a folder below {source}")
        return path
    places = dict.fromkeys((source, folder, folder.parent))
    for place in places:
        for name in POSE_FILES:
            if (place / name).is_file():
                return place / name
    for place in places:
        for name in POSE_FOLDERS:
            if (place / name).is_dir() and _pose_files(place / name, images[:1]):
                return place / name
    others = sorted(path.name for path in source.iterdir() if path.is_file() and not is_image_name(path.name))
    files = ", ".join(others[:6]) or "no file"
    raise UserError(
        f"{source} has no file of poses of a usual name; name it with poses=FILE (there is {files})"
    )


def _pose_files(folder: Path, images: list[str]) -> dict[str, str]:
    """The file of its own that an image has, by the image's name: same stem, or the same number in the same place."""
    by_key: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in POSE_SUFFIXES and path.is_file():
            for key in frame_keys(path.name):
                by_key.setdefault(key, path.name)
    return {name: by_key[key] for name in images for key in frame_keys(name) if key in by_key}


def _table_of_files(folder: Path, images: list[str]) -> PoseTable:
    files = _pose_files(folder, images)
    if not files:
        raise UserError(
            f"{folder} holds no pose file ({', '.join(POSE_SUFFIXES)}) for {images[0]} or any other image"
        )
    tables = [read_pose_file(folder / file) for file in files.values()]
    own = [table.intrinsics for table in tables if table.intrinsics is not None]
    return PoseTable(
        np.concatenate([table.pose for table in tables]),
        tables[0].form,
        name=tuple(files),
        intrinsics=np.concatenate(own) if len(own) == len(tables) else None,
        size_hw=tables[0].size_hw,
    )


def _calibration(source: Path, options: Options) -> tuple[IntrinsicsTable | None, str]:
    """What is given or lies there, and how to call it; None where a pose file or a field of view may say it."""
    if options.fov_x_deg is not None:
        return None, f"field of view {options.fov_x_deg:g} degrees, centre of the image"
    if options.intrinsics == "none":
        return None, "no calibration"
    if options.intrinsics == "auto":
        path = next((source / name for name in INTRINSICS_FILES if (source / name).is_file()), None)
        if path is None:
            return None, "no calibration file"
        return read_intrinsics(path, options.calibration_row), f"calibration of {path.name}"
    words = re.split(r"[\s,]+", options.intrinsics.strip())
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        path = source / options.intrinsics
        return read_intrinsics(path, options.calibration_row), f"calibration of {options.intrinsics}"
    found = intrinsics_of_numbers(numbers, "intrinsics")
    if not np.isfinite(found.values).all() or (found.values[:, :2] <= 0).any():
        raise UserError(f"intrinsics = {options.intrinsics!r}: focal lengths must be above 0")
    return found, "calibration of the command line"


def _intrinsics(
    images: list[str],
    known: np.ndarray,
    sizes: np.ndarray,
    table: PoseTable,
    matched: Matched,
    found: IntrinsicsTable | None,
    where: str,
    options: Options,
) -> np.ndarray | None:
    """Fx fy cx cy [N, 4] of the images that have a pose, in their own pixels; None when nothing says them."""
    if options.fov_x_deg is not None:
        width, height = sizes[:, 1], sizes[:, 0]
        focal = width / 2 / math.tan(math.radians(options.fov_x_deg) / 2)
        offset = 0.0 if options.pixel_centre == "half" else 0.5
        return np.stack([focal, focal, width / 2 - offset, height / 2 - offset], 1)
    if options.intrinsics == "none":
        return None
    if found is None:
        if table.intrinsics is None:
            note("no calibration was found; give intrinsics='fx fy cx cy', intrinsics=FILE or fov_x_deg=")
            return None
        return _resized(table.intrinsics[matched.row[known]], table.size_hw, sizes, options)
    values = found.values
    if found.name:
        row = {name.rsplit("/", 1)[-1]: place for place, name in enumerate(found.name)}
        lacking = next((images[place] for place in known if images[place] not in row), None)
        if lacking is not None:
            raise UserError(f"{where} names {found.name[0]!r} but not {lacking!r}")
        values = values[[row[images[place]] for place in known]]
    elif len(values) == len(images):
        values = values[known]
    elif len(values) != 1:
        raise UserError(f"{where} has {len(values)} lines for {len(images)} images; one for all, or one each")
    return _resized(np.broadcast_to(values, (len(known), 4)), found.size_hw, sizes, options)


def _resized(
    values: np.ndarray, size_hw: np.ndarray | None, sizes: np.ndarray, options: Options
) -> np.ndarray:
    """The calibration at the images' size, where it was made at another."""
    if options.calibrated_size is not None:
        size_hw = np.array(options.calibrated_size[::-1])
    if size_hw is None:
        return np.array(values)
    scale = (sizes / size_hw)[:, ::-1]
    offset = 0.0 if options.pixel_centre == "half" else 0.5
    return np.concatenate([values[:, :2] * scale, (values[:, 2:] + offset) * scale - offset], 1)


def _depth(source: Path, folder: Path, images: list[str], options: Options) -> tuple[tuple[str, ...], str]:
    """Depth file of each image, "" without, and their codec."""
    if options.depth == "none":
        return (), ""
    choices = DEPTH_FOLDERS if options.depth == "auto" else (options.depth,)
    place = next((choice for choice in choices if (source / choice).is_dir()), None)
    if place is None:
        beside = _beside(source, folder.relative_to(source).as_posix(), images, DEPTH_SUFFIXES, "depth")
        if options.depth != "auto":
            raise UserError(f"{source / options.depth} does not exist; depth= is a folder below {source}")
        if not beside:
            return (), ""
        found = beside
    else:
        found = _beside(source, place, images, DEPTH_SUFFIXES)
    if not found:
        raise UserError(
            f"{source / str(place)} holds no depth map named as the images are ({images[0]}); give depth=none"
        )
    suffix = Path(next(filter(None, found))).suffix.lower()
    codec = options.depth_codec or {".npy": "npy", ".exr": "exr", ".pfm": "pfm"}.get(suffix, "")
    if not codec:
        raise UserError(
            f"{source}: depth in {suffix} files needs depth_codec=, such as uint16_mm or uint16_cm; or depth=none"
        )
    return found, codec


def _beside(
    source: Path, place: str, images: list[str], suffixes: tuple[str, ...], word: str = ""
) -> tuple[str, ...]:
    """The file of a folder that belongs to each image, "" without; () when none has one."""
    folder = source / place
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist")
    by_key: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and word in path.name.lower():
            for key in frame_keys(path.name):
                by_key.setdefault(key, path.name)
    prefix = "" if place in ("", ".") else f"{place}/"
    found = tuple(
        next((f"{prefix}{by_key[key]}" for key in frame_keys(name) if key in by_key), "") for name in images
    )
    return found if any(found) else ()
