"""A scene as the viewer shows it: z up, around the origin, about as large as its own grid; and all of its colours.

Shapes: S frames, N points, K chunks.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from scal3r_train.geometry.camera import invert_extrinsics
from scal3r_train.geometry.drawing import View
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.scene.folder import INFO_NAME
from scal3r_train.scene.scene import Scene, load_scene
from scal3r_train.scene.visualization.colours import (
    chunk_colours,
    chunk_of_frame,
    confidence_colours,
    frame_of_point,
)
from scal3r_train.scene.visualization.ground_truth import GroundTruth, load_ground_truth
from scal3r_train.scene.visualization.level_of_detail import PointLevels
from scal3r_train.scene.visualization.thumbnails import Thumbnails

EXTENT = 10.0  # of the shown scene, whatever its units: cameras of viewers assume scenes of about this size
KEPT = (0.02, 0.98)
COLOURS = ("image", "confidence", "chunk", "height")


@dataclass(frozen=True, eq=False)
class ViewedScene:
    """Everything that the viewer draws, in shown coordinates.

    Attributes:
        scene: what was read; its points are not kept a second time.
        stamp: tells this state of the folder from a later one.
        shown_from_world: the similarity between the scene's world and what is shown.
        levels: the points.
        world_from_cam: [S, 3, 4] float64 cameras.
        chunk_of_frame: [S] int32.
        chunk_colours: [K, 3] uint8.
        truth: the true cameras; None where not given.
        true_world_from_cam: [M, 3, 4] float64, those of `truth`; empty without.
        images: small versions of the input images.
    """

    scene: Scene
    stamp: tuple[int, int]
    shown_from_world: Sim3
    levels: PointLevels
    world_from_cam: np.ndarray
    chunk_of_frame: np.ndarray
    chunk_colours: np.ndarray
    truth: GroundTruth | None
    true_world_from_cam: np.ndarray
    images: Thumbnails

    @staticmethod
    def load(folder: Path, truth: str | None = None, max_points: int | None = None) -> ViewedScene:
        """Read a scene folder, with at most `max_points` of its points, drawn evenly.

        Raises:
            UserError: it is no scene folder or damaged, or the truth cannot be used.
        """
        stamp = stamp_of(folder)
        scene = load_scene(folder)
        true = None if truth is None else load_ground_truth(truth, scene)
        shown_from_world = _shown_from_world(scene)
        cameras = shown_from_world.apply_to_world_from_cam(scene.world_from_cam).numpy()
        moved = torch.zeros(0, 3, 4) if true is None else true.world_from_cam
        chosen = _drawn(len(scene.positions), max_points)
        levels = PointLevels.build(
            _moved(shown_from_world, scene.positions[chosen]),
            scene.colours[chosen],
            scene.confidence[chosen],
            frame_of_point(scene)[chosen],
            scene.info.voxel_size * float(shown_from_world.scale),
        )
        return ViewedScene(
            scene=_without_points(scene),
            stamp=stamp,
            shown_from_world=shown_from_world,
            levels=levels,
            world_from_cam=cameras,
            chunk_of_frame=chunk_of_frame(scene),
            chunk_colours=chunk_colours(len(scene.info.provided_frames)),
            truth=true,
            true_world_from_cam=shown_from_world.apply_to_world_from_cam(moved).numpy(),
            images=Thumbnails(scene),
        )

    @property
    def step(self) -> float:
        """About how far consecutive cameras are apart, never 0."""
        steps = np.linalg.norm(np.diff(self.world_from_cam[:, :, 3], axis=0), axis=-1)
        return max(float(np.median(steps)) if len(steps) else 0.0, EXTENT / 5000)

    @property
    def knows_frames(self) -> bool:
        """Whether it is known which frame saw each point."""
        return bool(len(self.levels)) and bool((self.levels.frame[:1] >= 0).all())

    def point_colours(self, index: np.ndarray, kind: str) -> np.ndarray:
        """Return [n, 3] uint8 colours of some points; `kind` is one of COLOURS."""
        if kind == "chunk" and self.knows_frames:
            return self.chunk_colours[self.chunk_of_frame[self.levels.frame[index]]]
        if kind == "confidence":
            return confidence_colours(self.levels.confidence[index])
        if kind == "height":
            return confidence_colours(self.levels.positions[index, 2])
        return self.levels.colours[index]


def stamp_of(folder: Path) -> tuple[int, int]:
    """Return what changes when the scene of a folder is written again; zeros where there is none."""
    try:
        status = os.stat(folder / INFO_NAME)
    except OSError:
        return (0, 0)
    return status.st_ino, status.st_mtime_ns


def _shown_from_world(scene: Scene) -> Sim3:
    """Return the similarity that puts what the cameras see around the origin, z up, EXTENT large."""
    view = View.of(invert_extrinsics(scene.world_from_cam).numpy())
    axes = np.concatenate([view.axes, view.up[None]])
    some = scene.positions[:: max(1, len(scene.positions) // 200_000)].astype(np.float64)
    places = scene.world_from_cam[:, :, 3].numpy()
    some = some[np.isfinite(some).all(-1)]
    corners = np.concatenate([places, np.quantile(some, KEPT, axis=0)]) if len(some) else places
    local = corners @ axes.T
    low, high = local.min(0), local.max(0)
    scale = EXTENT / max(float((high - low).max()), 1e-12)
    rotation = torch.from_numpy(axes).double()
    return Sim3(torch.tensor(scale).double(), rotation, torch.from_numpy(-scale * (low + high) / 2))


def _moved(shown_from_world: Sim3, positions: np.ndarray) -> np.ndarray:
    """Return [N, 3] float32, in blocks, since the way leads over float64."""
    result = np.empty_like(positions)
    for start in range(0, len(positions), 1 << 20):
        block = torch.from_numpy(positions[start : start + (1 << 20)])
        result[start : start + (1 << 20)] = shown_from_world.apply(block).float().numpy()
    return result


def _drawn(num_points: int, max_points: int | None) -> np.ndarray | slice:
    if max_points is None or num_points <= max_points:
        return slice(None)
    return np.sort(np.random.default_rng(0).choice(num_points, max_points, replace=False))


def _without_points(scene: Scene) -> Scene:
    nothing = np.empty((0, 3), np.float32)
    return Scene(
        info=scene.info,
        frames=scene.frames,
        timestamps=scene.timestamps,
        world_from_cam=scene.world_from_cam,
        intrinsics=scene.intrinsics,
        positions=nothing,
        colours=nothing.astype(np.uint8),
        confidence=nothing[:, 0],
    )
