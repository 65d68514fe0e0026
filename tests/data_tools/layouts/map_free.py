from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from tests.data_tools.miniature import Miniature, make_miniature


def scene() -> Miniature:
    """Portrait format, as phones are held."""
    return make_miniature(hw=(160, 120), centre_offset=(0.7, -0.9), step_m=0.09)


def write(folder: Path, scene: Miniature) -> None:
    """Two walks, numbers are skipped; the last frames have a pose of zeros, no pose, or no image."""
    place = folder / "train" / "s00000"
    height, width = scene.hw
    poses_from_reference = scene.from_first().cam_from_world
    poses, cameras = "", ""
    for sequence in ("seq0", "seq1"):
        (place / sequence).mkdir(parents=True)
        for i, image in enumerate(scene.images):
            name = f"{sequence}/frame_{3 * i:05d}.jpg"
            pose = poses_from_reference[i]
            x, y, z, w = Rotation.from_matrix(pose[:, :3]).as_quat()
            numbers = [w, x, y, z, *pose[:, 3]]
            if i == scene.num_frames - 1:
                numbers = [0.0] * 7
            if i == scene.num_frames - 2:
                numbers[5] = np.nan
            if i != scene.num_frames - 3:
                Image.fromarray(image).save(place / name, quality=95)
            poses += name + "".join(f" {value:.16f}" for value in numbers) + "\n"
            cameras += (
                name + "".join(f" {value:.4f}" for value in scene.intrinsics[i]) + f" {width} {height}\n"
            )
    (place / "poses.txt").write_text(poses)
    (place / "poses_device.txt").write_text("seq1/frame_00001.jpg 1 0 0 0 0 0 0\n")
    (place / "intrinsics.txt").write_text(cameras)
    np.savez(place / "overlaps.npz", idxs=np.zeros((1, 4), np.uint16), overlaps=np.ones(1, np.float32))
