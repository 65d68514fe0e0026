from pathlib import Path

import numpy as np
from PIL import Image

from tests.data_tools.miniature import Miniature, homogeneous

SCALE = 3.7  # the unit is arbitrary
SCENE = "5a3ca9cb270f0e3f14d0eddb"


def write_pfm(path: Path, values: np.ndarray) -> None:
    """Rows from the bottom up, little endian."""
    height, width = values.shape
    data = values[::-1].astype("<f4").tobytes()
    path.write_bytes(f"Pf\n{width} {height}\n-1.000000\n".encode() + data)


def write(folder: Path, scene: Miniature) -> None:
    """A masked image beside each, a view whose camera is cut off at the end."""
    place = folder / SCENE / SCENE
    for name in ("blended_images", "cams", "rendered_depth_maps"):
        (place / name).mkdir(parents=True)
    num = scene.num_frames
    for i in range(num):
        Image.fromarray(scene.images[i]).save(place / "blended_images" / f"{i:08d}.jpg", quality=95)
        Image.fromarray(scene.images[i] // 2).save(place / "blended_images" / f"{i:08d}_masked.jpg")
        pose = homogeneous(scene.cam_from_world[i])
        pose[:3, 3] *= SCALE
        fx, fy, cx, cy = scene.intrinsics[i]
        k = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        lines = ["extrinsic", *(" ".join(f"{value:.10g}" for value in row) for row in pose), ""]
        lines += ["intrinsic", *(" ".join(f"{value:.10g}" for value in row) for row in k), ""]
        lines.append(f"{scene.depth[i].min() * SCALE} 0.05 128 {scene.depth[i].max() * SCALE}")
        text = "\n".join(lines) + "\n"
        (place / "cams" / f"{i:08d}_cam.txt").write_text(text[: 40 if i == num - 1 else None])
        depth = scene.depth[i] * SCALE
        depth[:, :6] = 0  # nothing was rendered there
        write_pfm(place / "rendered_depth_maps" / f"{i:08d}.pfm", depth)
    pairs = [str(num)]
    for i in range(num):
        others = [j for j in sorted(range(num), key=lambda j: abs(i - j)) if j != i][:10]
        pairs += [str(i), f"{len(others)} " + " ".join(f"{j} {100 / (1 + abs(i - j)):.3f}" for j in others)]
    (place / "cams" / "pair.txt").write_text("\n".join(pairs) + "\n")
