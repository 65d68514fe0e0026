from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from tests.data_tools.aria_lens import project, rays
from tests.data_tools.miniature import Miniature, make_miniature

SIDE = 352  # half the set's 704
PARAMETERS = np.array(
    [
        297.6375381033778, 357.6599197217746, 349.1922497127481, 0.3650890375644368, -0.1738082418112771,
        -0.7534945484033189, 2.434788882752295, -2.57786220300886, 0.8788483538598834, 0.0008005198595407136,
        -0.000294237814554143, 0, 0, 0, 0,
    ]
)  # fmt: skip
DEVICE_FROM_CAM = np.array(
    [
        [0.9960600290429797, -0.04388682089218443, 0.07706079090481517, -0.007530096566173914],
        [0.08210934462025632, 0.7846879598800616, -0.6144288902267692, -0.01090854984158026],
        [-0.03350334414547755, 0.6183354692812344, 0.7851998302087344, -0.003598063315542823],
        [0, 0, 0, 1],
    ]
)
VALID_RADIUS = 353.75
HEADER = (
    "graph_uid,tracking_timestamp_us,utc_timestamp_ns,tx_world_device,ty_world_device,tz_world_device,"
    "qx_world_device,qy_world_device,qz_world_device,qw_world_device,device_linear_velocity_x_device,quality_score"
)


def lens(side: int) -> np.ndarray:
    """The set's lens for images of another size."""
    parameters, scale = PARAMETERS.copy(), side / 704
    parameters[0] *= scale
    parameters[1:3] = (parameters[1:3] + 0.5) * scale - 0.5
    return parameters


def scene() -> Miniature:
    """Seen through the set's lens."""
    return make_miniature(num_frames=7, hw=(SIDE, SIDE), rays=rays(lens(SIDE), (SIDE, SIDE)))


def write(folder: Path, scene: Miniature) -> None:
    """Images on their side with a black rim; the last pose has no image."""
    root = folder / "10"
    for name in ("rgb", "depth", "instances"):
        (root / name).mkdir(parents=True)
    parameters = lens(SIDE)
    assert np.abs(project(np.zeros(2), parameters) - parameters[1:3]).max() < 1e-9
    pixels = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), -1)
    is_rim = np.linalg.norm(pixels - parameters[1:3], axis=-1) > VALID_RADIUS * SIDE / 704
    lines = [HEADER]
    for i in range(scene.num_frames + 1):
        shown = min(i, scene.num_frames - 1)
        world_from_device = scene.world_from_cam[shown] @ np.linalg.inv(DEVICE_FROM_CAM)
        quaternion = Rotation.from_matrix(world_from_device[:3, :3]).as_quat()
        numbers = [*world_from_device[:3, 3], *quaternion]
        lines.append(f"abc,{100000 * i},-1," + ",".join(f"{number:.9f}" for number in numbers) + ",0.1,1.0")
        if i == scene.num_frames:
            break
        image = np.where(is_rim[..., None], 0, scene.images[i]).astype(np.uint8)
        Image.fromarray(image).save(root / "rgb" / f"vignette{i:07d}.jpg", quality=95)
        depth = np.where(is_rim, 65535, scene.length[i] * 1000 + 0.5).astype(np.uint16)
        Image.fromarray(depth).save(root / "depth" / f"depth{i:07d}.png")
        Image.fromarray(np.zeros((SIDE, SIDE), np.uint16)).save(root / "instances" / f"instance{i:07d}.png")
    (root / "trajectory.csv").write_text("\n".join(lines) + "\n")
