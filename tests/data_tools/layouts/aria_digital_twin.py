"""The layout of the prepared folder; the recordings themselves are VRS files, which only Meta's tools write."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data_tools.aria_lens import rays
from tests.data_tools.miniature import Miniature, make_miniature

SIDE = 352
PARAMETERS = np.array(
    [
        152.7, 177.3, 174.6, 0.40, -0.48, 0.25, 1.2, -1.75, 0.65, 0.0004, -0.0009, 0.0008, -0.0001, -0.0011, 0.0002,
    ]
)  # fmt: skip
DEVICE_FROM_CAM = np.array([[1.0, 0, 0, -0.004], [0, 0.8, -0.6, -0.012], [0, 0.6, 0.8, -0.005]])


def scene() -> Miniature:
    """Seen through a lens like the glasses'."""
    return make_miniature(num_frames=7, hw=(SIDE, SIDE), rays=rays(PARAMETERS, (SIDE, SIDE)))


def write(folder: Path, scene: Miniature) -> None:
    """Every third image of a recording; depth is z; the last listed frame has no image."""
    root = folder / "Apartment_release_clean_seq131_M1292"
    for name in ("rgb", "depth"):
        (root / name).mkdir(parents=True)
    rows = []
    for i in range(scene.num_frames + 1):
        shown = min(i, scene.num_frames - 1)
        rows.append([3 * i, 0.1 * i, *scene.world_from_cam[shown][:3].ravel()])
        if i == scene.num_frames:
            break
        Image.fromarray(scene.images[i]).save(root / "rgb" / f"{3 * i:06d}.jpg", quality=95)
        Image.fromarray(depth_mm(scene, i)).save(root / "depth" / f"{3 * i:06d}.png")
    np.savetxt(root / "frames.txt", rows, header="number, seconds, world_from_cam 3x4")
    document = {
        "image_size": [SIDE, SIDE],
        "parameters": PARAMETERS.tolist(),
        "device_from_cam": DEVICE_FROM_CAM.tolist(),
    }
    (root / "calibration.json").write_text(json.dumps(document))


def depth_mm(scene: Miniature, frame: int) -> np.ndarray:
    return (scene.depth[frame] * 1000 + 0.5).astype(np.uint16)
