"""A scene: what a reconstruction leaves behind, in memory, and how it is written into a folder and read again.

scene.json (`SceneInfo`), frames.jsonl, trajectory.tum, intrinsics.txt, points.ply; on request depth/NNNNNN.npz. World
coordinates are those of the first frame's camera (OpenCV: x right, y down, z forward) in the units that chunk 0
was predicted in, or in metres with `alignment.metric`. In trajectory.tum and intrinsics.txt every float64 reads back to
the same bits.

Shapes: S frames, N points, H W pixels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import roma
import torch
from pydantic import ValidationError
from torch import Tensor

from scal3r_train.config import StrictModel, UserError, write_text_atomically, writing
from scal3r_train.data.io.depth_codec import MAX_DEPTH_BYTES
from scal3r_train.data.io.numpy_files import read_npz
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.geometry.camera import intrinsics_matrices
from scal3r_train.scene.folder import INFO_NAME, read_steady
from scal3r_train.scene.metric_scale import Georeference, MetricScale
from scal3r_train.scene.ply import PlyReader, write_ply
from scal3r_train.scene.point_cloud import PointCloud


def tum_rows(timestamps: Tensor, world_from_cam: Tensor) -> Tensor:
    """Return [S, 8] rows: time, camera centre, orientation as an xyzw quaternion with w >= 0."""
    quaternion_xyzw = roma.rotmat_to_unitquat(world_from_cam[:, :, :3])
    quaternion_xyzw = torch.where(quaternion_xyzw[:, 3:] < 0, -quaternion_xyzw, quaternion_xyzw)
    return torch.cat([timestamps[:, None], world_from_cam[:, :, 3], quaternion_xyzw], dim=-1)


def write_table(path: Path, header: str, rows: Tensor) -> None:
    """Write rows of numbers under a comment line; every float64 reads back to the same bits."""
    lines = [" ".join(map(repr, row)) for row in rows.double().tolist()]
    write_text_atomically(path, "\n".join([f"# {header}", *lines]) + "\n")


def read_table(path: Path, num_columns: int) -> Tensor:
    """Return the numbers of a table with comment lines, [S, num_columns] float64.

    Raises:
        UserError: the file is missing, or not every row has `num_columns` numbers.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [[float(word) for word in line.split()] for line in lines if not line.startswith("#")]
    except (OSError, ValueError):
        raise UserError(f"{path} is missing or damaged; reconstruct the scene again") from None
    if any(len(row) != num_columns for row in rows):
        raise UserError(f"{path} must have {num_columns} numbers in every row; reconstruct the scene again")
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, num_columns)


FRAMES_NAME, TRAJECTORY_NAME, INTRINSICS_NAME, POINTS_NAME, DEPTH_NAME = (
    "frames.jsonl",
    "trajectory.tum",
    "intrinsics.txt",
    "points.ply",
    "depth",
)


class SceneInfo(StrictModel):
    """scene.json. Lengths are in `units`; timings in seconds, of all starts of a run that was interrupted; memory in
    bytes, the most of any process, of the last start.

    `chunks` are [start, stop) in frames of the scene and `provided_frames` those frames of each whose result was kept;
    `world_from_chunk` are 4 x 4 similarities by rows, and `seams` say how each chunk joins the one before it
    (`SeamQuality` in inference/alignment/seam.py). `breaks` are the chunks at whose start the trajectory is torn.
    `chunk_scales` says how far the log-scales of chunks (`chunk_std`) and of seams (`seam_std`) were found to spread,
    how many times noisier seams are than they state, which share of that is drift of the chunks, and the scale of every
    chunk as a factor of chunk 0's: `before` as the seams say, `after` as it is in `world_from_chunk`; None where each
    seam's own scale was taken.
    `loops` are all candidates of loop closure with their verdicts, and `pose_graph` what closing the accepted ones did;
    None when none was closed. `scale` says how sure metres are (None without `alignment.metric`), `georeference` where
    on the Earth the world lies (None without a GPS track). `state_plan` says where the states of chunks were kept, and
    why. `device` is the main process's, for people; None in scenes of before.
    """

    format_version: Literal[2] = 2
    code_version: str
    created: str
    input: dict[str, Any]
    num_frames: int
    frame_indices: tuple[int, ...]
    processed_hw: tuple[int, int]
    units: str = "model units"
    scale_source: str = "prediction of chunk 0"
    scale: MetricScale | None = None
    georeference: Georeference | None = None
    world_frame: str = "camera of the first frame, OpenCV axes"
    chunks: tuple[tuple[int, int], ...]
    provided_frames: tuple[tuple[int, int], ...]
    world_from_chunk: tuple[tuple[tuple[float, ...], ...], ...]
    seams: tuple[dict[str, Any], ...]
    breaks: tuple[int, ...] = ()
    chunk_scales: dict[str, Any] | None = None
    loops: tuple[dict[str, Any], ...] = ()
    pose_graph: dict[str, Any] | None = None
    state_plan: dict[str, Any] = {}
    num_points: int
    voxel_size: float
    recipe: dict[str, Any]
    checkpoint_sha256: str | None
    num_processes: int
    device: str | None = None
    timings_s: dict[str, float]
    peak_memory_bytes: dict[str, int]


