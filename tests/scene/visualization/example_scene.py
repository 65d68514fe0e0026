"""A small scene to look at: a ring of cameras over a green floor with a magenta block, torn once, with two loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.scene.folder import partial_folder, publish_scene_folder, start_scene_folder
from scal3r_train.scene.point_cloud import PointCloud
from scal3r_train.scene.scene import SceneCameras, SceneFrame, SceneInfo, write_scene

NUM_FRAMES, IMAGE_HW = 40, (48, 64)
GREEN, MAGENTA, BLUE = (0, 220, 0), (220, 0, 220), (30, 60, 255)
RADIUS = 300.0
EVIL = '<script>alert("1")</script>&amp;`'
POINTS_PER_FRAME = 500


def example_cameras(num_frames: int = NUM_FRAMES) -> torch.Tensor:
    """Return world_from_cam [S, 3, 4] on a circle, looking along it; y is down."""
    angle = torch.linspace(0, 1.9 * torch.pi, num_frames, dtype=torch.float64)
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    ahead = torch.stack([-angle.sin(), zero, angle.cos()], -1)
    down = torch.stack([zero, one, zero], -1)
    right = torch.linalg.cross(down, ahead)
    centre = RADIUS * torch.stack([angle.cos(), 0.02 * angle, angle.sin()], -1)
    return torch.stack([right, down, ahead, centre], -1)


def example_points(num_frames: int, floor: tuple[int, int, int]) -> PointCloud:
    """Return a floor and a block."""
    random = np.random.default_rng(0)
    number = num_frames * POINTS_PER_FRAME
    positions = random.uniform(-1.3 * RADIUS, 1.3 * RADIUS, (number, 3))
    positions[:, 1] = 20.0
    colours = np.tile(np.array(floor, np.uint8), (number, 1))
    is_block = np.arange(number) % 5 == 0
    positions[is_block] = random.uniform(-60, 60, (is_block.sum(), 3)) + [0, -40, 0]
    colours[is_block] = MAGENTA
    pixel = random.integers(0, IMAGE_HW[0] * IMAGE_HW[1], number)
    frame = np.repeat(np.arange(num_frames), POINTS_PER_FRAME)
    source = np.sort(frame * IMAGE_HW[0] * IMAGE_HW[1] + pixel)
    return PointCloud(positions, colours, random.uniform(1, 9, number).astype(np.float32), source)


def example_info(root: Path, num_frames: int, num_points: int) -> SceneInfo:
    """Return scene.json with all that can be said, text in it that is markup included."""
    thirds = [0, num_frames // 3, 2 * num_frames // 3, num_frames] if num_frames >= 3 else [0, num_frames]
    provided = tuple(zip(thirds[:-1], thirds[1:], strict=True))
    good = {"method": "points", "trusted": True, "scale": 1.1, "num_points": 900, "residual_rms": 0.02}
    bad = {"method": "break", "trusted": False, "scale": 1.0, "num_points": 0, "residual_rms": None}
    many = len(provided) > 1
    loops = (
        {
            "frames": [1, num_frames - 2],
            "chunks": [0, 2],
            "accepted": True,
            "reason": "88% fit",
            "similarity": 0.9,
        },
        {
            "frames": [3, num_frames // 2],
            "accepted": False,
            "reason": f"at chunk 1, {EVIL}",
            "similarity": 0.7,
        },
    )
    return SceneInfo(
        code_version="0",
        created="now",
        input={"root": str(root), "sequence_id": EVIL, "num_frames": 2 * num_frames},
        num_frames=num_frames,
        frame_indices=tuple(range(0, 2 * num_frames, 2)),
        processed_hw=IMAGE_HW,
        chunks=provided,
        provided_frames=provided,
        world_from_chunk=(),
        seams=(
            {**good, "residual_median": 0.01, "inlier_share": 0.93},
            {**bad, "residual_median": None, "inlier_share": None},
        )
        if many
        else (),
        breaks=(2,) if many else (),
        loops=loops if many else (),
        pose_graph={"converged": True, "cost_after": 0.5, "stopped_because": EVIL} if many else None,
        state_plan={"store": "host", "bytes_per_chunk": 1 << 20, "reason": EVIL},
        num_points=num_points,
        voxel_size=4.0,
        recipe=ReconstructionRecipe().model_dump(mode="json"),
        checkpoint_sha256="ab" * 32,
        num_processes=1,
        timings_s={"predict": 1.5, "align": 250.0},
        peak_memory_bytes={"host": 1 << 30},
    )


def write_example_scene(
    output: Path,
    *,
    num_frames: int = NUM_FRAMES,
    floor: tuple[int, int, int] = GREEN,
    with_points: bool = True,
) -> Path:
    """Write the scene to a folder, its images beside it; return the folder."""
    root = output.parent / "images"
    root.mkdir(exist_ok=True)
    frames = [SceneFrame(name=f"{frame:03d}.png", image_hw=IMAGE_HW) for frame in range(num_frames)]
    for frame in frames[: num_frames - 1]:  # one is not there any more
        Image.new("RGB", IMAGE_HW[::-1], (200, 30, 30)).save(root / frame.name)
    cloud = example_points(num_frames, floor) if with_points else PointCloud.empty()
    intrinsics = torch.tensor([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]], dtype=torch.float64).repeat(
        num_frames, 1, 1
    )
    start_scene_folder(output)
    write_scene(
        partial_folder(output),
        SceneCameras(
            example_info(root, num_frames, len(cloud)),
            tuple(frames),
            torch.arange(0, 2 * num_frames, 2, dtype=torch.float64),
            example_cameras(num_frames),
            intrinsics,
        ),
        cloud,
    )
    publish_scene_folder(output)
    return output
