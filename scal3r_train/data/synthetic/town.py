"""Procedural towns: exact images, z-depth, intrinsics and poses of a camera that drives through a street.

`render_town(settings, n)` depends on (settings.seed, n) and the other settings only; nothing is read or written.
Shapes: S frames, H W pixels. World: right-handed, metres, z up; camera: OpenCV (x right, y down, z forward).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from scal3r_train.data.camera.resize import PixelMap
from scal3r_train.data.sequence import Frames
from scal3r_train.data.synthetic.layout import Town, make_town
from scal3r_train.data.synthetic.path import TownPath, make_path, smooth_noise
from scal3r_train.data.synthetic.render import Air, CameraRays, RayHits, cast_rays, shade
from scal3r_train.data.synthetic.settings import TownSettings, draw_blackouts

__all__ = ["TownDrive", "TownSettings", "render_town"]

MAX_ROTATION_PX = 6.0
FRAMES_PER_SECOND = 10.0


class TownDrive:
    """One sequence before rendering: the town, the camera's intrinsics and poses, fog and black-outs.

    town, path, air: what is there; focal: fx = fy in pixels, principal point at the image centre;
    extrinsics [S, 3, 4] float64 cam_from_world; is_hidden [S] bool: frames of a black-out.
    """

    def __init__(self, settings: TownSettings, sequence_number: int) -> None:
        rng = np.random.default_rng((settings.seed, sequence_number))
        self.settings = settings
        fov = np.deg2rad(rng.uniform(settings.min_fov_deg, settings.max_fov_deg))
        self.focal = float(settings.width / 2 / np.tan(fov / 2))
        # rotation moves the whole image by focal * angle: bound it in pixels of a 84 pixels wide image as well
        max_yaw = min(np.deg2rad(settings.max_yaw_deg), MAX_ROTATION_PX / 84 * settings.width / self.focal)
        self.path: TownPath = make_path(rng, settings, max_yaw)
        self.extrinsics = _camera_poses(rng, settings, self.path)
        self.town: Town = make_town(rng, self.path)
        self.air = _make_air(rng, settings)
        self.is_hidden = draw_blackouts(rng, settings)
        self._rays = CameraRays.quincunx(self.focal, settings.height, settings.width)

    def render(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Per frame: image [H, W, 3] uint8 and z-depth [H, W] float32 in metres, 0 for sky and beyond max_depth_m."""
        fog_m = self.settings.blackout_fog_m
        fog = None if fog_m is None else replace(self.air, fog_m=fog_m, sky_through_fog=0.0)
        for extrinsics, is_hidden in zip(self.extrinsics, self.is_hidden, strict=True):
            directions = self._rays.world_directions(extrinsics[:, :3].T)
            depth, surface = cast_rays(self.town, self._rays, extrinsics, directions)
            centre = np.where(depth[0] <= self.settings.max_depth_m, depth[0], np.float32(0))
            if is_hidden and fog is None:
                yield np.zeros((*centre.shape, 3), np.uint8), centre
                continue
            camera = -extrinsics[:, :3].T @ extrinsics[:, 3]
            # The centre sample is for the depth alone.
            quarters = RayHits(directions[:, 1:], depth[1:], surface[1:])
            air = fog if is_hidden and fog is not None else self.air
            image = shade(self.town, air, self.focal, camera, quarters)
            yield (image * 255 + 0.5).astype(np.uint8), centre

    @property
    def intrinsics(self) -> np.ndarray:
        """fx, fy, cx, cy [4] float64 in pixels, centres at half integers; the same for all frames."""
        return np.array([self.focal, self.focal, self.settings.width / 2, self.settings.height / 2])


def render_town(settings: TownSettings, sequence_number: int) -> Frames:
    """All frames of one town sequence in memory, images rounded to 8 bits as they are on disk."""
    drive = TownDrive(settings, sequence_number)
    images, depths = zip(*drive.render(), strict=True)
    num = settings.num_frames
    fx, fy, cx, cy = drive.intrinsics
    intrinsics = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
    return Frames(
        images=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous().float() / 255,
        intrinsics=intrinsics.repeat(num, 1, 1),
        extrinsics=torch.from_numpy(drive.extrinsics),
        depth=torch.from_numpy(np.stack(depths)),
        frame_indices=torch.arange(num),
        timestamps=torch.arange(num, dtype=torch.float64) / FRAMES_PER_SECOND,
        pixel_map=PixelMap.identity(num, settings.height, settings.width),
    )


def _camera_poses(rng: np.random.Generator, settings: TownSettings, path: TownPath) -> np.ndarray:
    """cam_from_world [S, 3, 4]: along the path at a near constant height, with slow gaze, pitch and roll."""
    num = settings.num_frames
    xy, heading = path.frame_pose()
    height = rng.uniform(settings.min_camera_height_m, settings.max_camera_height_m)
    z = height + 0.04 * smooth_noise(rng, num, 20, 60)
    wobble = np.deg2rad(settings.wobble_deg)
    yaw = heading + 2 * wobble * smooth_noise(rng, num, 60, 150)
    pitch = np.deg2rad(rng.uniform(-2, 4)) + wobble * smooth_noise(rng, num, 40, 120)
    roll = wobble * smooth_noise(rng, num, 40, 120)
    zero, one = np.zeros(num), np.ones(num)
    right = np.stack([np.sin(yaw), -np.cos(yaw), zero], -1)
    down = np.stack([zero, zero, -one], -1)
    forward = np.stack([np.cos(yaw), np.sin(yaw), zero], -1)
    # pitch turns forward towards down about the camera's x axis, then roll turns x towards y about its z axis
    cos, sin = np.cos(pitch)[:, None], np.sin(pitch)[:, None]
    forward, down = cos * forward + sin * down, cos * down - sin * forward
    cos, sin = np.cos(roll)[:, None], np.sin(roll)[:, None]
    right, down = cos * right + sin * down, cos * down - sin * right
    rotation = np.stack([right, down, forward], 1)
    position = np.concatenate([xy, z[:, None]], -1)
    return np.concatenate([rotation, -(rotation @ position[..., None])], -1)


def _make_air(rng: np.random.Generator, settings: TownSettings) -> Air:
    horizon = np.array([0.80, 0.84, 0.88]) * rng.uniform(0.8, 1.05)
    zenith = np.array([0.35, 0.52, 0.78]) * rng.uniform(0.7, 1.1)
    fog_m = rng.uniform(15, 50)
    is_foggy = rng.random() < settings.fog_share
    return Air(horizon, zenith, float(rng.uniform(0, 20)), float(fog_m) if is_foggy else float("inf"))
