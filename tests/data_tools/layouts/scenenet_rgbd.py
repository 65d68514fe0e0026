import struct
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data_tools.miniature import Miniature, camera_path, homogeneous, pinhole_rays, render

HW = (240, 320)
INTRINSICS = np.array([160 / np.tan(np.pi / 6), 120 / np.tan(np.pi / 8), 160, 120])
SHUTTER_S = 1 / 60
Y_UP = np.diag([1.0, -1, -1])


def scene() -> Miniature:
    """Cameras that do not roll; the set's own image size and field of view."""
    world_from_cam = np.linalg.inv(homogeneous(camera_path(8, 0.12)))
    forward, position = world_from_cam[:, :3, 2], world_from_cam[:, :3, 3]
    right = np.cross([0.0, 1, 0], forward)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    rotation = np.stack([right, np.cross(forward, right), forward], 1)
    poses = np.concatenate([rotation, -rotation @ position[..., None]], -1)
    frames = [render(pose, pinhole_rays(INTRINSICS, HW)) for pose in poses]
    images, depth, length = (np.stack(values) for values in zip(*frames, strict=True))
    return Miniature(images, depth, length, poses, np.tile(INTRINSICS, (8, 1)), np.arange(8.0))


def write(folder: Path, scene: Miniature) -> None:
    """A validation trajectory, with an unrelated one before it that was not downloaded; the last photo is missing."""
    root = folder / "val" / "0" / "223"
    (root / "photo").mkdir(parents=True)
    (root / "depth").mkdir()
    for i in range(scene.num_frames - 1):
        Image.fromarray(scene.images[i]).save(root / "photo" / f"{25 * i}.jpg", quality=95)
        length = np.where(np.isfinite(scene.length[i]), scene.length[i] * 1000 + 0.5, 0).astype(np.uint16)
        length[:5] = 0
        Image.fromarray(length).save(root / "depth" / f"{25 * i}.png")
    here, absent = trajectory(scene, "0/223"), trajectory(scene, "0/1")
    (folder / "scenenet_rgbd_val.pb").write_bytes(message(1, absent) + message(1, here))


def trajectory(scene: Miniature, render_path: str) -> bytes:
    layout = varint(1 << 3) + varint(2) + message(2, b"kitchen/kitchen6_layout.obj")
    instance = (
        varint(1 << 3)
        + varint(300)
        + message(5, b"")
        + message(6, message(1, b"04379243/6824") + floats(2, 0.8))
    )
    data = message(1, layout) + message(2, instance)
    for i in range(scene.num_frames):
        data += message(3, view(scene, i))
    return data + message(4, render_path.encode())


def view(scene: Miniature, frame: int) -> bytes:
    position = Y_UP @ scene.world_from_cam[frame][:3, 3]
    target = position + 1.4 * (Y_UP @ scene.world_from_cam[frame][:3, 2])
    drift, turn = np.array([0.002, -0.001, 0.003]), np.array([0.004, 0.003, -0.002])
    number = varint(1 << 3) + varint(25 * frame) if frame else b""  # zero may be left out
    ends = b""
    for field, sign in ((2, -1), (3, 1)):
        time = scene.timestamp[frame] + SHUTTER_S * (sign + 1) / 2
        points = message(1, floats(1, *(position + sign * drift))) + message(
            2, floats(1, *(target + sign * turn))
        )
        ends += message(field, points + floats(3, time))
    return ends + number


def floats(first: int, *values: float) -> bytes:
    return b"".join(varint(first + i << 3 | 5) + struct.pack("<f", value) for i, value in enumerate(values))


def message(field: int, data: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    data = b""
    while value > 127:
        data += bytes([value & 127 | 128])
        value >>= 7
    return data + bytes([value])