class SceneFrame(StrictModel):
    """One line of frames.jsonl: the input image of a frame.

    `name` is its path below `SceneInfo.input["root"]` (`VIDEO#12` is frame 12 of a video file), `image_hw` its height
    and width in pixels. points.ply is ordered by frame; `num_points` of its points are this frame's (None: unknown).
    """

    name: str
    image_hw: tuple[int, int]
    num_points: int | None = None


@dataclass(frozen=True, eq=False)
class SceneCameras:
    """A scene in memory but for its points.

    Attributes:
        info: scene.json.
        frames: S input images.
        timestamps: [S] float64 seconds, or frame indices where the source has no times.
        world_from_cam: [S, 3, 4] float64.
        intrinsics: [S, 3, 3] float64 in pixels of the input images, centre of the top-left pixel (0.5, 0.5).
    """

    info: SceneInfo
    frames: tuple[SceneFrame, ...]
    timestamps: Tensor
    world_from_cam: Tensor
    intrinsics: Tensor

    @property
    def images_root(self) -> Path:
        """Where the names of the input images started when the scene was made."""
        return Path(str(self.info.input.get("root", "")))

    def input_record(self, root: Path) -> SequenceRecord:
        """Return the input images below `root` again, as a sequence without cameras."""
        return SequenceRecord(
            dataset="images",
            sequence_id="scene",
            root=root,
            image=tuple(frame.name for frame in self.frames),
            image_size=np.array([frame.image_hw for frame in self.frames], np.int64),
            timestamp=np.arange(len(self.frames), dtype=np.float64),
        )


@dataclass(frozen=True, eq=False)
class Scene(SceneCameras):
    """A scene in memory.

    Attributes:
        positions, colours, confidence: [N, 3] float32, [N, 3] uint8 and [N] float32 of the point cloud.
    """

    positions: np.ndarray
    colours: np.ndarray
    confidence: np.ndarray


def write_scene(folder: Path, cameras: SceneCameras, points: PointCloud) -> None:
    """Write everything but depth into a folder; scene.json comes last.

    Args:
        folder: that exists.
        cameras: all but the points; its frames need not know their number of points.
        points: in the order of their `source`, as `PointCloud.join` and `VoxelDownsampler` give them.

    Raises:
        OSError: as the files do.
    """
    info, intrinsics = cameras.info, cameras.intrinsics
    write_ply(folder / POINTS_NAME, points.positions, points.colours, points.confidence)
    frames = _with_counts(cameras.frames, points, info.processed_hw)
    write_text_atomically(folder / FRAMES_NAME, "".join(f"{frame.model_dump_json()}\n" for frame in frames))
    columns = "timestamp tx ty tz qx qy qz qw (world_from_cam)"
    write_table(folder / TRAJECTORY_NAME, columns, tum_rows(cameras.timestamps, cameras.world_from_cam))
    columns = "fx fy cx cy (pixels of the input image, centre of the top-left pixel at 0.5 0.5)"
    entries = [intrinsics[:, 0, 0], intrinsics[:, 1, 1], intrinsics[:, 0, 2], intrinsics[:, 1, 2]]
    write_table(folder / INTRINSICS_NAME, columns, torch.stack(entries, dim=-1))
    fields = [
        f" {json.dumps(key)}: {json.dumps(value)}" for key, value in info.model_dump(mode="json").items()
    ]
    write_text_atomically(folder / INFO_NAME, "{\n" + ",\n".join(fields) + "\n}\n")


