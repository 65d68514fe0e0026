"""Frames a second of `scal3r render`, by path: drawing alone, and drawing and writing an mp4.

    python -m benchmarks.render                      # 2 million points, 1280 x 720
    python -m benchmarks.render --points 200000 --size 640x360

The scene is a street of 1,000 frames, 2 m apart, with a road, houses on both sides and crowns of trees. Seconds are the
processor's, summed over threads, so that they mean the same on a machine that others use: `s a frame` of one core.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from scal3r_train.scene.scene import Scene, SceneFrame, SceneInfo
from scal3r_train.scene.visualization.video.options import OBSERVERS, RenderOptions
from scal3r_train.scene.visualization.video.render_video import Film
from scal3r_train.scene.visualization.video.video_file import video_file

NUM_FRAMES, STEP = 1000, 2.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row a path."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=2_000_000)
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--frames", type=int, default=20, help="drawn of each path, spread over it")
    options = parser.parse_args(arguments)
    scene = street(options.points)
    print(f"{'path':8s} {'prepare s':>10s} {'draw s':>8s} {'write s':>8s} {'frames/s':>9s}")
    with tempfile.TemporaryDirectory() as folder:
        for path in OBSERVERS:
            began = time.process_time()
            film = Film.of(scene, RenderOptions(path=path, seconds=30, size=options.size))
            prepared = time.process_time()
            numbers = np.linspace(0, film.num_frames - 1, options.frames).astype(int)
            frames = [film.frame(int(number)) for number in numbers]
            drawn = time.process_time()
            hw = RenderOptions(size=options.size).hw
            with video_file(Path(folder) / f"{path}.mp4", 30, hw) as file:
                for frame in frames:
                    file.add(frame)
            written = time.process_time()
            draw, write = (drawn - prepared) / len(frames), (written - drawn) / len(frames)
            print(
                f"{path:8s} {prepared - began:10.1f} {draw:8.3f} {write:8.3f} {1 / (draw + write):9.1f}",
                flush=True,
            )


def street(num_points: int) -> Scene:
    """Return the scene in memory; every frame saw points up to 40 m ahead of it."""
    random, each = np.random.default_rng(0), num_points // NUM_FRAMES
    poses = torch.eye(3, 4, dtype=torch.float64).repeat(NUM_FRAMES, 1, 1)
    poses[:, 2, 3] = STEP * torch.arange(NUM_FRAMES)
    frame = np.repeat(np.arange(NUM_FRAMES), each)
    z = STEP * frame + random.uniform(3, 40, len(frame))
    kind, side = random.integers(0, 3, len(frame)), random.choice([-1.0, 1.0], len(frame))
    road = np.stack([random.uniform(-8, 8, len(frame)), np.full(len(frame), 1.5)], -1)
    house = np.stack([8 * side, random.uniform(-8, 1.5, len(frame))], -1)
    crown = np.stack([6 * side + random.normal(0, 1, len(frame)), random.normal(-3, 1, len(frame))], -1)
    xy = np.choose(kind[:, None], [road, house, crown])
    colours = np.array([[90, 90, 95], [170, 130, 100], [60, 120, 50]])[kind]
    colours = (colours + random.integers(-20, 20, colours.shape)).astype(np.uint8)
    info = SceneInfo(
        code_version="0", created="now", input={"dataset": "images", "root": "nowhere"}, num_frames=NUM_FRAMES,
        frame_indices=tuple(range(NUM_FRAMES)), processed_hw=(294, 518), chunks=((0, NUM_FRAMES),),
        provided_frames=((0, NUM_FRAMES),), world_from_chunk=(), seams=(), num_points=len(frame), voxel_size=0.0,
        recipe={}, checkpoint_sha256=None, num_processes=1, timings_s={}, peak_memory_bytes={},
    )  # fmt: skip
    intrinsics = torch.tensor([[700.0, 0, 640], [0, 700, 360], [0, 0, 1]]).double().repeat(NUM_FRAMES, 1, 1)
    frames = tuple(
        SceneFrame(name=f"{number:06d}.jpg", image_hw=(720, 1280), num_points=each)
        for number in range(NUM_FRAMES)
    )
    return Scene(
        info,
        frames,
        torch.arange(NUM_FRAMES).double(),
        poses,
        intrinsics,
        np.concatenate([xy, z[:, None]], 1).astype(np.float32),
        colours,
        np.ones(len(frame), np.float32),
    )


if __name__ == "__main__":
    main()
