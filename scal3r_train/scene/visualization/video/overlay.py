"""What is drawn over the points of a video: the path so far, cameras along it, the truth, the input image.

For an observer in the scene, lines are hidden by points before them; from afar they are not.
Shapes: S frames, M true cameras, L lines, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from scal3r_train.scene.scene import Scene
from scal3r_train.scene.visualization.colours import TRUTH, chunk_colours, chunk_of_frame

SUBPIXEL_BITS = 4
FARTHEST_PIXEL = 1e6
NOW_COLOUR = (255, 255, 255)
HIDDEN = 1.15  # times as far away as what is seen there
NUM_FRUSTA = 60  # along the whole path
INSET_SHARE, INSET_MARGIN, INSET_BORDER, INSET_BORDER_GREY = 0.28, 0.02, 2, 230


@dataclass(frozen=True, eq=False)
class Overlay:
    """Lines in the world.

    Attributes:
        centres: [S, 3] of the cameras.
        colours: [S, 3] uint8, by chunk.
        joined: [S - 1] bool, whether frames i and i + 1 are of one piece.
        corners: [S, 4, 3] of every camera's image, in the world.
        truth: [M, 3] true centres; empty without.
        nearest: depth before which nothing is drawn.
    """

    centres: np.ndarray
    colours: np.ndarray
    joined: np.ndarray
    corners: np.ndarray
    truth: np.ndarray
    nearest: float

    @staticmethod
    def of(scene: Scene, truth: np.ndarray, frustum_depth: float, nearest: float) -> Overlay:
        """Return what there is to draw of a scene, with frusta of some depth in world units."""
        world_from_cam, intrinsics = scene.world_from_cam.numpy(), scene.intrinsics.numpy()
        size = np.array([frame.image_hw[::-1] for frame in scene.frames], np.float64)
        unit = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float64)
        flat = (unit * size[:, None] - intrinsics[:, None, :2, 2]) / intrinsics[:, None, [0, 1], [0, 1]]
        rays = frustum_depth * np.concatenate([flat, np.ones((len(size), 4, 1))], -1)
        corners = rays @ world_from_cam[:, :, :3].swapaxes(1, 2) + world_from_cam[:, None, :, 3]
        joined = np.ones(max(len(size) - 1, 0), bool)
        for chunk in scene.info.breaks:
            joined[scene.info.provided_frames[chunk][0] - 1] = False
        colours = chunk_colours(len(scene.info.provided_frames))[chunk_of_frame(scene)]
        return Overlay(world_from_cam[:, :, 3], colours, joined, corners, truth, nearest)

    def draw(
        self,
        image: np.ndarray,
        observer: np.ndarray,
        focal: float,
        now: float,
        *,
        with_camera: bool,
        depth: np.ndarray | None,
    ) -> None:
        """Draw on an image [H, W, 3] what belongs to frames up to `now`; the present camera too `with_camera`.

        Lines behind a depth image [H, W] are left out; None: none is.
        """
        width = max(1, round(image.shape[0] / 360))
        project = _Projection(observer, focal, image.shape[:2], self.nearest, depth)
        last = int(now)
        if len(self.truth):
            project.lines(image, self.truth[:-1], self.truth[1:], np.array([TRUTH]), width)
        joined = np.flatnonzero(self.joined[:last])
        project.lines(image, self.centres[joined], self.centres[joined + 1], self.colours[joined], width + 1)
        if with_camera:
            step = max(1, len(self.centres) // NUM_FRUSTA)
            for frame in range(0, last, step):
                self._frustum(image, project, frame, self.colours[frame], 1)
            self._frustum(image, project, last, np.array(NOW_COLOUR), width + 1)

    def _frustum(
        self, image: np.ndarray, project: _Projection, frame: int, colour: np.ndarray, width: int
    ) -> None:
        corners = self.corners[frame]
        starts = np.concatenate([np.repeat(self.centres[frame][None], 4, 0), corners])
        project.lines(image, starts, np.concatenate([corners, np.roll(corners, -1, 0)]), colour[None], width)


@dataclass(frozen=True, eq=False)
class _Projection:
    """observer_from_world [3, 4], focal length in pixels, size of the picture, least depth, depth of what hides."""

    observer: np.ndarray
    focal: float
    hw: tuple[int, int]
    nearest: float
    depth: np.ndarray | None

    def lines(
        self, image: np.ndarray, starts: np.ndarray, ends: np.ndarray, colours: np.ndarray, width: int
    ) -> None:
        """Draw lines between world points [L, 3], cut off where they come too near; colours [L, 3] or [1, 3]."""
        a, b = (points @ self.observer[:, :3].T + self.observer[:, 3] for points in (starts, ends))
        a, b = self._cut(a, b), self._cut(b, a)
        with np.errstate(divide="ignore", invalid="ignore"):
            pixels = [end[:, :2] / end[:, 2:] * self.focal + np.array(self.hw[::-1]) / 2 for end in (a, b)]
        pair = np.stack(pixels, axis=1)
        shown = (np.stack([a[:, 2], b[:, 2]]) >= self.nearest * 0.999).all(0)
        shown &= (np.abs(pair) < FARTHEST_PIXEL).all((1, 2))
        shown[shown] &= ~self._is_hidden(pair[shown].mean(1), (a[shown, 2] + b[shown, 2]) / 2)
        # cv2 counts from the centre of the first pixel.
        points = np.round((pair - 0.5) * 2**SUBPIXEL_BITS).astype(np.int64)
        colours = np.broadcast_to(colours, (len(starts), 3))
        for number in np.flatnonzero(shown):
            first, second = points[number].tolist()
            colour = tuple(int(value) for value in colours[number])
            cv2.line(image, first, second, colour, width, cv2.LINE_AA, SUBPIXEL_BITS)

    def _is_hidden(self, pixels: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return whether places [L, 2] at depths [L] are clearly behind what is seen; False out of the picture."""
        hidden = np.zeros(len(z), bool)
        if self.depth is not None:
            inside = ((pixels >= 0) & (pixels < self.hw[::-1])).all(1)
            x, y = pixels[inside].astype(int).T
            hidden[inside] = z[inside] > HIDDEN * self.depth[y, x]
        return hidden

    def _cut(self, end: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Return ends [L, 3] moved towards the other ones as far as the least depth asks for, where that helps."""
        crosses = (end[:, 2] < self.nearest) & (other[:, 2] > self.nearest)
        share = np.where(
            crosses, (self.nearest - end[:, 2]) / np.where(crosses, other[:, 2] - end[:, 2], 1), 0
        )
        return end + share[:, None] * (other - end)


def put_inset(image: np.ndarray, picture: np.ndarray) -> None:
    """Put a picture into the lower right corner of an image [H, W, 3], with a light border."""
    height, width = image.shape[:2]
    scale = min(INSET_SHARE * width / picture.shape[1], INSET_SHARE * height / picture.shape[0])
    size = (max(1, round(scale * picture.shape[1])), max(1, round(scale * picture.shape[0])))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    bordered = np.pad(small, [(INSET_BORDER, INSET_BORDER)] * 2 + [(0, 0)], constant_values=INSET_BORDER_GREY)
    bottom = right = max(1, round(INSET_MARGIN * min(height, width)))
    image[-bottom - bordered.shape[0] : -bottom, -right - bordered.shape[1] : -right] = bordered