def write_depth(folder: Path, frame: int, depth: np.ndarray, confidence: np.ndarray) -> None:
    """Write one frame's z-depth [H, W] in world units and its confidence [H, W], both float32."""
    path = depth_path(folder, frame)
    with writing(f"scene {folder}"):
        path.parent.mkdir(exist_ok=True)
        np.savez(path, depth=depth.astype(np.float32), confidence=confidence.astype(np.float32))


def read_depth(folder: Path, frame: int) -> np.ndarray:
    """Return the depth [H, W] float32 that `write_depth` wrote; UserError when it is missing or damaged."""
    path = depth_path(folder, frame)
    try:
        return np.asarray(read_npz(path, ("depth",), MAX_DEPTH_BYTES)["depth"], np.float32)
    except (OSError, ValueError, KeyError):
        raise UserError(f"{path} is missing or damaged; reconstruct the scene again") from None


def depth_path(folder: Path, frame: int) -> Path:
    """Return where the depth of a frame of the scene lies."""
    return folder / DEPTH_NAME / f"{frame:06d}.npz"


def load_scene(folder: str | PathLike[str]) -> Scene:
    """Return a scene that `write_scene` wrote, also while another process replaces it by newer ones.

    Raises:
        UserError: the folder or one of its files is missing, damaged, or its parts disagree.
    """
    path = Path(folder)
    cameras, points = read_steady(path, lambda: open_scene(path))
    with points:
        positions, colours, confidence = points.read()
    return Scene(**vars(cameras), positions=positions, colours=colours, confidence=confidence)


def open_scene(folder: Path) -> tuple[SceneCameras, PlyReader]:
    """Return a scene without its points, and the open file of these, which the caller closes; raises as `load_scene`.

    While another process may replace the folder, call it through `read_steady`; the open file stays the one it was.
    """
    info = load_scene_info(folder)
    trajectory = read_table(folder / TRAJECTORY_NAME, 8)
    intrinsics = read_table(folder / INTRINSICS_NAME, 4)
    frames = _read_frames(folder / FRAMES_NAME)
    points = PlyReader(folder / POINTS_NAME)
    counts = {len(trajectory), len(intrinsics), len(frames), info.num_frames, len(info.frame_indices)}
    if len(counts) > 1 or points.num_points != info.num_points:
        points.close()
        raise UserError(f"scene {folder} is damaged: its files disagree on the counts; reconstruct it again")
    rotation = roma.unitquat_to_rotmat(torch.nn.functional.normalize(trajectory[:, 4:], dim=-1))
    cameras = SceneCameras(
        info=info,
        frames=frames,
        timestamps=trajectory[:, 0],
        world_from_cam=torch.cat([rotation, trajectory[:, 1:4, None]], dim=-1),
        intrinsics=intrinsics_matrices(intrinsics.numpy()),
    )
    return cameras, points


def load_scene_info(folder: Path) -> SceneInfo:
    """Return scene.json of a folder; UserError when it is none of ours."""
    path = folder / INFO_NAME
    try:
        return SceneInfo.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} is no scene folder: it has no {INFO_NAME}; check the path") from None
    except (OSError, UnicodeDecodeError, ValidationError):
        raise UserError(f"{path} is damaged or of another version; reconstruct the scene again") from None


def _with_counts(
    frames: Sequence[SceneFrame], points: PointCloud, image_hw: tuple[int, int]
) -> list[SceneFrame]:
    """Return the frames, each with the number of its points."""
    assert (points.source[1:] >= points.source[:-1]).all(), "points are not in the order of their source"
    of_frame = np.bincount(points.source // (image_hw[0] * image_hw[1]), minlength=len(frames))
    counts = zip(frames, of_frame.tolist(), strict=True)
    return [frame.model_copy(update={"num_points": number}) for frame, number in counts]


def _read_frames(path: Path) -> tuple[SceneFrame, ...]:
    """Return the lines of frames.jsonl."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return tuple(SceneFrame.model_validate_json(line) for line in lines)
    except (OSError, ValueError):
        raise UserError(f"{path} is missing or damaged; reconstruct the scene again") from None
