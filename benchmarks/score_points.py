"""Time and memory of `scal3r score points` on two large clouds of a made-up town.

    python -m benchmarks.score_points [--num-points 30000000] [--threshold 1] [--voxel 0.1] [--icp sim3] [--perfect]

Truth: hilly ground of 1.5 km x 1.5 km, 3,000 turned houses with gable roofs and 20,000 round trees, drawn uniformly by
area and in random order, with 1 cm of noise, as doubles in map coordinates (5,000 km from the origin). Estimate: other
points of the same surfaces at 1/7.3 of the size, turned, with 8 cm of noise, a slow bend of up to 0.5 m, 1 % of
outliers within 300 m, and a tenth of the town missing; aligned by the cameras of a drive. The command runs in a
process of its own, whose peak resident memory is printed. With --perfect the estimate is nothing but other points of
the same surfaces: what is left is the distance between two samples.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.metrics.trajectory_io import Trajectory, write_trajectory
from scal3r_train.scene.ply import as_vertices, ply_writer

BLOCK = 1 << 20
HALF_SIDE_M = 750.0
NUM_HOUSES, NUM_TREES = 3000, 20_000
MAP_OFFSET_M = np.array([458_000.0, 5_428_000.0, 110.0])
SCALE = 7.3


class Town:
    """Surfaces to draw points from."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.centre = random.uniform(-HALF_SIDE_M, HALF_SIDE_M, (NUM_HOUSES, 2))
        self.half_size = random.uniform(4, 14, (NUM_HOUSES, 2))
        self.height = random.uniform(4, 18, NUM_HOUSES)
        self.ridge = random.uniform(1, 6, NUM_HOUSES)
        self.angle = random.uniform(0, math.pi, NUM_HOUSES)
        self.tree = random.uniform(-HALF_SIDE_M, HALF_SIDE_M, (NUM_TREES, 2))
        self.crown = random.uniform(1, 4, NUM_TREES)
        walls = 4 * self.half_size.sum(axis=1) * self.height
        roofs = 4 * self.half_size[:, 0] * np.hypot(self.half_size[:, 1], self.ridge)
        crowns = 4 * math.pi * self.crown**2
        self.kind_areas = np.array([4 * HALF_SIDE_M**2, walls.sum(), roofs.sum(), crowns.sum()])
        self.shares = [areas / areas.sum() for areas in (walls, roofs, crowns)]

    def draw(self, num: int, random: np.random.Generator) -> np.ndarray:
        """Return points [num, 3] (east, north, up) in metres, in random order."""
        counts = random.multinomial(num, self.kind_areas / self.kind_areas.sum())
        parts = [self._ground(counts[0], random)]
        parts.extend(
            draw(random.choice(len(share), count, p=share), random)
            for draw, share, count in zip(
                (self._walls, self._roofs, self._crowns), self.shares, counts[1:], strict=True
            )
        )
        return random.permutation(np.concatenate(parts))

    def _ground(self, num: int, random: np.random.Generator) -> np.ndarray:
        place = random.uniform(-HALF_SIDE_M, HALF_SIDE_M, (num, 2))
        return np.column_stack([place, ground_height(place)])

    def _walls(self, house: np.ndarray, random: np.random.Generator) -> np.ndarray:
        half = self.half_size[house]
        along = random.uniform(-1, 1, len(house))
        is_long = random.random(len(house)) < half[:, 0] / half.sum(axis=1)
        side = random.choice([-1.0, 1.0], len(house))
        local = (
            np.where(is_long[:, None], np.column_stack([along, side]), np.column_stack([side, along])) * half
        )
        return self._placed(house, local, random.random(len(house)) * self.height[house])

    def _roofs(self, house: np.ndarray, random: np.random.Generator) -> np.ndarray:
        across = random.uniform(-1, 1, len(house))
        local = np.column_stack([random.uniform(-1, 1, len(house)), across]) * self.half_size[house]
        return self._placed(house, local, self.height[house] + self.ridge[house] * (1 - np.abs(across)))

    def _crowns(self, tree: np.ndarray, random: np.random.Generator) -> np.ndarray:
        direction = random.normal(size=(len(tree), 3))
        direction *= self.crown[tree, None] / np.linalg.norm(direction, axis=1, keepdims=True)
        base = np.column_stack([self.tree[tree], ground_height(self.tree[tree]) + 2 + self.crown[tree]])
        return base + direction

    def _placed(self, house: np.ndarray, local: np.ndarray, up: np.ndarray) -> np.ndarray:
        cosine, sine = np.cos(self.angle[house]), np.sin(self.angle[house])
        x, y = local.T
        place = self.centre[house] + np.column_stack([cosine * x - sine * y, sine * x + cosine * y])
        return np.column_stack([place, ground_height(self.centre[house]) + up])


def ground_height(place: np.ndarray) -> np.ndarray:
    """Return the height of the ground [N] in metres at places [N, 2]."""
    x, y = place.T / 100
    return 6 * np.sin(x) + 5 * np.cos(0.8 * y) + 0.4 * np.sin(9 * x + 7 * y)


def bend(points: np.ndarray) -> np.ndarray:
    """Return the error of a drifting reconstruction [N, 3] at points [N, 3]."""
    x, y = points[:, 0] / 400, points[:, 1] / 500
    return 0.3 * np.column_stack([np.sin(y), np.cos(x + 0.3) * np.sin(y), np.sin(x) * np.cos(y)])


