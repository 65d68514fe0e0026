"""Seconds and memory of exporting a large cloud: every format, and thinning, each in a process of its own.

    python -m benchmarks.export                       # 30 million points
    python -m benchmarks.export --points 1000000

The scene, of 1,000 frames, is made in blocks. `peak` is the most memory that a process held, `start` what it held when
its work began: Python, numpy and torch. The difference is the export's own. Written are MB of 10^6 bytes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from scal3r_train.scene.export import export_scene
from scal3r_train.scene.metric_scale import Georeference
from scal3r_train.scene.ply import BLOCK_POINTS, VERTEX, PlyReader, ply_writer
from scal3r_train.scene.point_cloud import PointCloud
from scal3r_train.scene.scene import POINTS_NAME, SceneCameras, SceneFrame, SceneInfo, write_scene

NUM_FRAMES, STEP = 1000, 2.0
PLACE = Georeference(
    latitude_deg=50.7753,
    longitude_deg=6.0839,
    altitude_m=173,
    enu_from_world=((1, 0, 0, 0), (0, 0, 1, 0), (0, -1, 0, 0)),
)
CASES = {
    "ply": ("ply", {}),
    "ply, confidence ratio": ("ply", {"min_confidence_ratio": 1.0}),
    "ply, voxels": ("ply", {"voxel_size": 0.1}),
    "ply, max 5 million": ("ply", {"max_points": 5_000_000}),
    "ply, voxels and max": ("ply", {"voxel_size": 0.1, "max_points": 5_000_000}),
    "las, UTM": ("las", {}),
    "laz, UTM": ("laz", {}),
    "e57, UTM": ("e57", {}),
    "glb": ("glb", {}),
    "colmap": ("colmap", {}),
    "nerfstudio": ("nerfstudio", {}),
    "colmap, text, max 1 million": ("colmap", {"text": True, "max_points": 1_000_000}),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all cases, or with --case one of them in this process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=30_000_000)
    parser.add_argument("--folder", type=Path, help="of the scene and the exports; default: temporary")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.case:
        print(json.dumps(measure(options.folder, *CASES[options.case])))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        began = time.perf_counter()
        make_scene(Path(folder) / "scene", options.points)
        print(f"scene of {options.points} points made in {time.perf_counter() - began:.1f} s")
        print(
            f"{'case':28s} {'s':>6s} {'processor s':>12s} {'written MB':>11s} {'start MiB':>10s} {'peak MiB':>9s}"
        )
        for case in CASES:
            command = [sys.executable, "-m", "benchmarks.export", "--folder", folder, "--case", case]
            finished = subprocess.run(command, capture_output=True, text=True, check=True)
            row = json.loads(finished.stdout.splitlines()[-1])
            print(
                f"{case:28s} {row['seconds']:6.1f} {row['processor']:12.1f} {row['megabytes']:11.0f} "
                f"{row['start']:10.0f} {row['peak']:9.0f}",
                flush=True,
            )


def measure(folder: Path, form: str, options: dict[str, object]) -> dict[str, float]:
    """Export once; the output is removed."""
    with tempfile.TemporaryDirectory(dir=folder) as outputs:
        output = Path(outputs) / "out"
        start, began, processor = peak_mib(), time.perf_counter(), time.process_time()
        export_scene.main(folder / "scene", output, form, options)
        seconds, processor = time.perf_counter() - began, time.process_time() - processor
        files = [output] if output.is_file() else output.rglob("*")
        return {
            "seconds": seconds,
            "processor": processor,
            "megabytes": sum(file.stat().st_size for file in files) / 1e6,
            "start": start,
            "peak": peak_mib(),
        }


def make_scene(folder: Path, num_points: int) -> None:
    """Write a street of NUM_FRAMES cameras, its points within 20 units of the path, in blocks."""
    folder.mkdir()
    poses = torch.eye(3, 4, dtype=torch.float64).repeat(NUM_FRAMES, 1, 1)
    poses[:, 2, 3] = STEP * torch.arange(NUM_FRAMES)
    intrinsics = torch.tensor([[700.0, 0, 640], [0, 700, 360], [0, 0, 1]]).double().repeat(NUM_FRAMES, 1, 1)
    info = SceneInfo(
        code_version="0", created="now", input={"dataset": "images", "root": "nowhere"}, num_frames=NUM_FRAMES,
        frame_indices=tuple(range(NUM_FRAMES)), processed_hw=(294, 518), chunks=((0, NUM_FRAMES),),
        provided_frames=((0, NUM_FRAMES),), world_from_chunk=(), seams=(), num_points=num_points, voxel_size=0.0,
        recipe={}, checkpoint_sha256=None, num_processes=1, timings_s={}, peak_memory_bytes={}, georeference=PLACE,
    )  # fmt: skip
    frames = tuple(SceneFrame(name=f"{number:06d}.jpg", image_hw=(720, 1280)) for number in range(NUM_FRAMES))
    cameras = SceneCameras(info, frames, torch.arange(NUM_FRAMES).double(), poses, intrinsics)
    write_scene(folder, cameras, PointCloud.empty())
    random = np.random.default_rng(0)
    with ply_writer(folder / POINTS_NAME) as writer:
        for start in range(0, num_points, BLOCK_POINTS):
            vertices = np.empty(min(BLOCK_POINTS, num_points - start), VERTEX)
            for axis, low, high in (("x", -20, 20), ("y", -20, 2), ("z", 0, STEP * NUM_FRAMES)):
                vertices[axis] = random.uniform(low, high, len(vertices))
            for channel in ("red", "green", "blue"):
                vertices[channel] = random.integers(0, 256, len(vertices), np.uint8)
            vertices["confidence"] = 1 + random.exponential(3, len(vertices))
            writer.append(vertices)
    with PlyReader(folder / POINTS_NAME) as reader:
        assert reader.num_points == num_points


def peak_mib() -> float:
    """Return the most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
