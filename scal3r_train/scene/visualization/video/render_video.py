"""`scal3r render`: a scene as a video, with its points, path and cameras.

Points appear with the frames that saw them. Shapes: S frames of the scene, V of the video, N points, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from scal3r_train.config import UserError, atomic_output, validate_mapping
from scal3r_train.geometry.camera import invert_extrinsics
from scal3r_train.geometry.drawing import View
from scal3r_train.notes import answer, tell
from scal3r_train.parallel.claimed_output import claimed
from scal3r_train.scene.scene import Scene, load_scene
from scal3r_train.scene.visualization.colours import (
    chunk_colours,
    chunk_of_frame,
    confidence_colours,
    frame_of_point,
)
from scal3r_train.scene.visualization.ground_truth import load_ground_truth
from scal3r_train.scene.visualization.thumbnails import Thumbnails
from scal3r_train.scene.visualization.video.observer_paths import (
    ObserverPath,
    Seen,
    observer_path,
    typical_depth,
)
from scal3r_train.scene.visualization.video.options import RenderOptions
from scal3r_train.scene.visualization.video.overlay import Overlay, put_inset
from scal3r_train.scene.visualization.video.splatting import Splatter
from scal3r_train.scene.visualization.video.video_file import refuse_format, video_file
from scal3r_train.shown_progress import ShownWork

SHORTEST_S, LONGEST_S = 6.0, 60.0
NEAREST, FRUSTUM_DEPTH = 0.05, 0.12  # of the typical depth
SMALLEST_FRUSTUM = 0.02  # of the video's height, as they are seen
# How far points are apart is measured at some places, of a size in typical depths.
NUM_PLACES, PLACE_SIZE, NUM_NEIGHBOURS, MOST_TRIED = 12, 0.3, 3, 5000
FROM_AFAR = ("orbit", "top")
BACKGROUNDS = {"dark": ((14, 17, 23), (30, 36, 48)), "light": ((246, 247, 249), (222, 227, 234))}


def main(folder: Path, output: Path, options: Mapping[str, Any]) -> int:
    """Render a scene folder and return 0; prints what was written, and on stderr how far it is.

    Args:
        folder: the scene.
        output: the video; the suffix chooses the format.
        options: fields of `RenderOptions`.

    Raises:
        UserError: options, scene, truth or output cannot be used, or the file cannot be written.
    """
    chosen = validate_mapping(RenderOptions, options, "render")
    refuse_format(output, chosen.hw, chosen.fps)
    if output.is_file() and not chosen.overwrite:
        raise UserError(f"output {output} exists; add --overwrite")
    scene = load_scene(folder)
    with claimed(output, "output", is_folder=False):
        film = Film.of(scene, chosen)
        with (
            atomic_output(output) as temporary,
            video_file(temporary, chosen.fps, chosen.hw) as file,
            ShownWork("render", film.num_frames) as shown,
        ):
            for number in range(film.num_frames):
                file.add(film.frame(number))
                shown.reach(number + 1)
    answer(f"{output}: {film.num_frames} frames, {film.num_points} points")
    tell(*film.notes)
    return 0


@dataclass(frozen=True, eq=False)
class Film:
    """A video to be drawn.

    Attributes:
        num_frames: V.
        num_points: N.
        path: the observer.
        notes: what the user should know, added to while drawing.
    """

    num_frames: int
    num_points: int
    path: ObserverPath
    notes: list[str]
    _options: RenderOptions
    _cloud: Splatter
    _counts: np.ndarray  # [S] points that are there once a frame has passed
    _overlay: Overlay
    _images: Thumbnails | None

    @staticmethod
    def of(scene: Scene, options: RenderOptions) -> Film:
        """Prepare everything that does not change from frame to frame; raises UserError for an unusable truth."""
        truth = np.zeros((0, 3))
        if options.truth is not None:
            truth = load_ground_truth(options.truth, scene).world_from_cam.numpy()[:, :, 3]
        world_from_cam = scene.world_from_cam.numpy()
        index, frame = _drawn_points(scene, options)
        positions = scene.positions[index]
        view = View.of(invert_extrinsics(scene.world_from_cam).numpy())
        depth = typical_depth(world_from_cam, positions, frame)
        length = len(scene.frames) / options.fps
        seconds = options.seconds or float(np.clip(length, SHORTEST_S, LONGEST_S))
        num_frames = max(1, round(seconds * options.fps))
        some = positions[:: max(1, len(positions) // 100_000)].astype(np.float64)
        seen = Seen(world_from_cam, view, depth, some)
        path = observer_path(options.path, seen, num_frames, options.fps, options.hw)
        knows_frames = bool(len(frame)) and frame[0] >= 0 and not options.whole
        counts = np.searchsorted(frame, np.arange(len(scene.frames)), side="right")
        if not knows_frames:
            counts = np.full(len(scene.frames), len(index))
        spacing = options.point_size * _spacing(positions, depth)
        far = options.path in ("orbit", "top")
        frustum = FRUSTUM_DEPTH * depth
        if far:
            frustum = _frustum_depth(path, world_from_cam, depth, options.hw[0])
        return Film(
            num_frames,
            len(index),
            path,
            [],
            options,
            Splatter(positions, _colours(scene, index, frame, view, options.colours), spacing),
            counts,
            Overlay.of(scene, truth, frustum, NEAREST * depth),
            Thumbnails(scene) if options.inset else None,
        )

    def frame(self, number: int) -> np.ndarray:
        """Return frame `number` [H, W, 3] uint8."""
        observer, now = self.path.observer_from_world[number], float(self.path.now[number])
        background = _background(self._options.background, self._options.hw)
        num_shown = int(self._counts[int(now)])
        image, depth = self._cloud.draw(
            observer, self.path.focal, num_shown, background, self._overlay.nearest
        )
        in_camera, is_far = self._options.path == "follow", self._options.path in FROM_AFAR
        self._overlay.draw(
            image,
            observer,
            self.path.focal,
            now,
            with_camera=not in_camera,
            depth=None if is_far else depth,
        )
        self._put_image(image, int(now))
        return image

    def _put_image(self, image: np.ndarray, frame: int) -> None:
        if self._images is None:
            return
        picture = self._images.of(frame, max(self._options.hw))
        if picture is not None:
            put_inset(image, picture)
        elif not self.notes:
            self.notes.append(
                f"the input image of frame {frame} is not to be had: the inset is missing there"
            )


def _drawn_points(scene: Scene, options: RenderOptions) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the points that are drawn, ascending, and the frames that saw them (-1: unknown)."""
    keep = np.isfinite(scene.positions).all(-1)
    if options.hide_doubtful and keep.any():
        keep &= scene.confidence >= np.quantile(scene.confidence[keep], options.hide_doubtful / 100)
    index = np.flatnonzero(keep)
    if len(index) > options.max_points:
        index = index[np.linspace(0, len(index) - 1, options.max_points).astype(np.int64)]
    return index, frame_of_point(scene)[index]


