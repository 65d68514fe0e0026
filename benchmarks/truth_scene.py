"""A scene folder made from game_loop's ground truth: what a good model would leave behind.

Chunk predictions are the truth with the noise of `tests.inference.loop_closure.truth_chunks` (depth 1 %, poses 0.1
degrees and 1 % of a step, a random scale for every chunk), joined and closed by the code that reconstructions use. So
cameras, seams, loops and their verdicts are real; points are the true depth placed by the estimated cameras, coloured
by the images.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from scal3r_train import __version__
from scal3r_train.data.io.depth_codec import decode_depth
from scal3r_train.inference.loop_closure.edges import LoopEdge, close_loops
from scal3r_train.inference.loop_closure.settings import LoopEdgeSettings
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.scene.folder import partial_folder, publish_scene_folder, start_scene_folder
from scal3r_train.scene.point_cloud import PointCloud, VoxelDownsampler
from scal3r_train.scene.scene import SceneCameras, SceneFrame, SceneInfo, write_scene
from tests.inference.loop_closure.truth_chunks import CHUNK_SIZE, OVERLAP, Drive, drive, read_truth

FIRST_FRAMES, FALSE_PLACES, MIN_GAP = (20, 60, 100), (300, 900), 700
MAX_DEPTH = 45.0
PIXEL_STEP = 2
VOXEL_SIZE, MAX_POINTS = 0.12, 3_000_000
IMAGE_HW = (140, 252)


def make_truth_scene(source: Path, output: Path) -> None:
    """Write the scene of game_loop at `source` to the folder `output`."""
    start = time.perf_counter()
    whole = drive(read_truth(source))
    joined = time.perf_counter()
    settings = LoopEdgeSettings()
    pairs = [(first, whole.truth.closest_later_frame(first, MIN_GAP)) for first in FIRST_FRAMES]
    edges = [whole.loop_edge(*pair, settings) for pair in pairs]
    edges.append(whole.loop_edge(*FALSE_PLACES, settings, moved=whole.onto(*FALSE_PLACES)))
    placed, report = close_loops(whole.seams, edges, whole.ranges, settings)
    closed = time.perf_counter()
    world_from_cam = whole.trajectory(placed)
    units_per_metre = float(placed[0].scale * chunk_scale(whole))
    intrinsics, cloud = unprojected(source, world_from_cam, units_per_metre)
    points = time.perf_counter()
    info = scene_info(source, whole, len(cloud), VOXEL_SIZE * units_per_metre)
    info = info.model_copy(
        update={
            "world_from_chunk": tuple(tuple(map(tuple, sim3.matrix().tolist())) for sim3 in placed),
            "loops": tuple(
                loop_dict(pair, edge) for pair, edge in zip([*pairs, FALSE_PLACES], report.edges, strict=True)
            ),
            "pose_graph": report.as_dict(),
            "timings_s": {"align": joined - start, "loops": closed - joined, "place": points - closed},
        }
    )
    names = [f"rgb/{name.name}" for name in sorted((source / "rgb").iterdir())]
    frames = tuple(SceneFrame(name=name, image_hw=IMAGE_HW) for name in names)
    times = torch.from_numpy(np.loadtxt(source / "times.txt"))
    start_scene_folder(output)
    cameras = SceneCameras(info, frames, times, world_from_cam, intrinsics)
    write_scene(partial_folder(output), cameras, cloud)
    publish_scene_folder(output)


def chunk_scale(whole: Drive) -> float:
    """Return how long a metre is in chunk 0."""
    first = whole.chunks[0].extrinsics[:, :, 3].diff(dim=0).norm(dim=1).median()
    return float(first / whole.truth.world_from_cam[:CHUNK_SIZE, :, 3].diff(dim=0).norm(dim=1).median())


def unprojected(
    source: Path, world_from_cam: torch.Tensor, units_per_metre: float
) -> tuple[torch.Tensor, PointCloud]:
    """Return intrinsics [S, 3, 3] and the thinned cloud of all frames."""
    fx, fy, cx, cy = np.loadtxt(source / "calib.txt", skiprows=1)[:4]
    height, width = IMAGE_HW
    rows, columns = np.mgrid[0:height:PIXEL_STEP, 0:width:PIXEL_STEP]
    rays = np.stack([(columns - cx) / fx, (rows - cy) / fy, np.ones(rows.shape)], -1)
    downsampler = VoxelDownsampler(VOXEL_SIZE * units_per_metre, MAX_POINTS, 0)
    blocks: list[PointCloud] = []
    images, depths = sorted((source / "rgb").iterdir()), sorted((source / "depth").iterdir())
    for frame, (image, file) in enumerate(zip(images, depths, strict=True)):
        depth = decode_depth(file.read_bytes(), "uint16_cm", file.name)[::PIXEL_STEP, ::PIXEL_STEP]
        colours = np.asarray(Image.open(image).convert("RGB"))[::PIXEL_STEP, ::PIXEL_STEP]
        keep = (depth > 0) & (depth < MAX_DEPTH)
        camera = world_from_cam[frame].numpy()
        local = rays[keep] * depth[keep][:, None] * units_per_metre
        index = frame * height * width + (rows * width + columns)[keep]
        confidence = (1 + 60 / (3 + depth[keep])).astype(np.float32)
        blocks.append(PointCloud(local @ camera[:, :3].T + camera[:, 3], colours[keep], confidence, index))
        if len(blocks) == 100 or frame + 1 == len(images):
            downsampler.add(PointCloud.join(blocks))
            blocks = []
    matrix = torch.tensor([[fx, 0, cx + 0.5], [0, fy, cy + 0.5], [0, 0, 1]], dtype=torch.float64)
    return matrix.repeat(len(images), 1, 1), downsampler.result()


def scene_info(source: Path, whole: Drive, num_points: int, voxel_size: float) -> SceneInfo:
    """Return scene.json but for what loop closure gives."""
    num_frames = whole.ranges[-1].stop
    starts = [0, *(chunk.start + OVERLAP // 2 for chunk in whole.ranges[1:])]
    provided = zip(starts, [*starts[1:], num_frames], strict=True)
    recipe = ReconstructionRecipe().model_copy(deep=True).model_dump(mode="json")
    recipe["schedule"] |= {"chunk_size": CHUNK_SIZE, "overlap": OVERLAP}
    return SceneInfo(
        code_version=__version__,
        created=time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        input={
            "dataset": "game_loop",
            "sequence_id": "game_loop (from ground truth)",
            "root": str(source.resolve()),
            "num_frames": num_frames,
        },
        num_frames=num_frames,
        frame_indices=tuple(range(num_frames)),
        processed_hw=IMAGE_HW,
        chunks=tuple((chunk.start, chunk.stop) for chunk in whole.ranges),
        provided_frames=tuple(provided),
        world_from_chunk=(),
        seams=tuple(seam.quality.as_dict() for seam in whole.seams),
        state_plan={"store": "none", "reason": "no network took part"},
        num_points=num_points,
        voxel_size=voxel_size,
        recipe=recipe,
        checkpoint_sha256=None,
        num_processes=1,
        timings_s={},
        peak_memory_bytes={},
    )


def loop_dict(pair: tuple[int, int], edge: LoopEdge) -> dict[str, object]:
    """Return a loop as scene.json keeps it."""
    return {"frames": list(pair), "similarity": None, **replace(edge).as_dict()}
