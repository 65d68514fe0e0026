"""`scal3r export --to colmap --refine` on cameras that are known and were disturbed: errors before and after.

    python -m benchmarks.refine --data ../shared/data              # the fox photographs, and a town
    python -m benchmarks.refine --data ../shared/data --noise 0.003 0.01 0.02

A scene is made of a sequence's true cameras, each turned by `noise` radians about a random axis and shifted by `noise`
times the extent of the path (the diagonal of the box around the camera centres) in a random direction, each
independently (normal, root mean square); all focal lengths are 1 % too long (`--focal-error`).

fox: 25 photographs of a phone, made straight, whose "true" cameras are COLMAP's own, so that errors below theirs mean
nothing; no points. town: 60 frames of `scal3r data synth`, exact cameras, points from the true depth placed by the
disturbed cameras. Errors of places are the root mean square after the best similarity, in percent of the extent; of
rotations the root mean square after the best rotation, in degrees; both against the truth, which refining never sees.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycolmap
import roma
import torch
from PIL import Image

from scal3r_data_tools import synth
from scal3r_data_tools.adapters import nerfstudio
from scal3r_train.data.index.index import load_index
from scal3r_train.data.io.frame_io import frame_camera, read_frame_depth, read_frame_image
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.geometry.camera import intrinsics_matrices, invert_extrinsics
from scal3r_train.metrics.trajectory import align_trajectory
from scal3r_train.scene.export import export_scene
from scal3r_train.scene.point_cloud import PointCloud
from scal3r_train.scene.scene import SceneCameras, SceneFrame, SceneInfo, write_scene

FOCAL_ERROR = 0.01
TOWN = ("seed=3", "num_sequences=1", "num_frames=60", "height=360", "width=540", "fog_share=0")
PIXEL_STEP = 12


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with fox/; without, the town alone")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.003, 0.01])
    parser.add_argument("--focal-error", type=float, default=FOCAL_ERROR, help="share of the focal length")
    parser.add_argument("--folder", type=Path, help="where to keep everything; default: a temporary one")
    options = parser.parse_args(arguments)
    print(
        f"{'':6s} {'noise':>6s} {'reprojection px':>18s} {'epipolar px':>18s} {'place % of extent':>18s} "
        f"{'rotation deg':>18s} {'focal %':>16s} {'s':>5s}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        records = [_town(folder)] if options.data is None else [_fox(options.data / "fox"), _town(folder)]
        for record in records:
            for noise in options.noise:
                _measure(record, folder / f"{record.dataset}_{noise}", noise, options.focal_error)


def _fox(source: Path) -> SequenceRecord:
    (record,) = nerfstudio.index(source, nerfstudio.Options())
    return record


def _town(folder: Path) -> SequenceRecord:
    synth.main(folder / "towns", TOWN)
    return load_index(folder / "towns" / "index.parquet")[0]


def _measure(record: SequenceRecord, folder: Path, noise: float, focal_error: float) -> None:
    """Make the scene, export it and print a row."""
    truth, world_from_cam, intrinsics = disturbed_scene(record, folder, noise, focal_error)
    began = time.perf_counter()
    export_scene.main(folder / "scene", folder / "model", "colmap", {"refine": True, "overwrite": True})
    seconds = time.perf_counter() - began
    said = json.loads((folder / "model" / "refinement.json").read_text())
    model = pycolmap.Reconstruction(folder / "model")
    images = [model.images[number] for number in sorted(model.images)]
    refined = torch.from_numpy(np.stack([image.cam_from_world().inverse().matrix() for image in images]))
    focal = np.median([model.cameras[image.camera_id].focal_length_x for image in images])
    places = [pose_errors(poses, truth) for poses in (world_from_cam, refined)]
    true_focal = float(intrinsics[:, 0, 0].median())
    focals = [100 * focal_error, 100 * (float(focal) / true_focal - 1)]
    pairs = [
        [said[kind][when]["median"] for when in ("before", "after")] if "tracks" in said else [np.nan] * 2
        for kind in ("reprojection_px", "epipolar_px")
    ]
    columns = [*pairs, [places[0][0], places[1][0]], [places[0][1], places[1][1]]]
    cells = [f"{before:.3g} -> {after:.3g}" for before, after in columns]
    print(
        f"{record.dataset[:6]:6s} {noise:6.3f} "
        + " ".join(f"{cell:>18s}" for cell in cells)
        + f" {focals[0]:+6.2f} -> {focals[1]:+6.2f} {seconds:5.0f}"
        + ("" if said["refined"] else "  kept the prior"),
        flush=True,
    )


def disturbed_scene(
    record: SequenceRecord, folder: Path, noise: float, focal_error: float, seed: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Write scene and images; return true and disturbed world_from_cam [S, 3, 4], true intrinsics [S, 3, 3]."""
    cameras = [frame_camera(record, index) for index in range(record.num_frames)]
    poses = np.stack([camera.extrinsics for camera in cameras])
    rows = np.stack([camera.intrinsics for camera in cameras])
    truth = invert_extrinsics(torch.as_tensor(poses, dtype=torch.float64)[:, :3])
    random = torch.Generator().manual_seed(seed)
    num = len(truth)
    turn = noise / 3**0.5 * torch.randn(num, 3, generator=random, dtype=torch.float64)
    shift = noise / 3**0.5 * extent(truth) * torch.randn(num, 3, generator=random, dtype=torch.float64)
    noisy = truth.clone()
    noisy[:, :, :3] = truth[:, :, :3] @ roma.rotvec_to_rotmat(turn)
    noisy[:, :, 3] += shift
    frames, clouds = [], [PointCloud.empty()]
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for index in range(num):
        image = read_frame_image(record, index)
        name = f"{index:04d}.jpg"
        Image.fromarray(image).save(folder / "images" / name, quality=95)
        frames.append(SceneFrame(name=name, image_hw=image.shape[:2]))
        depth = read_frame_depth(record, index) if record.depth is not None else None
        if depth is not None:
            clouds.append(_points(image, depth, rows[index], noisy[index].numpy(), index))
    points = PointCloud.join(clouds)
    given = rows.copy()
    given[:, :2] *= 1 + focal_error
    info = SceneInfo(
        code_version="0", created="now", input={"dataset": "images", "root": str((folder / "images").resolve())},
        num_frames=num, frame_indices=tuple(range(num)), processed_hw=frames[0].image_hw, chunks=((0, num),),
        provided_frames=((0, num),), world_from_chunk=(), seams=(), num_points=len(points), voxel_size=0.0, recipe={},
        checkpoint_sha256=None, num_processes=1, timings_s={}, peak_memory_bytes={},
    )  # fmt: skip
    (folder / "scene").mkdir(exist_ok=True)
    scene = SceneCameras(info, tuple(frames), torch.arange(num).double(), noisy, intrinsics_matrices(given))
    write_scene(folder / "scene", scene, points)
    return truth, noisy, intrinsics_matrices(rows)