def _colours(scene: Scene, index: np.ndarray, frame: np.ndarray, view: View, kind: str) -> np.ndarray:
    if kind == "confidence":
        return confidence_colours(scene.confidence[index])
    if kind == "height":
        return confidence_colours(view.heights(scene.positions[index].astype(np.float64)))
    if kind == "chunk" and len(frame) and frame[0] >= 0:
        return chunk_colours(len(scene.info.provided_frames))[chunk_of_frame(scene)[frame]]
    return scene.colours[index]


def _spacing(positions: np.ndarray, depth: float) -> float:
    """Return about how far points [N, 3] are from the nearest others: the median at some places."""
    found = []
    for place in (
        positions[np.linspace(0, len(positions) - 1, NUM_PLACES).astype(int)] if len(positions) else ()
    ):
        near = np.flatnonzero((np.abs(positions - place) < PLACE_SIZE * depth).all(-1))
        if len(near) > NUM_NEIGHBOURS:
            points = positions[near]
            tried = points[:: max(1, len(points) // MOST_TRIED)]
            found.append(np.median(cKDTree(points).query(tried, k=NUM_NEIGHBOURS + 1)[0][:, -1]))
    return float(np.median(found)) if found else 0.0


def _frustum_depth(path: ObserverPath, world_from_cam: np.ndarray, depth: float, height: int) -> float:
    """Return how deep cameras are drawn: a share of what they see, but large enough to be seen from afar."""
    observer = path.observer_from_world[0]
    away = np.linalg.norm(world_from_cam[:, :, 3] @ observer[:, :3].T + observer[:, 3], axis=1)
    return max(FRUSTUM_DEPTH * depth, SMALLEST_FRUSTUM * height / path.focal * float(np.median(away)))


def _background(kind: str, hw: tuple[int, int]) -> np.ndarray:
    """Return a plain gradient [H, W, 3] from top to bottom."""
    top, bottom = (np.array(colour, np.float64) for colour in BACKGROUNDS[kind])
    share = np.linspace(0, 1, hw[0])[:, None, None]
    return np.broadcast_to(np.round(top + share * (bottom - top)), (*hw, 3)).astype(np.uint8)
