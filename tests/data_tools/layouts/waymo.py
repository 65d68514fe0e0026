from pathlib import Path

import cv2
import h5py
import numpy as np
from PIL import Image

from tests.data_tools.layouts.mvs_synth import write_exr
from tests.data_tools.miniature import Miniature, make_miniature

LENS = np.array([0.045, -0.34, 0.0016, -0.0002, 0.0])  # about Waymo's front camera
HW, FOCAL, OFFSET = (120, 180), (193.0, 193.0), (-1.5, 2.2)
SEGMENT = "segment-10017090168044687777_6380_000_6400_000_with_camera_labels.tfrecord"
WORLD_SHIFT_M = [-12345.6, 23456.7, 89.1]


def scene() -> Miniature:
    k = np.array([[FOCAL[0], 0, HW[1] / 2 + OFFSET[0]], [0, FOCAL[1], HW[0] / 2 + OFFSET[1]], [0, 0, 1]])
    columns, rows = np.meshgrid(np.arange(HW[1]) + 0.5, np.arange(HW[0]) + 0.5)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-12)
    pixels = np.stack([columns, rows], -1).reshape(-1, 1, 2)
    plane = cv2.undistortPoints(pixels, k, LENS, None, None, None, criteria).reshape(*HW, 2)
    rays = np.concatenate([plane, np.ones((*HW, 1))], -1)
    return make_miniature(hw=HW, focal=FOCAL, centre_offset=OFFSET, rays=rays)


def write(folder: Path, scene: Miniature) -> None:
    """Far from the world's origin; every other pixel is without LiDAR point; the last frame is listed as invalid."""
    segment = folder / SEGMENT
    segment.mkdir(parents=True)
    fx, fy, cx, cy = scene.intrinsics[0]
    k = np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]])
    for i, pose in enumerate(scene.world_from_cam):
        pose[:3, 3] += WORLD_SHIFT_M
        Image.fromarray(scene.images[i]).save(segment / f"{i:05d}_1.jpg", quality=95)
        depth = np.where(np.random.default_rng(i).random(scene.hw) < 0.5, 0, scene.depth[i])
        write_exr(segment / f"{i:05d}_1.exr", depth)
        np.savez(segment / f"{i:05d}_1.npz", intrinsics=k, cam2world=pose, distortion=LENS)
    with h5py.File(folder / "invalid_files.h5", "w") as file:
        group = file.create_group(SEGMENT)
        group["invalid_pairs"] = np.array([f"1_{scene.num_frames - 1:05d}".encode()])
