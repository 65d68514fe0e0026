"""What the viewer draws of cameras: frusta, trajectory, loops, ground truth.

Shapes: H W pixels, L lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import roma
import torch

from scal3r_train.scene.visualization.colours import ACCEPTED, REJECTED, TRUTH
from scal3r_train.scene.visualization.controls import Controls
from scal3r_train.scene.visualization.viewed_scene import EXTENT, ViewedScene

if TYPE_CHECKING:
    from viser import CameraFrustumHandle, SceneApi

THUMBNAIL_SIDE = 128
MAX_FRUSTA = 400
FRUSTUM_STEPS = 3.0  # length of a frustum in steps between cameras
SMALLEST_FRUSTUM, LARGEST_FRUSTUM = EXTENT / 80, EXTENT / 20
GAMMA = 2.2
LINE_WIDTH, THIN = 3.0, 2.0


def draw_cameras(scene: SceneApi, shown: ViewedScene, controls: Controls) -> None:
    """Draw everything but the points, anew."""
    scene.remove_by_name("/cameras")
    first, last = controls.chunks.value
    chosen = (shown.chunk_of_frame >= first) & (shown.chunk_of_frame <= last)
    if controls.path.value:
        starts, colours = trajectory_lines(shown, chosen)
        _lines(scene, "/cameras/trajectory", starts, colours, LINE_WIDTH)
    if controls.loops.value:
        _lines(scene, "/cameras/loops", *loop_lines(shown), THIN)
    if controls.truth.value and shown.truth is not None:
        places = shown.true_world_from_cam[:, :, 3]
        lines = np.stack([places[:-1], places[1:]], axis=1)
        colours = np.broadcast_to(np.array(TRUTH, np.uint8), lines.shape)
        _lines(scene, "/cameras/truth", lines, colours, THIN)
    if controls.frusta.value:
        numbers = np.flatnonzero(chosen)[:: int(controls.every.value)]
        for number in numbers[:: max(1, -(-len(numbers) // MAX_FRUSTA))].tolist():
            image = shown.images.of(number, THUMBNAIL_SIDE) if controls.thumbnails.value else None
            colour = tuple(shown.chunk_colours[shown.chunk_of_frame[number]].tolist())
            frustum = Frustum(number, colour, controls.frustum_size.value, image)
            draw_frustum(scene, f"/cameras/frusta/{number}", shown, frustum)


@dataclass(frozen=True, eq=False)
class Frustum:
    """How the camera of a frame is drawn.

    Attributes:
        frame: its number.
        colour: RGB.
        size: relative to the usual one.
        image: [H, W, 3] uint8 shown in it; None for none.
    """

    frame: int
    colour: tuple[int, int, int]
    size: float
    image: np.ndarray | None


def draw_frustum(scene: SceneApi, name: str, shown: ViewedScene, frustum: Frustum) -> CameraFrustumHandle:
    """Draw the camera of one frame under a name."""
    height, width = shown.scene.frames[frustum.frame].image_hw
    wxyz, position = pose_of(shown.world_from_cam[frustum.frame])
    return scene.add_camera_frustum(
        name,
        fov=vertical_fov(shown, frustum.frame),
        aspect=width / height,
        scale=frustum.size * min(max(FRUSTUM_STEPS * shown.step, SMALLEST_FRUSTUM), LARGEST_FRUSTUM),
        thickness=1.5,
        thickness_units="screen",
        color=frustum.colour,
        image=frustum.image,
        wxyz=wxyz,
        position=position,
    )


def vertical_fov(shown: ViewedScene, frame: int) -> float:
    """Return the vertical field of view of a frame in radians."""
    return float(
        2 * np.arctan2(shown.scene.frames[frame].image_hw[0] / 2, float(shown.scene.intrinsics[frame, 1, 1]))
    )


def pose_of(world_from_cam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return quaternion wxyz [4] and position [3] of a pose [3, 4]."""
    quaternion_xyzw = roma.rotmat_to_unitquat(torch.from_numpy(world_from_cam[:, :3].copy()))
    return roma.quat_xyzw_to_wxyz(quaternion_xyzw).numpy(), world_from_cam[:, 3].copy()


def trajectory_lines(shown: ViewedScene, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return lines [L, 2, 3] between consecutive chosen frames and their colours [L, 2, 3] uint8; tears are gaps."""
    places = shown.world_from_cam[:, :, 3]
    keep = chosen[:-1] & chosen[1:]
    for number in shown.scene.info.breaks:
        start = shown.scene.info.provided_frames[number][0]
        keep[start - 1] = False
    first = np.flatnonzero(keep)
    colours = shown.chunk_colours[shown.chunk_of_frame]
    return (
        np.stack([places[first], places[first + 1]], axis=1),
        np.stack([colours[first], colours[first + 1]], axis=1),
    )


def loop_lines(shown: ViewedScene) -> tuple[np.ndarray, np.ndarray]:
    """Return a line [L, 2, 3] for every loop and its colours [L, 2, 3] uint8."""
    places, ends, colours = shown.world_from_cam[:, :, 3], [], []
    for loop in shown.scene.info.loops:
        frames = [frame for frame in loop.get("frames", ()) if 0 <= frame < len(places)]
        if len(frames) == 2:
            ends.append(places[frames])
            colours.append(ACCEPTED if loop.get("accepted") else REJECTED)
    lines = np.array(ends, np.float64).reshape(-1, 2, 3)
    return lines, np.repeat(np.array(colours, np.uint8).reshape(-1, 1, 3), 2, axis=1)


def _lines(scene: SceneApi, name: str, lines: np.ndarray, colours: np.ndarray, width: float) -> None:
    if len(lines):
        # viser takes the colours of lines for light, not for sRGB as it does elsewhere, and would show them pale.
        colours = np.round(255 * (colours / 255) ** GAMMA).astype(np.uint8)
        scene.add_line_segments(
            name, lines.astype(np.float32), colours, thickness=width, thickness_units="screen"
        )