def drive() -> np.ndarray:
    """Return camera centres [400, 3] of a loop through the town."""
    angle = np.linspace(0, 2 * math.pi, 400)
    place = np.column_stack([500 * np.cos(angle), 350 * np.sin(2 * angle)])
    return np.column_stack([place, ground_height(place) + 1.6])


def blocks(num_points: int) -> Iterator[int]:
    """Yield sizes of blocks."""
    yield from [BLOCK] * (num_points // BLOCK)
    if num_points % BLOCK:
        yield num_points % BLOCK


def write_truth(path: Path, town: Town, num_points: int) -> None:
    """Doubles behind an integer, as a laser scan may have them."""
    random = np.random.default_rng(1)
    row = np.dtype([("intensity", "<u2"), ("x", "<f8"), ("y", "<f8"), ("z", "<f8")])
    with path.open("wb") as file:
        header = (
            "ply\nformat binary_little_endian 1.0\n"
            + f"element vertex {num_points}\nproperty ushort intensity\n"
        )
        file.write(
            (header + "".join(f"property double {axis}\n" for axis in "xyz") + "end_header\n").encode()
        )
        for size in blocks(num_points):
            points = town.draw(size, random) + random.normal(0, 0.01, (size, 3)) + MAP_OFFSET_M
            rows = np.zeros(size, row)
            rows["x"], rows["y"], rows["z"] = points.T
            rows.tofile(file)


def write_estimate(
    path: Path, town: Town, num_points: int, estimate_from_town: Sim3, *, perfect: bool
) -> None:
    """Write the layout of `scal3r reconstruct`."""
    random = np.random.default_rng(2)
    with ply_writer(path) as writer:
        for size in blocks(num_points):
            points = town.draw(size, random) if perfect else flawed(town, size, random)
            moved = estimate_from_town.apply(torch.from_numpy(points)).numpy()
            writer.append(as_vertices(moved, np.full((size, 3), 128, np.uint8), np.ones(size)))


def flawed(town: Town, size: int, random: np.random.Generator) -> np.ndarray:
    """Return points [size, 3] with everything that is wrong with the estimate."""
    points = np.empty((0, 3))
    while len(points) < size:
        more = town.draw(size, random)
        points = np.concatenate([points, more[~((more[:, 0] > 250) & (more[:, 1] > 300))]])
    points = points[:size] + bend(points[:size]) + random.normal(0, 0.08, (size, 3))
    is_wrong = random.random(size) < 0.01
    points[is_wrong] += random.uniform(-300, 300, (int(is_wrong.sum()), 3))
    return points


def write_cameras(folder: Path, estimate_from_town: Sim3, *, perfect: bool) -> None:
    """Write the drive as truth and as estimate, KITTI format, cameras upright."""
    centres = drive()
    for name, place in (
        ("truth", centres + MAP_OFFSET_M),
        ("estimate", centres if perfect else centres + bend(centres)),
    ):
        poses = torch.eye(3, 4, dtype=torch.float64).repeat(len(place), 1, 1)
        poses[..., 3] = torch.from_numpy(place)
        if name == "estimate":
            poses = estimate_from_town.apply_to_world_from_cam(poses)
        write_trajectory(folder / f"{name}.txt", Trajectory(poses, None), "kitti")


def main() -> None:
    """Make the clouds, score them, print what it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-points", type=int, default=30_000_000)
    parser.add_argument("--threshold", default="1")
    parser.add_argument("--voxel", default="0.1")
    parser.add_argument("--icp", choices=("se3", "sim3"))
    parser.add_argument("--perfect", action="store_true", help="nothing is wrong with the estimate")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        town, turn = Town(0), Rotation.from_rotvec([0.9, -0.4, 1.3]).as_matrix()
        estimate_from_town = Sim3(
            torch.tensor(1 / SCALE).double(), torch.from_numpy(turn), torch.tensor([3.0, -8, 2]).double()
        )
        begin = time.perf_counter()
        write_truth(folder / "truth.ply", town, arguments.num_points)
        perfect = arguments.perfect
        write_estimate(
            folder / "estimate.ply", town, arguments.num_points, estimate_from_town, perfect=perfect
        )
        write_cameras(folder, estimate_from_town, perfect=perfect)
        print(
            f"two clouds of {arguments.num_points} points made in {time.perf_counter() - begin:.0f} s",
            flush=True,
        )
        command = [sys.executable, "-m", "scal3r_train.cli", "score", "points"]
        command += [str(folder / "estimate.ply"), str(folder / "truth.ply")]
        command += ["--threshold", arguments.threshold, "--voxel", arguments.voxel]
        command += [
            "--est-trajectory",
            str(folder / "estimate.txt"),
            "--gt-trajectory",
            str(folder / "truth.txt"),
        ]
        command += ["--icp", arguments.icp] if arguments.icp else []
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        line = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begin
        assert status == 0, status
        score = {key: value for key, value in json.loads(line).items() if key != "truth_from_estimate"}
        print(json.dumps(score, indent=1))
        print(
            f"{wall:.0f} s, {usage.ru_utime + usage.ru_stime:.0f} s of processor time on {os.cpu_count()} cores, "
            f"peak {usage.ru_maxrss / 1e6:.2f} GB resident"
        )


if __name__ == "__main__":
    main()
