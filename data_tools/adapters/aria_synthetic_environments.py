"""Aria Synthetic Environments, the public version: walks through made-up flats, seen by simulated Aria glasses.

Layout: SCENE/{rgb/vignette%07d.jpg, depth/depth%07d.png, trajectory.csv (older: .txt)}; SRC is the folder of scenes
(numbered 0, 1, ...), or one scene. Row i of the trajectory is the pose of the device at frame i, in the format of MPS
closed-loop trajectories (aria.py). Images are 704 x 704 through the glasses' fisheye lens with its vignette, and lie on
their side. Depth: uint16 millimetres along the pixel's ray through the same lens, 0 and 65535 invalid.

Lens and device_from_cam are the same in the whole set; the numbers are those that the authors' package
projectaria_tools 2.3 gives out (projects.ase.get_ase_rgb_calibration). Beyond 354 pixels from the principal point there
is no image; the pinhole camera made of it reaches that far in a few pixels of its corners only. 10 frames a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scal3r_data_tools.formats.aria import (
    CAMERA_MODEL,
    QUARTER_TURNS,
    AriaCamera,
    read_closed_loop_trajectory,
)
from scal3r_data_tools.formats.files import files_by_number
from scal3r_data_tools.formats.poses import inverted, pose_from_wxyz
from scal3r_data_tools.formats.reading import names_file
from scal3r_train.config import UserError
from scal3r_train.data.index.source import natural_key
from scal3r_train.data.io.image_codec import read_image_size
from scal3r_train.data.io.left_out import DAMAGED, NO_IMAGE, NO_POSE, SEQUENCE, leave_out
from scal3r_train.data.sequence import SequenceRecord

CAMERA = AriaCamera(
    image_hw=(704, 704),
    parameters=np.array(
        [
            297.6375381033778, 357.6599197217746, 349.1922497127481,
            0.3650890375644368, -0.1738082418112771, -0.7534945484033189,
            2.434788882752295, -2.57786220300886, 0.8788483538598834,
            0.0008005198595407136, -0.000294237814554143, 0.0, 0.0, 0.0, 0.0,
        ]
    ),
    device_from_cam=pose_from_wxyz(
        np.array([0.944185868769, 0.326409343828, 0.029274992008, 0.033361059957]),
        np.array([-0.007530096566173914, -0.01090854984158026, -0.003598063315542823]),
    ),
)  # fmt: skip
TRAJECTORIES = ("trajectory.csv", "trajectory.txt")


def index(source: Path) -> Iterator[SequenceRecord]:
    """Records of all scenes, by number."""
    source = source.resolve()
    if (source / "rgb").is_dir():
        yield _sequence(source)
        return
    for scene in sorted(
        (path.parent for path in source.glob("*/rgb")), key=lambda path: natural_key(path.name)
    ):
        try:
            yield _sequence(scene)
        except UserError as error:  # of a hundred thousand scenes some may be half there
            leave_out(DAMAGED, [f"{scene.name} ({error})"], source, SEQUENCE)


@names_file("scene")
def _sequence(scene: Path) -> SequenceRecord:
    images = files_by_number(scene / "rgb", r"vignette(\d+)\.jpg")
    path = next((scene / name for name in TRAJECTORIES if (scene / name).is_file()), scene / TRAJECTORIES[0])
    times, world_from_device = read_closed_loop_trajectory(path)
    good = [i for i in range(len(times)) if i in images and np.isfinite(world_from_device[i]).all()]
    lacking = [i for i in range(len(times)) if i not in images]
    unposed = [i for i in images if i >= len(times) or not np.isfinite(world_from_device[i]).all()]
    if not good:
        raise UserError(
            f"{scene}: none of the {len(times)} poses of {path.name} has an image rgb/vignette*.jpg"
        )
    depths = files_by_number(scene / "depth", r"depth(\d+)\.png") if (scene / "depth").is_dir() else {}
    depth = tuple(f"depth/{depths[i]}" if i in depths else "" for i in good)
    leave_out(NO_IMAGE, [f"rgb/vignette{i:07d}.jpg" for i in lacking], scene)
    leave_out(NO_POSE, [f"rgb/{images[i]}" for i in unposed], scene)
    size = read_image_size(scene / "rgb" / images[good[0]])
    num = len(good)
    return SequenceRecord(
        dataset="aria_synthetic_environments",
        sequence_id=scene.name,
        root=scene,
        image=tuple(f"rgb/{images[i]}" for i in good),
        image_size=np.tile(size, (num, 1)),  # every image of the set has the size of the first
        timestamp=times[good],
        depth=depth if any(depth) else (),
        depth_codec="uint16_mm_ray" if any(depth) else "",
        camera_model=CAMERA_MODEL,
        intrinsics=np.tile(CAMERA.intrinsics(size), (num, 1)),
        distortion=np.tile(CAMERA.parameters[3:], (num, 1)),
        cam_from_world=inverted(CAMERA.world_from_cam(world_from_device[good])),
        pixel_centre="integer",
        quarter_turns=QUARTER_TURNS,
        num_missing=len(times) - num,
        is_metric=True,
        is_synthetic=True,
        licence="Aria Synthetic Environments licence, research only",
        source="Aria Synthetic Environments",
    )