def _points(
    image: np.ndarray, depth: np.ndarray, intrinsics: np.ndarray, camera: np.ndarray, frame: int
) -> PointCloud:
    height, width = depth.shape
    row, column = np.mgrid[PIXEL_STEP // 2 : height : PIXEL_STEP, PIXEL_STEP // 2 : width : PIXEL_STEP]
    row, column = (values[depth[row, column] > 0] for values in (row, column))
    fx, fy, cx, cy = intrinsics
    z = depth[row, column].astype(np.float64)
    local = np.stack([(column + 0.5 - cx) / fx * z, (row + 0.5 - cy) / fy * z, z], -1)
    source = (frame * height + row) * width + column
    return PointCloud(
        local @ camera[:, :3].T + camera[:, 3], image[row, column], np.ones(len(z), np.float32), source
    )


def extent(world_from_cam: torch.Tensor) -> float:
    """Diagonal of the box around camera centres."""
    centres = world_from_cam[:, :, 3]
    return float((centres.amax(0) - centres.amin(0)).norm())


def pose_errors(world_from_cam: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    """Root mean squares after alignment: of places in percent of the true extent, of rotations in degrees."""
    placed = align_trajectory(world_from_cam, truth, "sim3").apply_to_world_from_cam(world_from_cam)
    place = float((placed[:, :, 3] - truth[:, :, 3]).square().sum(-1).mean().sqrt())
    best = roma.special_procrustes((world_from_cam[:, :, :3] @ truth[:, :, :3].mT).mean(0))
    relative = truth[:, :, :3].mT @ best.mT @ world_from_cam[:, :, :3]
    angle = roma.rotmat_geodesic_distance(relative, torch.eye(3).double().expand_as(relative))
    return 100 * place / extent(truth), float(torch.rad2deg(angle.square().mean().sqrt()))


if __name__ == "__main__":
    main()
