"""Small drives on disk, with an index: two to train on, one of split test, one of split val. Shapes: S frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from scal3r_train.data.index.index import write_index
from scal3r_train.data.sequence import SequenceRecord

HEIGHT, WIDTH = 24, 48
STEP = 0.03  # forward, a frame, in scene units
UNIT = 0.02  # of metres: depth is stored in centimetres
DRIVES = (
    ("one/000", "train", 40),
    ("two/000", "train", 26),
    ("three/000", "test", 60),
    ("four/000", "val", 30),
)


def write_drives(folder: Path) -> Path:
    """Write the drives below a folder and return their index."""
    index = folder / "drives.parquet"
    write_index(index, [_drive(folder, *drive, seed=number) for number, drive in enumerate(DRIVES)])
    return index


def _drive(folder: Path, name: str, split: str, num: int, seed: int) -> SequenceRecord:
    rng = np.random.default_rng(seed)
    root = folder / name
    root.mkdir(parents=True)
    poses = np.tile(np.eye(3, 4), (num, 1, 1))
    poses[:, 2, 3] = -STEP * np.arange(num)
    texture = rng.integers(0, 256, (HEIGHT, WIDTH + num, 3), np.uint8)
    depth = rng.integers(200, 900, (HEIGHT, WIDTH)).astype(np.uint16)
    depth[:6] = 65535  # sky
    for frame in range(num):
        Image.fromarray(texture[:, frame : frame + WIDTH]).save(root / f"{frame}.png")
        Image.fromarray(depth).save(root / f"{frame}_depth.png")
    return SequenceRecord(
        dataset="circuits",
        sequence_id=name,
        root=root,
        image=tuple(f"{frame}.png" for frame in range(num)),
        depth=tuple(f"{frame}_depth.png" for frame in range(num)),
        depth_codec="uint16_cm_sky",
        depth_scale=UNIT,
        camera_model="pinhole",
        intrinsics=np.tile([30.0 + seed, 30.0 + seed, WIDTH / 2, HEIGHT / 2], (num, 1)),
        cam_from_world=poses,
        timestamp=0.1 * np.arange(num),
        image_size=np.tile([HEIGHT, WIDTH], (num, 1)),
        split=split,
        is_synthetic=True,
    )
