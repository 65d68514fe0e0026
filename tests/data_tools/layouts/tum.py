from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from tests.data_tools.miniature import Miniature, make_miniature

# freiburg1, as the benchmark's page gives it for OpenCV, whose pixel centres are at integers
K = np.array([[517.3, 0, 318.6], [0, 516.5, 255.3], [0, 0, 1]])
LENS = np.array([0.2624, -0.9531, -0.0054, 0.0026, 1.1633])
HW = (480, 640)
NUM_FRAMES = 4


def scene() -> Miniature:
    """Seen through the lens of freiburg1; few frames, because they are large."""
    columns, rows = np.meshgrid(np.arange(HW[1], dtype=float), np.arange(HW[0], dtype=float))
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-12)
    pixels = np.stack([columns, rows], -1).reshape(-1, 1, 2)
    plane = cv2.undistortPoints(pixels, K, LENS, None, None, None, criteria).reshape(*HW, 2)
    rays = np.concatenate([plane, np.ones((*HW, 1))], -1)
    offset = (K[0, 2] + 0.5 - HW[1] / 2, K[1, 2] + 0.5 - HW[0] / 2)
    return make_miniature(NUM_FRAMES, HW, (K[0, 0], K[1, 1]), offset, rays=rays)


def write(folder: Path, scene: Miniature) -> None:
    """Clocks that tick apart, a depth image too late for its colour image, the last image after the ground truth."""
    sequence = folder / "rgbd_dataset_freiburg1_miniature"
    for name in ("rgb", "depth"):
        (sequence / name).mkdir(parents=True)
    start = 1305031102.175304
    rgb, depth, truth = (
        ["# color images", "# timestamp filename"],
        ["# depth maps"],
        ["# ground truth trajectory"],
    )
    poses = scene.world_from_cam
    for i in range(scene.num_frames):
        time = start + 0.5 * (scene.timestamp[i] - scene.timestamp[0])
        Image.fromarray(scene.images[i]).save(sequence / "rgb" / f"{time:.6f}.png", compress_level=1)
        rgb.append(f"{time:.6f} rgb/{time:.6f}.png")
        late = 0.031 if i == 1 else -0.007
        counts = np.rint(scene.depth[i] * 5000).astype(np.uint16)
        counts[:20] = 0
        cv2.imwrite(str(sequence / "depth" / f"{time + late:.6f}.png"), counts)
        depth.append(f"{time + late:.6f} depth/{time + late:.6f}.png")
        if i == scene.num_frames - 1:
            break
        for shift in (-0.024, 0.003, 0.011):
            position = poses[i, :3, 3] + (shift - 0.003)  # only the nearest is right
            values = [*position, *Rotation.from_matrix(poses[i, :3, :3]).as_quat()]
            truth.append(f"{time + shift:.4f} " + " ".join(f"{value:.6f}" for value in values))
    truth.append(f"{start + 1.5:.4f} nan nan nan nan nan nan nan")
    rgb.append(f"{start + 0.6:.6f} rgb/{start + 0.6:.6f}.png")  # listed, not there
    for name, lines in (("rgb.txt", rgb), ("depth.txt", depth), ("groundtruth.txt", truth)):
        (sequence / name).write_text("\n".join(lines) + "\n")
    (sequence / "accelerometer.txt").write_text("# accelerometer data\n")
