"""A record of a miniature without any data set's layout: images, depth in a container, and the numbers as they are."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from scal3r_train.data.sequence import SequenceRecord
from tests.data_tools.miniature import Miniature


def _npy(path: Path, scene: Miniature, frame: int) -> None:
    depth = scene.depth[frame]
    with path.open("wb") as file:
        np.save(file, np.where(np.isfinite(depth), depth, 0).astype(np.float32))


def _pfm(path: Path, scene: Miniature, frame: int) -> None:
    depth = np.where(np.isfinite(scene.depth[frame]), scene.depth[frame], 0).astype("<f4")
    height, width = depth.shape
    path.write_bytes(f"Pf\n{width} {height}\n-1.0\n".encode() + depth[::-1].tobytes())


def _ray_mm(path: Path, scene: Miniature, frame: int) -> None:
    length = np.where(np.isfinite(scene.length[frame]), scene.length[frame], 0)
    Image.fromarray(np.rint(length * 1000).astype(np.uint16)).save(path, format="png")


WRITERS: dict[str, Callable[[Path, Miniature, int], None]] = {
    "npy": _npy,
    "pfm": _pfm,
    "uint16_mm_ray": _ray_mm,
}


def neutral_record(
    scene: Miniature, folder: Path, codec: str = "", *, is_ordered: bool = True, name: str = "scene"
) -> SequenceRecord:
    """Write images, and depth if a codec is named, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    num = scene.num_frames
    for frame in range(num):
        Image.fromarray(scene.images[frame]).save(folder / f"{frame:04d}.png")
        if codec:
            WRITERS[codec](folder / f"{frame:04d}.depth", scene, frame)
    return SequenceRecord(
        dataset="neutral",
        sequence_id=name,
        root=folder,
        image=tuple(f"{frame:04d}.png" for frame in range(num)),
        image_size=np.tile(scene.hw, (num, 1)),
        timestamp=scene.timestamp,
        depth=tuple(f"{frame:04d}.depth" for frame in range(num)) if codec else (),
        depth_codec=codec,
        camera_model="pinhole",
        intrinsics=scene.intrinsics,
        cam_from_world=scene.cam_from_world,
        is_ordered=is_ordered,
        is_metric=True,
        is_synthetic=True,
    )
