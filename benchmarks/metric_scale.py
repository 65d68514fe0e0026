"""Metric scale from every source on two drives whose truth is known: the error, and what was stated of it.

python -m benchmarks.metric_scale [--data ../shared/data] [--seeds 5] [--only kitchen]

Chunk predictions are made from the ground truth of game_loop (2.8 km by car) and of 7-Scenes' red kitchen (a few metres
by hand) with scales of their own and noise (tests/inference/metric/truth_run.py), joined, and brought to metres by
the code that reconstructions use. The error of a track's or a distance's scale is that of the path as a whole: the
scale of the similarity that lays the result over the truth. That of heights and depths, which are measured in single
frames, is that of lengths within a chunk (the median over chunks); the whole may be bent, which no such measure shows.

Sources: GPS fixes made from the truth with 5 % outliers and an error that wanders (2 m on game_loop; 2 cm in the
kitchen, as surveyors' receivers have); the distance of two frames; the height above the ground, on game_loop from a fit
to the true depth that shares no code with ours, in the kitchen from ours on the true depth (so it shows what noise
does to it, not whether its floor is the floor); the data sets' own depth maps; their own trajectories.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scal3r_data_tools.adapters import game_loop, seven_scenes
from scal3r_train.config import UserError, validate_mapping
from scal3r_train.data.camera.resize import ResizeAndCrop
from scal3r_train.data.io.frame_io import frame_camera, read_frame_depth, true_world_from_cam
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.geometry.camera import intrinsics_matrices, invert_extrinsics
from scal3r_train.geometry.geodesy import geodetic_from_enu
from scal3r_train.geometry.sim3_fit import fit_umeyama
from scal3r_train.inference.metric.camera_height import down_in_world, ground_height, looked_at
from scal3r_train.inference.metric.chunk_cameras import ChunkCameras
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.metrics.trajectory_io import Trajectory, write_trajectory
from tests.inference.metric.truth_run import Noise, TruthRun, make_truth_run

ORIGIN = np.array([50.7753, 6.0839, 173.0])
OUTLIER_SHARE, OUTLIER_FACTOR = 0.05, 15.0
LOCAL = ("camera_height", "depth")  # measured in single frames
WANDER_SHARE, WANDER_LENGTH = 0.9, 10  # of a fix's error that wanders; fixes until it has forgotten itself


@dataclass(frozen=True, eq=False)
class Drive:
    """A sequence with its truth.

    Attributes:
        name: of it.
        record: of its input.
        image_hw: size to predict at.
        chunk_size, overlap, stride: how it is cut.
        gps_std_m: error of a fix, twice that in height.
        gps_every: frames from fix to fix.
        distance: two frames.
        depth_codec: of its depth maps.
    """

    name: str
    record: SequenceRecord
    image_hw: tuple[int, int]
    chunk_size: int
    overlap: int
    stride: int
    gps_std_m: float
    gps_every: int
    distance: tuple[int, int]
    depth_codec: str

    @property
    def frames(self) -> list[int]:
        """Of the input, those that are used."""
        return list(range(0, self.record.num_frames, self.stride))

    @property
    def world_from_cam(self) -> Tensor:
        """[S, 3, 4] of the frames that are used."""
        return true_world_from_cam(self.record)[self.frames]

    @property
    def intrinsics(self) -> Tensor:
        """[3, 3] at the size of predictions."""
        camera = frame_camera(self.record, 0).intrinsics
        assert camera is not None
        plan = ResizeAndCrop.plan(self.record.upright_hw(0), self.image_hw)
        return intrinsics_matrices(plan.moved(camera)[None])[0]

    def depth(self, frame: int) -> Tensor:
        """True depth of a used frame at the size of predictions."""
        index = self.frames[frame]
        depth = read_frame_depth(self.record, index)
        assert depth is not None
        plan = ResizeAndCrop.plan(self.record.upright_hw(index), self.image_hw)
        return torch.from_numpy(plan.depth(depth).clip(min=0).copy())


def drives(data: Path) -> list[Drive]:
    """The two sequences."""
    (loop,) = game_loop.index(data / "game_loop")
    (kitchen,) = seven_scenes.index(data / "seven_scenes_kitchen")
    return [
        Drive("game_loop", loop, (70, 126), 60, 30, 1, 2.0, 10, (100, 400), "uint16_cm"),
        Drive("kitchen", kitchen, (84, 112), 30, 15, 5, 0.02, 2, (10, 90), "uint16_mm"),
    ]


def write_fixes(path: Path, drive: Drive, times: np.ndarray, seed: int) -> None:
    """Write a GPS track of a drive, as a receiver on the camera would have recorded it."""
    random = np.random.default_rng(1000 + seed)
    frames = np.arange(0, len(times), drive.gps_every)
    centres = drive.world_from_cam[frames, :, 3].numpy()
    down = down_in_world(drive.world_from_cam).numpy()
    east = np.cross(-down, drive.world_from_cam[0, :, 2].numpy())
    east /= np.linalg.norm(east)
    enu = centres @ np.stack([east, np.cross(-down, east), -down], 1)
    std = drive.gps_std_m * np.array([1, 1, 2.0])
    keep = math.exp(-1 / WANDER_LENGTH)
    wander = random.normal(size=3)
    for row in range(len(enu)):
        wander = keep * wander + math.sqrt(1 - keep**2) * random.normal(size=3)
        error = math.sqrt(WANDER_SHARE) * wander + math.sqrt(1 - WANDER_SHARE) * random.normal(size=3)
        if random.random() < OUTLIER_SHARE:
            error = OUTLIER_FACTOR * random.normal(size=3)
        enu[row] += std * error
    rows = np.column_stack([times[frames], geodetic_from_enu(enu, ORIGIN)])
    lines = [",".join(map(repr, row)) for row in rows.tolist()]
    path.write_text("\n".join(["time,latitude,longitude,altitude", *lines]) + "\n")


def plain_ground_height(drive: Drive) -> float:
    """Height above a road that fills the lower part of the image: a plane through its points, median over frames."""
    intrinsics = drive.intrinsics.numpy()
    height, width = drive.image_hw
    rows, columns = np.mgrid[int(0.75 * height) : height, width // 4 : 3 * width // 4]
    rays = np.stack([columns + 0.5, rows + 0.5, np.ones(rows.shape)], -1) @ np.linalg.inv(intrinsics).T
    found = []
    for frame in range(0, len(drive.frames), 5):
        depth = drive.depth(frame).numpy()[rows, columns]
        points = (rays * depth[..., None])[depth > 0]
        middle = points.mean(axis=0)
        normal = np.linalg.svd(points - middle, full_matrices=False)[2][2]
        found.append(abs(normal @ middle))
    return float(np.median(found))


def our_ground_height(drive: Drive) -> float | None:
    """Median height above the ground that ours sees in the true depth; None where it sees none."""
    cameras = drive.world_from_cam
    down = down_in_world(cameras)
    found = []
    for frame in looked_at(len(cameras)):
        depth = drive.depth(frame)
        height = ground_height(depth, depth > 0, drive.intrinsics, cameras[frame, :, :3].T @ down, seed=frame)
        found += [] if height is None else [height]
    return float(np.median(found)) if found else None


def source_settings(drive: Drive, folder: Path, seed: int) -> dict[str, dict[str, Any]]:
    """`alignment.metric` for every source."""
    times = drive.record.timestamp[drive.frames]
    write_fixes(folder / "fixes.csv", drive, times, seed)
    turned = invert_extrinsics(drive.world_from_cam[7:8])
    poses = turned[:, :, :3] @ drive.world_from_cam
    poses[:, :, 3:] += turned[:, :, 3:]
    write_trajectory(folder / "poses.tum", Trajectory(poses, torch.from_numpy(times)), "tum")
    one, two = drive.distance
    apart = float((drive.world_from_cam[one, :, 3] - drive.world_from_cam[two, :, 3]).norm())
    depth = drive.record.root / ("depth" if drive.name == "game_loop" else "")
    height = plain_ground_height(drive) if drive.name == "game_loop" else our_ground_height(drive)
    return {
        "gps": {"gps": str(folder / "fixes.csv"), "max_gap_s": 100.0},
        "distance": {"distance": [one, two, apart]},
        **({} if height is None else {"camera_height": {"camera_height": height}}),
        "depth": {"depth": str(depth), "depth_codec": drive.depth_codec},
        "poses": {"poses": str(folder / "poses.tum")},
    }


def recipe_of(drive: Drive, metric: dict[str, Any]) -> ReconstructionRecipe:
    """The recipe of a drive."""
    mapping = {
        "input": {"image_hw": list(drive.image_hw), "stride": drive.stride},
        "schedule": {"chunk_size": drive.chunk_size, "overlap": drive.overlap},
        "alignment": {"metric": metric},
    }
    return validate_mapping(ReconstructionRecipe, mapping, "benchmark")


def trajectory_error(made: TruthRun, placement_chunks: list[Any]) -> float:
    """Root mean square distance of camera centres from the truth after the best similarity, in metres."""
    cameras = ChunkCameras.gather(made.run, made.predictions)  # type: ignore[arg-type]
    placed = cameras.world_from_cam(placement_chunks)[:, :, 3]
    truth = made.world_from_cam[:, :, 3]
    return float((fit_umeyama(placed, truth).apply(placed) - truth).square().sum(1).mean().sqrt())


def main() -> None:
    """Print a line for every sequence and source: errors and stated errors over the seeds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=("game_loop", "kitchen"), help="one of the two sequences")
    arguments = parser.parse_args()
    print(
        "rms over the seeds [%] of errors of the whole and within chunks, and of what was stated; rms of error / stated"
    )
    print(
        "sequence   source            whole   chunks   stated    ratio  error that counts, of each seed (over stated)"
    )
    for drive in drives(arguments.data):
        if arguments.only not in (None, drive.name):
            continue
        found: dict[str, list[tuple[float, float, float]]] = {}
        drift: list[tuple[float, float]] = []
        for seed in range(arguments.seeds):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                sources = source_settings(drive, folder, seed)
                made = make_truth_run(
                    drive.record,
                    recipe_of(drive, sources["distance"]),
                    drive.world_from_cam,
                    drive.intrinsics,
                    drive.depth,
                    folder / "scene",
                    noise=Noise(),
                    seed=seed,
                )
                for source, metric in sources.items():
                    recipe = recipe_of(drive, metric)
                    run = TruthRun(
                        made.run.__class__(**{**vars(made.run), "recipe": recipe}),
                        made.predictions,
                        made.placement,
                        made.world_from_cam,
                    )
                    try:
                        result = run.in_metres()
                    except UserError as error:
                        print(f"{drive.name:<10} {source:<14} refused: {error}")
                        continue
                    stated = result.scale.relative_std
                    found.setdefault(source, []).append(
                        (
                            run.scale_error(result),
                            run.local_scale_error(result),
                            np.nan if stated is None else stated,
                        )
                    )
                    if source == "gps":
                        drift.append(
                            (
                                trajectory_error(made, made.placement.world_from_chunk),
                                trajectory_error(made, result.placement.world_from_chunk),
                            )
                        )
        for source, rows in found.items():
            whole, local, stated = np.array(rows).T
            counts = local if source in LOCAL else whole
            columns = [100 * math.sqrt(float((values**2).mean())) for values in (whole, local, stated)]
            ratio = math.sqrt(float(((counts / stated) ** 2).mean()))
            each = " ".join(
                f"{100 * error:+.2f}({abs(error / std):.1f})"
                for error, std in zip(counts, stated, strict=True)
            )
            print(
                f"{drive.name:<10} {source:<14} "
                + " ".join(f"{value:8.3f}" for value in columns)
                + f" {ratio:8.2f}  {each}"
            )
        before, after = (math.sqrt(float((np.array(side) ** 2).mean())) for side in zip(*drift, strict=True))
        print(
            f"{drive.name:<10} trajectory error {before:.3f} m along the seams, {after:.3f} m with the fixes in the "
            "pose graph"
        )


if __name__ == "__main__":
    main()
